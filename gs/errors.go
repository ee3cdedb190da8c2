package gs

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// hints tell what to change where no retry heals, by the service's code.
var hints = map[string]string{
	"forbidden":             "allow these credentials to list, get, create and delete objects in the bucket (role Storage Object User)",
	"required":              "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run where Google hands out credentials",
	"authError":             "check the credentials that GOOGLE_APPLICATION_CREDENTIALS names",
	"accountDisabled":       "ask Google about the account",
	"billingNotEnabled":     "enable billing of the bucket's project",
	"userProjectMissing":    "turn off requester pays of the bucket",
	"retentionPolicyNotMet": "shorten the bucket's retention policy, or set retention.enabled to false",
	"objectUnderActiveHold": "release the hold of the object",
}

const (
	hintBucket      = "create the bucket, or correct its name"
	hintDenied      = "check the credentials and what they are allowed to do"
	hintCredentials = "set GOOGLE_APPLICATION_CREDENTIALS to a key file, run `gcloud auth application-default login`, or run where Google hands out credentials"
)

// errorCode returns the service's code of an error, or what comes next to it.
func errorCode(err error) string {
	var (
		api   *apiError
		creds *credentialsError
	)
	switch {
	case errors.As(err, &api):
		return api.code()
	case errors.As(err, &creds):
		return creds.code()
	}
	return blob.ContextCode(err)
}

// wrap is fail for an error that may have been through it already.
func (c *ReplicaClient) wrap(op, key string, err error) error {
	if _, ok := errors.AsType[*litestream.ReplicaError](err); ok {
		return err
	}
	return c.fail(op, key, err)
}

// fail names operation, bucket, key and the service's code, and judges whether
// a retry can help.
func (c *ReplicaClient) fail(op, key string, err error) error {
	re := &litestream.ReplicaError{
		Type:   ReplicaClientType,
		Op:     op,
		Bucket: c.Bucket,
		Key:    key,
		Code:   errorCode(err),
		Err:    err,
	}
	var (
		api   *apiError
		creds *credentialsError
	)
	switch {
	case errors.As(err, &api):
		judgeAnswer(re, api)
	case errors.As(err, &creds):
		re.Permanent, re.Hint = creds.permanent(), hintCredentials
	default:
		re.Permanent, re.Hint = blob.JudgeTransport(err)
	}
	return re
}

func judgeAnswer(re *litestream.ReplicaError, api *apiError) {
	switch api.status {
	case http.StatusNotFound:
		// The code is the same for a missing object and a missing bucket.
		if re.Op == "list" || strings.Contains(strings.ToLower(api.message), "bucket does not exist") {
			re.Permanent, re.Hint = true, hintBucket
			return
		}
		re.Err = fmt.Errorf("%w: %w", fs.ErrNotExist, re.Err)
	case http.StatusPreconditionFailed:
		re.Err = fmt.Errorf("%w: %w", fs.ErrExist, re.Err)
	case http.StatusUnauthorized, http.StatusForbidden:
		if re.Permanent = !passingReasons[api.reason]; re.Permanent {
			if re.Hint = hints[api.reason]; re.Hint == "" {
				re.Hint = hintDenied
			}
		}
	case http.StatusBadRequest:
		if isCorrupted(api) {
			return
		}
		re.Permanent, re.Hint = true, "the service refuses this kind of request: check the bucket's name and settings"
	case http.StatusNotImplemented, http.StatusMethodNotAllowed:
		re.Permanent, re.Hint = true, "the endpoint does not speak the JSON API of Google Cloud Storage"
	}
}

// isMissing reports whether an object that was to be deleted is gone already.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
