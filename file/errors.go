package file

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/benbjohnson/litestream"
)

// fail names the operation and the file that err belongs to, and judges
// whether a retry can help.
func (c *ReplicaClient) fail(op, key string, err error) error {
	re := &litestream.ReplicaError{
		Type:   ReplicaClientType,
		Op:     op,
		Bucket: c.path,
		Key:    key,
		Err:    err,
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		re.Permanent = true
		re.Hint = "give this user access to the replica's folder"
	case errors.Is(err, syscall.EROFS):
		re.Permanent = true
		re.Hint = "the replica's file system is mounted read-only"
	case errors.Is(err, syscall.ENOTDIR):
		re.Permanent = true
		re.Hint = "a part of the replica's path is a file"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		re.Hint = "the replica's file system is full"
	}
	return re
}

// permanent is fail for what only the operator can change.
func (c *ReplicaClient) permanent(op, key string, err error, hint string) error {
	return &litestream.ReplicaError{
		Type:      ReplicaClientType,
		Op:        op,
		Bucket:    c.path,
		Key:       key,
		Permanent: true,
		Hint:      hint,
		Err:       err,
	}
}
