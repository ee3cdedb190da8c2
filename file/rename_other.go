//go:build !linux

package file

import (
	"errors"
	"os"
)

// renameNoReplace has no counterpart here: a file system without hard links
// cannot tell two writers apart.
func renameNoReplace(src, dst string) error {
	return &os.LinkError{Op: "rename", Old: src, New: dst, Err: errors.ErrUnsupported}
}
