package testutil

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
)

// maxObjectSize is litestream.MaxObjectSize.
const maxObjectSize = 1 << 20

// anyObject is the key that hooks are given of operations on named objects.
var anyObject = objectKey{level: AllLevels}

// ReadObject returns a named object.
func (c *MemClient) ReadObject(ctx context.Context, name string) ([]byte, error) {
	if err := checkObject(OpReadObject, name, 0); err != nil {
		return nil, err
	}
	if err := c.begin(ctx, OpReadObject, anyObject); err != nil {
		return nil, err
	}
	c.mu.Lock()
	data, ok := c.named[name]
	c.received += int64(len(data))
	c.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("mem %s %q: %w", OpReadObject, name, fs.ErrNotExist)
	}
	if err := c.end(OpReadObject, anyObject); err != nil {
		return nil, err
	}
	return bytes.Clone(data), nil
}

// WriteObject stores a named object. If exclusive is set it replaces none,
// which is fs.ErrExist.
func (c *MemClient) WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error {
	if err := checkObject(OpWriteObject, name, len(data)); err != nil {
		return err
	}
	if err := c.begin(ctx, OpWriteObject, anyObject); err != nil {
		return err
	}
	if !c.storeNamed(name, data, exclusive) {
		return fmt.Errorf("mem %s %q: %w", OpWriteObject, name, fs.ErrExist)
	}
	return c.end(OpWriteObject, anyObject)
}

func (c *MemClient) storeNamed(name string, data []byte, exclusive bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.named[name]; ok && exclusive {
		return false
	}
	c.named[name] = append([]byte{}, data...)
	c.sent += int64(len(data))
	return true
}

// DeleteObject deletes a named object. One that is missing is no error.
func (c *MemClient) DeleteObject(ctx context.Context, name string) error {
	if err := checkObject(OpDeleteObject, name, 0); err != nil {
		return err
	}
	if err := c.begin(ctx, OpDeleteObject, anyObject); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.named, name)
	c.mu.Unlock()
	return c.end(OpDeleteObject, anyObject)
}

// Empty reports whether there is neither a file nor a named object.
func (c *MemClient) Empty(ctx context.Context) (bool, error) {
	if err := c.begin(ctx, OpEmpty, anyObject); err != nil {
		return false, err
	}
	c.mu.Lock()
	empty := len(c.objects) == 0 && len(c.named) == 0
	c.mu.Unlock()
	return empty, c.end(OpEmpty, anyObject)
}

func checkObject(op, name string, size int) error {
	switch {
	case !fs.ValidPath(name) || name == ".":
		return fmt.Errorf("mem %s %q: invalid name", op, name)
	case size > maxObjectSize:
		return fmt.Errorf("mem %s %q: %d bytes, at most %d can be stored", op, name, size, maxObjectSize)
	}
	return nil
}
