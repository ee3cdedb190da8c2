package nats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"

	natsgo "github.com/nats-io/nats.go"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// apiError is an answer of JetStream that is no success.
type apiError struct {
	Code        int    `json:"code"`     // as in HTTP
	ErrCode     int    `json:"err_code"` // of the list in the server's errors.json
	Description string `json:"description"`
}

// Error returns the server's text.
func (e *apiError) Error() string { return fmt.Sprintf("%d %s", e.Code, e.Description) }

// Codes of JetStream.
const (
	codeNoMessage      = 10037
	codeNotEnabled     = 10039 // for the account
	codeNotEnabledHere = 10076
	codeNoStream       = 10059
	codeStorageFull    = 10047
	codeResources      = 10023
	codeStoreFailed    = 10077 // a limit of the stream
	codeConflict       = 10071
	codeConflictToo    = 10164
	codeSealed         = 10109
	codeNoPurge        = 10110
	codeNoRollup       = 10111
)

// permanentCodes are answers that no retry heals, with what to change.
var permanentCodes = map[int]string{
	codeNoStream:       "create the bucket (nats object add NAME), or correct its name or the account",
	codeNotEnabled:     "enable JetStream for this account",
	codeNotEnabledHere: "enable JetStream on the server",
	codeSealed:         "the bucket is sealed for good: use another one",
	codeNoPurge:        "the stream of the bucket forbids to purge: make the bucket as an object store",
	codeNoRollup:       "the stream of the bucket forbids rollups: make the bucket as an object store",
}

// passingHints are answers that may heal without us.
var passingHints = map[int]string{
	codeStorageFull: "the server's storage for JetStream is full: make room there, or raise max_file_store",
	codeResources:   "the server or the account has no room left: make some, or raise its limits",
	codeStoreFailed: "the bucket may be full: raise its size (max bytes)",
}

const (
	hintCredentials = "check creds, jwt and seed, nkey, username and password, or token"
	hintDenied      = "allow this user to publish to $O.<bucket>.> and to $JS.API.STREAM.INFO, STREAM.MSG.GET, STREAM.PURGE and DIRECT.GET of OBJ_<bucket>, and to subscribe to _INBOX.>"
)

func isCode(err error, code int) bool {
	ae, ok := errors.AsType[*apiError](err)
	return ok && ae.ErrCode == code
}

// isConflict reports whether a message was refused because of what is stored.
func isConflict(err error) bool { return isCode(err, codeConflict) || isCode(err, codeConflictToo) }

// finalError ends the attempts of an operation that cannot be repeated.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// isPassing reports whether another attempt may go better.
func isPassing(err error) bool {
	if _, ok := errors.AsType[*finalError](err); ok {
		return false
	}
	if ae, ok := errors.AsType[*apiError](err); ok {
		_, permanent := permanentCodes[ae.ErrCode]
		return !permanent && (ae.Code == 408 || ae.Code == 429 || ae.Code == 500 || ae.Code == 503) && ae.ErrCode != codeStoreFailed
	}
	if permanent, _ := blob.JudgeTransport(err); permanent {
		return false
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	for _, cause := range []error{
		io.EOF, errLost, errSilent, natsgo.ErrNoResponders, natsgo.ErrConnectionClosed, natsgo.ErrReconnectBufExceeded,
		natsgo.ErrConnectionReconnecting, natsgo.ErrDisconnected, natsgo.ErrStaleConnection,
		natsgo.ErrNoServers, natsgo.ErrTimeout,
	} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

// isRefused reports whether the server wants other credentials.
func isRefused(err error) bool {
	for _, cause := range []error{
		natsgo.ErrAuthorization, natsgo.ErrAuthExpired, natsgo.ErrAuthRevoked,
		natsgo.ErrAccountAuthExpired, natsgo.ErrNkeysNotSupported,
	} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

// wrap is fail for an error that may have been through it already.
func (c *ReplicaClient) wrap(op, key string, err error) error {
	if _, ok := errors.AsType[*litestream.ReplicaError](err); ok {
		return err
	}
	return c.fail(op, key, err)
}

// fail names operation, bucket and object, and judges whether a retry can help.
func (c *ReplicaClient) fail(op, key string, err error) error {
	re := &litestream.ReplicaError{
		Type: ReplicaClientType, Op: op, Bucket: c.Bucket, Key: key, Code: errorCode(err), Err: err,
	}
	denied, isDenied := errors.AsType[*deniedError](err)
	_, isCredentials := errors.AsType[*credentialsError](err)
	answer, isAnswer := errors.AsType[*apiError](err)
	switch {
	case errors.Is(err, errMissing):
		re.Err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case errors.Is(err, fs.ErrExist):
	case isDenied:
		re.Permanent, re.Hint, re.Err = true, hintDenied, denied
	case isCredentials, isRefused(err):
		re.Permanent, re.Hint = true, hintCredentials
	case isAnswer:
		hint, permanent := permanentCodes[answer.ErrCode]
		if permanent {
			re.Permanent, re.Hint = true, hint
		} else {
			re.Hint = passingHints[answer.ErrCode]
		}
	case errors.Is(err, natsgo.ErrSecureConnWanted):
		re.Permanent, re.Hint = true, "the server has no TLS: leave out tls, root-cas and client-cert"
	case errors.Is(err, natsgo.ErrNoResponders):
		re.Hint = "no server has the bucket at the moment; does it run with JetStream, and does the bucket exist?"
	case errors.Is(err, natsgo.ErrNoServers):
		re.Hint = "does the server run at " + c.withDefaults().Server + "?"
	default:
		re.Permanent, re.Hint = blob.JudgeTransport(err)
	}
	return re
}

// errorCode returns the number that JetStream has for an error, or what comes
// next to it.
func errorCode(err error) string {
	answer, isAnswer := errors.AsType[*apiError](err)
	_, isDenied := errors.AsType[*deniedError](err)
	switch {
	case isAnswer:
		return fmt.Sprintf("JS%d", answer.ErrCode)
	case errors.Is(err, errMissing):
		return "NotFound"
	case errors.Is(err, fs.ErrExist):
		return "Exists"
	case isDenied:
		return "PermissionDenied"
	case isRefused(err):
		return "AuthorizationViolation"
	case errors.Is(err, context.Canceled):
		return "Canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "DeadlineExceeded"
	case errors.Is(err, natsgo.ErrNoResponders):
		return "NoResponders"
	case errors.Is(err, errSilent):
		return "NoAnswer"
	case errors.Is(err, errLost), errors.Is(err, natsgo.ErrNoServers):
		return "ConnectionLost"
	}
	return ""
}
