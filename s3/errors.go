package s3

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// permanentCodes are the answers that no retry heals, with what to change.
var permanentCodes = map[string]string{
	"NoSuchBucket":                                   "create the bucket, or correct its name, region and endpoint",
	"InvalidBucketName":                              "correct the bucket's name",
	"AccessDenied":                                   "allow these credentials to list, get, put and delete objects in the bucket",
	"AllAccessDisabled":                              "the provider has disabled the bucket",
	"AccountProblem":                                 "ask the provider about the account",
	"InvalidAccessKeyId":                             "correct access-key-id",
	"XAdminUserNotFound":                             "correct access-key-id",
	"SignatureDoesNotMatch":                          "correct secret-access-key",
	"InvalidToken":                                   "correct the session token, or leave it out",
	"PermanentRedirect":                              "set region to where the bucket lies, or correct the endpoint",
	"AuthorizationHeaderMalformed":                   "set region to where the bucket lies",
	"IllegalLocationConstraint":                      "set region to where the bucket lies",
	"InvalidStorageClass":                            "correct storage-class",
	"EntityTooLarge":                                 "raise part-size",
	"InvalidRequest":                                 "the server refuses this kind of request: check encryption and provider settings",
	"InvalidArgument":                                "the server refuses this kind of request: check encryption and provider settings",
	"KMS.NotFoundException":                          "correct sse-kms-key-id",
	"KMS.DisabledException":                          "enable the key of sse-kms-key-id",
	"KMS.AccessDeniedException":                      "allow these credentials to use the key of sse-kms-key-id",
	"MethodNotAllowed":                               "the endpoint does not serve this kind of request: check that it is an S3 endpoint",
	"NotImplemented":                                 "the server does not know this kind of request",
	"InvalidEncryptionAlgorithmError":                "correct sse-customer-algorithm",
	"ServerSideEncryptionConfigurationNotFoundError": "correct the encryption of the bucket",
}

// passingCodes are answers with status 403 that a retry may heal.
var passingCodes = map[string]bool{
	"RequestTimeTooSkewed": true, // the SDK corrects its clock by the answer
	"ExpiredToken":         true, // the SDK fetches a new one
	"RequestExpired":       true,
	"SlowDown":             true,
	"QuotaExceeded":        true,
}

// hintClock is what to do about a refusal by time that corrected clocks did not
// heal.
const hintClock = "set this machine's clock (NTP): it differs too much from the server's"

// keyError is the error of one key of a batch delete.
type keyError struct{ code, message string }

func (e *keyError) Error() string { return fmt.Sprintf("%s: %s", e.code, e.message) }

// errorCode returns the service's code of an error, or what comes next to it.
func errorCode(err error) string {
	var (
		api  smithy.APIError
		key  *keyError
		resp *awshttp.ResponseError
	)
	switch {
	case errors.As(err, &key):
		return key.code
	case errors.As(err, &api) && api.ErrorCode() != "" && api.ErrorCode() != "UnknownError":
		return api.ErrorCode()
	case errors.As(err, &resp) && resp.HTTPStatusCode() != 0:
		return fmt.Sprintf("HTTP%d", resp.HTTPStatusCode())
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
	status := 0
	if resp := (*awshttp.ResponseError)(nil); errors.As(err, &resp) {
		status = resp.HTTPStatusCode()
	}
	hint, permanent := permanentCodes[re.Code]
	switch {
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist):
	case re.Code == "NoSuchKey", re.Code == "NotFound" && op != "list":
		re.Err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case status == http.StatusPreconditionFailed:
		re.Err = fmt.Errorf("%w: %w", fs.ErrExist, err)
	case permanent:
		re.Permanent, re.Hint = true, hint
	case re.Code == "RequestTimeTooSkewed", re.Code == "RequestExpired":
		re.Hint = hintClock
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		re.Permanent = !passingCodes[re.Code]
		if re.Permanent {
			re.Hint = "check the credentials and what they are allowed to do"
		}
	case status == http.StatusMovedPermanently:
		re.Permanent, re.Hint = true, permanentCodes["PermanentRedirect"]
	default:
		re.Permanent, re.Hint = judgeTransport(err)
		if c.lacksBucketHost(err) {
			re.Hint = "set force-path-style to true: the endpoint has no host name for each bucket"
		}
	}
	return re
}

// lacksBucketHost reports whether the name that could not be resolved is that of
// the bucket below a configured endpoint.
func (c *ReplicaClient) lacksBucketHost(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound && c.Endpoint != "" && !c.ForcePathStyle && strings.HasPrefix(dns.Name, c.Bucket+".")
}

var transportHints = blob.TransportHints{
	UnknownCA: "name the server's certificate authority in AWS_CA_BUNDLE, or set skip-verify",
	WrongName: "correct the endpoint or the server's certificate",
	NoTLS:     "the endpoint does not speak TLS: use http://",
	NoHost:    "check endpoint and region, and the host's name resolution",
}

// judgeTransport looks at errors that came before there was an answer.
func judgeTransport(err error) (permanent bool, hint string) {
	permanent, hint = transportHints.Judge(err)
	if hint == "" && strings.Contains(err.Error(), "get credentials:") {
		// The SDK has no type for a credential chain that found nothing.
		hint = "set access-key-id and secret-access-key, or the AWS environment"
	}
	return permanent, hint
}

// isConditionUnsupported reports whether a server refused the If-None-Match
// header itself, rather than found the object.
func isConditionUnsupported(err error) bool {
	if err == nil {
		return false
	}
	var resp *awshttp.ResponseError
	if errors.As(err, &resp) && resp.HTTPStatusCode() == http.StatusNotImplemented {
		return true
	}
	return errorCode(err) == "NotImplemented"
}
