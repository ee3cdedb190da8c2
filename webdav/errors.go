package webdav

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// statusError is an answer that is no success.
type statusError struct {
	method, status string
	code           int
	retryAfter     time.Duration // the server's hint; 0: none
}

func (e *statusError) Error() string { return fmt.Sprintf("%s: %s", e.method, e.status) }

// statusOf returns the status of an answer that was no success, or 0.
func statusOf(err error) int {
	if se, ok := errors.AsType[*statusError](err); ok {
		return se.code
	}
	return 0
}

// sourceError is an error of what is uploaded. No attempt heals it.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// isPassing reports whether another attempt may go better.
func isPassing(err error) bool {
	if _, ok := errors.AsType[*sourceError](err); ok {
		return false
	}
	if permanent, _ := transportHints.Judge(err); permanent {
		return false
	}
	switch code := statusOf(err); code {
	case 0:
		_, ok := errors.AsType[*url.Error](err) // no answer
		return ok
	case http.StatusRequestTimeout, http.StatusLocked, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return code == http.StatusInternalServerError
	}
}

// wrap is fail for an error that may have been through it already.
func (c *ReplicaClient) wrap(op, key string, err error) error {
	if _, ok := errors.AsType[*litestream.ReplicaError](err); ok {
		return err
	}
	return c.fail(op, key, err)
}

// fail names operation, server and file, and judges whether a retry can help.
func (c *ReplicaClient) fail(op, key string, err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = fmt.Errorf("%s: %w", ue.Op, ue.Err) // the rest is said already
	}
	re := &litestream.ReplicaError{
		Type: ReplicaClientType, Op: op, Bucket: c.place(), Key: key, Code: errorCode(err), Err: err,
	}
	code := statusOf(err)
	switch {
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist):
	case code == http.StatusNotFound, code == http.StatusGone:
		re.Err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case code == http.StatusPreconditionFailed:
		re.Err = fmt.Errorf("%w: %w", fs.ErrExist, err)
	case code == http.StatusUnauthorized:
		re.Permanent, re.Hint = true, "check webdav-username and webdav-password; the server must take Basic or Digest authentication"
	case code == http.StatusForbidden:
		re.Permanent, re.Hint = true, "allow this user to list, read, write, move and delete in the replica's folder"
	case code == http.StatusMethodNotAllowed, code == http.StatusNotImplemented:
		re.Permanent, re.Hint = true, "the URL does not serve WebDAV: check webdav-url"
	case code >= 300 && code < 400:
		re.Permanent, re.Hint = true, "the server is elsewhere: correct webdav-url"
	case code == http.StatusInsufficientStorage:
		re.Hint = "the server is full, or the user's quota is used up"
	case code == http.StatusLocked:
		re.Hint = "another WebDAV client holds a lock"
	case code == 0:
		re.Permanent, re.Hint = transportHints.Judge(err)
	}
	return re
}

var transportHints = blob.TransportHints{
	UnknownCA: "let this host trust the server's certificate authority, with SSL_CERT_FILE for instance",
	WrongName: "correct webdav-url or the server's certificate",
	NoTLS:     "the server does not speak TLS: use http:// or webdav://",
}

// errorCode returns the status of an answer, or what comes next to it.
func errorCode(err error) string {
	if code := statusOf(err); code != 0 {
		return fmt.Sprintf("HTTP%d", code)
	}
	return blob.ContextCode(err)
}
