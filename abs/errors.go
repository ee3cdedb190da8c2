package abs

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// permanentCodes are answers that no retry heals, with what to change.
var permanentCodes = map[string]string{
	"ContainerNotFound":                        "create the container, or correct its name and the account's",
	"ContainerDisabled":                        "enable the container",
	"AccountIsDisabled":                        "enable the storage account",
	"ResourceNotFound":                         "correct account-name, endpoint and the container's name",
	"InvalidResourceName":                      "correct the container's name",
	"InvalidUri":                               "correct endpoint, container and path",
	"OutOfRangeInput":                          "correct the container's name",
	"AuthenticationFailed":                     "correct account-name and account-key, or sas-token, which may have expired; check this machine's clock",
	"InvalidAuthenticationInfo":                "correct account-name and account-key, or sas-token; check that the credentials belong to the account's tenant",
	"NoAuthenticationInformation":              "set account-key or sas-token, or the Azure environment",
	"KeyBasedAuthenticationNotPermitted":       "allow access by key for the account, or leave account-key out to use an Azure identity",
	"AuthorizationFailure":                     "let the account's firewall admit this machine, and allow these credentials to read, list, write and delete blobs",
	"AuthorizationPermissionMismatch":          "allow these credentials to read, list, create, write and delete (role Storage Blob Data Contributor, or sp=rcwdl of a SAS)",
	"AuthorizationResourceTypeMismatch":        "allow the SAS token containers and objects (srt=co)",
	"AuthorizationServiceMismatch":             "allow the SAS token the blob service (ss=b)",
	"AuthorizationProtocolMismatch":            "use https",
	"AuthorizationSourceIPMismatch":            "allow the SAS token this machine's address",
	"InsufficientAccountPermissions":           "allow the account's credentials to write",
	"AccountRequiresHttps":                     "use an https endpoint",
	"SnapshotsPresent":                         "delete the snapshots of the blob, or set retention.enabled to false",
	"BlobImmutableDueToPolicy":                 "the container's immutability policy forbids it: set retention.enabled to false, or change the policy",
	"BlobAccessTierNotSupportedForAccountType": "use a general-purpose v2 account",
	"UnsupportedHeader":                        "the server does not know this kind of request",
}

// passingCodes are answers with status 400 that a retry may heal.
var passingCodes = map[string]bool{
	"Md5Mismatch":        true,
	"Crc64Mismatch":      true,
	"InvalidBlockList":   true, // somebody else stored the blob meanwhile
	"InvalidBlobOrBlock": true,
}

const (
	codeBlobNotFound     = "BlobNotFound"
	codeInvalidRange     = "InvalidRange"
	codeInvalidBlockList = "InvalidBlockList"

	hintDenied      = "check the credentials and what they are allowed to do"
	hintCredentials = "set account-name with account-key, or sas-token, or an Azure identity (AZURE_CLIENT_ID and others, managed identity, az login)"
)

// answerError is an answer that is no success, in one line.
type answerError struct {
	status  int
	code    string // the service's, may be empty
	message string
}

// Error returns the service's text.
func (e *answerError) Error() string {
	if e.message == "" {
		return fmt.Sprintf("%d %s", e.status, http.StatusText(e.status))
	}
	return fmt.Sprintf("%d %s", e.status, e.message)
}

// simplify turns the SDK's errors into such that fit a line and hold no URL,
// because a SAS token is a part of that.
func simplify(err error) error {
	if re, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return &answerError{status: re.StatusCode, code: re.ErrorCode, message: answerMessage(re.RawResponse)}
	}
	if ce, ok := errors.AsType[*credentialsError](err); ok {
		return ce
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

// answerMessage returns the first line of what the service says.
func answerMessage(resp *http.Response) string {
	if resp == nil || resp.Body == nil {
		return ""
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	resp.Body = io.NopCloser(bytes.NewReader(b)) // as it was
	var doc struct{ Message string }
	if xml.Unmarshal(b, &doc) != nil {
		return ""
	}
	line, _, _ := strings.Cut(strings.TrimSpace(doc.Message), "\n")
	return line
}

// errorCode returns the service's code of an error, or what comes next to it.
func errorCode(err error) string {
	answer, ok := errors.AsType[*answerError](simplify(err))
	switch {
	case ok && answer.code != "":
		return answer.code
	case ok:
		return fmt.Sprintf("HTTP%d", answer.status)
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

// fail names operation, container, key and the service's code, and judges
// whether a retry can help.
func (c *ReplicaClient) fail(op, key string, err error) error {
	code := errorCode(err)
	re := &litestream.ReplicaError{
		Type:   ReplicaClientType,
		Op:     op,
		Bucket: c.Bucket,
		Key:    key,
		Code:   code,
		Err:    simplify(err),
	}
	if answer, ok := errors.AsType[*answerError](re.Err); ok {
		judgeAnswer(re, answer)
	} else if creds, ok := errors.AsType[*credentialsError](re.Err); ok {
		re.Permanent, re.Hint = creds.refused(), hintCredentials
	} else {
		re.Permanent, re.Hint = blob.JudgeTransport(re.Err)
	}
	return re
}

func judgeAnswer(re *litestream.ReplicaError, answer *answerError) {
	hint, permanent := permanentCodes[answer.code]
	switch {
	case permanent:
		re.Permanent, re.Hint = true, hint
	case answer.status == http.StatusNotFound:
		re.Err = fmt.Errorf("%w: %w", fs.ErrNotExist, re.Err)
	case answer.code == "BlobAlreadyExists", answer.status == http.StatusPreconditionFailed:
		re.Err = fmt.Errorf("%w: %w", fs.ErrExist, re.Err)
	case answer.status == http.StatusUnauthorized, answer.status == http.StatusForbidden:
		re.Permanent, re.Hint = true, hintDenied
	case answer.status == http.StatusBadRequest, answer.status == http.StatusMethodNotAllowed, answer.status == http.StatusNotImplemented:
		if !passingCodes[answer.code] {
			re.Permanent, re.Hint = true, "the server refuses this kind of request: check endpoint, container and account settings"
		}
	}
}
