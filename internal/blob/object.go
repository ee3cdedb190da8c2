package blob

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// CheckObject refuses a named object that cannot be: its name must be a path
// below a root, and it has at most limit bytes.
func CheckObject(name string, size, limit int) error {
	if !fs.ValidPath(name) || name == "." {
		return fmt.Errorf("invalid object name: %q", name)
	}
	if size > limit {
		return fmt.Errorf("object has %d bytes, at most %d can be stored", size, limit)
	}
	return nil
}

// ReadObject reads an object of at most limit bytes, and closes it.
func ReadObject(r io.ReadCloser, limit int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(data) > limit {
		err = fmt.Errorf("object has more than %d bytes", limit)
	}
	return data, errors.Join(err, r.Close())
}
