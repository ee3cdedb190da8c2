package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pkg/sftp"

	"github.com/benbjohnson/litestream"
)

// finalError ends the attempts of an operation that could not be repeated.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// isPassing reports whether another attempt may go better: the connection was
// lost, or the server could not be reached.
func isPassing(err error) bool {
	if _, ok := errors.AsType[*finalError](err); ok {
		return false
	}
	if _, ok := errors.AsType[*refusal](err); ok {
		return false
	}
	return errors.Is(err, errLost) || isBroken(err)
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
	re := &litestream.ReplicaError{
		Type: ReplicaClientType, Op: op, Bucket: c.place(), Key: key, Code: errorCode(err), Err: err,
	}
	refused, ok := errors.AsType[*refusal](err)
	status, isStatus := errors.AsType[*sftp.StatusError](err)
	switch {
	case ok:
		re.Permanent, re.Hint = true, refused.hint
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, fs.ErrPermission):
		re.Permanent, re.Hint = true, "give this user access to the replica's folder on the server"
	case isStatus && status.FxCode() == sftp.ErrSSHFxFailure && op == "put":
		re.Hint = "the server gives no reason; its disk may be full"
	case isStatus && status.FxCode() == sftp.ErrSSHFxOpUnsupported:
		re.Permanent, re.Hint = true, "the server does not know this kind of request"
	}
	return re
}

// errorCode returns the name of a status of the protocol, or what comes next
// to it.
func errorCode(err error) string {
	status, ok := errors.AsType[*sftp.StatusError](err)
	refused, isRefusal := errors.AsType[*refusal](err)
	switch {
	case ok:
		return fmt.Sprintf("SSH_FX_%d", status.Code)
	case isRefusal:
		if _, ok := errors.AsType[*hostKeyError](refused.err); ok {
			return "HostKey"
		}
		return "Refused"
	case errors.Is(err, fs.ErrNotExist):
		return "NoSuchFile"
	case errors.Is(err, fs.ErrExist):
		return "Exists"
	case errors.Is(err, fs.ErrPermission):
		return "PermissionDenied"
	case errors.Is(err, context.Canceled):
		return "Canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "DeadlineExceeded"
	case errors.Is(err, errLost):
		return "ConnectionLost"
	}
	return ""
}
