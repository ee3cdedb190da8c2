package oss

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// Codes that are more than a text.
const (
	codeNoSuchKey  = "NoSuchKey"
	codeExists     = "FileAlreadyExists"
	codeSkewed     = "RequestTimeTooSkewed"
	codeBadDigest  = "InvalidDigest" // content that does not have its checksum
	codeUploadGone = "NoSuchUpload"
)

// hints tell what to change where no retry heals, by the service's code.
var hints = map[string]string{
	"NoSuchBucket":          "create the bucket, or correct its name, region and endpoint",
	"InvalidBucketName":     "correct the bucket's name",
	"InvalidObjectName":     "set path to one that does not begin with a slash",
	"AccessDenied":          "allow these credentials to list, get, put and delete objects in the bucket, and check region and endpoint",
	"InvalidAccessKeyId":    "correct access-key-id",
	"SignatureDoesNotMatch": "correct secret-access-key",
	"InvalidSecurityToken":  "correct OSS_SESSION_TOKEN",
	"UserDisable":           "ask Alibaba Cloud about the account",
	"InvalidArgument":       "the service refuses this kind of request: check region and endpoint",
	"MalformedXML":          "the endpoint does not speak the protocol of OSS",
	"MethodNotAllowed":      "the endpoint does not speak the protocol of OSS",
	"NotImplemented":        "the endpoint does not speak the protocol of OSS",
	"FileImmutable":         "shorten the bucket's retention policy, or set retention.enabled to false",
	"InvalidObjectState":    "the object is archived: restore it, and keep the bucket's lifecycle rules away from it",
	"KmsServiceNotEnabled":  "enable KMS, or correct the encryption of the bucket",
}

const (
	hintDenied      = "check the credentials and what they are allowed to do"
	hintCredentials = "set access-key-id and secret-access-key, or OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, or run on a machine with a RAM role"
	hintToken       = "get new temporary credentials into OSS_SESSION_TOKEN and restart"
)

// endedKeys are the answers to temporary keys that have ended.
var endedKeys = map[string]bool{"SecurityTokenExpired": true, "InvalidSecurityToken": true, "InvalidAccessKeyId": true}

// passingCodes are answers below 500 that a retry may heal.
var passingCodes = map[string]bool{
	codeSkewed:                         true, // the clock is corrected by the answer
	"SecurityTokenExpired":             true,
	"QpsLimitExceeded":                 true,
	"TotalQpsLimitExceeded":            true,
	"UploadTrafficRateLimitExceeded":   true,
	"DownloadTrafficRateLimitExceeded": true,
	"RequestTimeout":                   true,
}

// errorCode returns the service's code of an error, or what comes next to it.
func errorCode(err error) string {
	if api, ok := errors.AsType[*apiError](err); ok {
		return api.name()
	}
	return blob.ContextCode(err)
}

// isTemporary reports whether the same request may succeed in a moment.
func isTemporary(err error) bool {
	var (
		api   *apiError
		creds *credentialsError
	)
	switch {
	case errors.As(err, &api):
		return api.status == http.StatusRequestTimeout || api.status == http.StatusTooManyRequests ||
			api.status >= 500 && api.status != http.StatusNotImplemented ||
			passingCodes[api.code] && api.code != "SecurityTokenExpired"
	case errors.As(err, &creds):
		return !creds.missing
	default:
		permanent, _ := blob.JudgeTransport(err)
		return !permanent
	}
}

// isCorrupted reports whether content was changed on its way to the service.
func isCorrupted(err error) bool {
	api, ok := errors.AsType[*apiError](err)
	return ok && api.status == http.StatusBadRequest && (api.code == codeBadDigest || api.code == "BadDigest")
}

// isMissing reports whether an answer says that there is no such object, rather
// than no such bucket.
func (e *apiError) isMissing() bool {
	return e.code == codeNoSuchKey || e.code == "" && e.status == http.StatusNotFound
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
	re := &litestream.ReplicaError{Type: ReplicaClientType, Op: op, Bucket: c.Bucket, Key: key, Code: errorCode(err), Err: err}
	var (
		api   *apiError
		creds *credentialsError
	)
	switch {
	case errors.As(err, &api):
		judgeAnswer(re, api)
	case errors.As(err, &creds):
		re.Hint = hintCredentials
	default:
		re.Permanent, re.Hint = blob.JudgeTransport(err)
	}
	return re
}

func judgeAnswer(re *litestream.ReplicaError, api *apiError) {
	switch {
	case api.isMissing() && re.Op != "list":
		re.Err = fmt.Errorf("%w: %w", fs.ErrNotExist, re.Err)
	case api.code == codeExists, api.status == http.StatusPreconditionFailed:
		re.Err = fmt.Errorf("%w: %w", fs.ErrExist, re.Err)
	case api.code == "SecurityTokenExpired":
		re.Hint = hintToken
	case passingCodes[api.code], isCorrupted(api), api.code == codeUploadGone:
	case hints[api.code] != "":
		re.Permanent, re.Hint = true, hints[api.code]
	case api.status == http.StatusUnauthorized, api.status == http.StatusForbidden:
		re.Permanent, re.Hint = true, hintDenied
	case api.status/100 == 3:
		re.Permanent, re.Hint = true, "set region and endpoint to where the bucket lies"
	}
}
