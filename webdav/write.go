package webdav

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/backoff"
	"github.com/benbjohnson/litestream/internal/blob"
)

const (
	// maxMemory is the size in bytes up to which a stream is kept in memory to
	// know its length. A longer one goes through a file in the system's folder
	// for those, as Litestream v0.5 does with every upload.
	maxMemory = 1 << 20

	// foldersTries is how often the folders of a file are made, as each request
	// for that may break.
	foldersTries = 4

	// abandonedAfter is the age from which a temporary file counts as left
	// behind by a crash.
	abandonedAfter = 24 * time.Hour

	// cleanupTimeout bounds the removal of a temporary file.
	cleanupTimeout = 5 * time.Second
	hurriedCleanup = 200 * time.Millisecond // if the caller waits no longer
)

// WriteLTXFile stores a file under its name in one step, replacing one that is
// there already.
func (c *ReplicaClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, false)
}

// WriteLTXFileExclusive stores a file unless one of that name exists. Of
// writers that come at the same moment more than one may succeed where the
// server checks and moves in two steps; a server that is seen to do so is
// warned of once.
func (c *ReplicaClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, true)
}

func (c *ReplicaClient) write(ctx context.Context, info *ltx.FileInfo, r io.Reader, exclusive bool) (_ *ltx.FileInfo, err error) {
	key := fileKey(info.Level, info.MinTXID, info.MaxTXID)
	if err := ctx.Err(); err != nil {
		return nil, c.fail("put", key, err)
	}
	body, done, err := newSource(ctx, r)
	if err != nil {
		return nil, c.fail("put", key, err)
	}
	defer func() { err = errors.Join(err, done()) }()
	hdr, _, err := ltx.PeekHeader(io.NewSectionReader(body, 0, body.Size()))
	if err != nil {
		return nil, c.fail("put", key, fmt.Errorf("read ltx header: %w", err))
	}
	info.Size, info.CreatedAt = body.Size(), time.UnixMilli(hdr.Timestamp).UTC()
	if err := c.store(ctx, key, body, exclusive); err != nil {
		return nil, err
	}
	if exclusive && c.connection().examined.CompareAndSwap(false, true) {
		c.examine(ctx, key)
	}
	return info, nil
}

// newSource returns what r holds in a form that can be sent again. done frees
// what it takes.
func newSource(ctx context.Context, r io.Reader) (src *io.SectionReader, done func() error, err error) {
	nothing := func() error { return nil }
	if ra, ok := r.(interface {
		io.ReaderAt
		io.Seeker
	}); ok {
		pos, err := ra.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, nil, fmt.Errorf("find size: %w", err)
		}
		end, err := ra.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, nil, fmt.Errorf("find size: %w", err)
		}
		return io.NewSectionReader(ra, pos, end-pos), nothing, nil
	}
	var first bytes.Buffer
	n, err := io.CopyN(&first, r, maxMemory)
	if errors.Is(err, io.EOF) {
		return io.NewSectionReader(bytes.NewReader(first.Bytes()), 0, n), nothing, nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("read file: %w", err)
	}
	return spool(ctx, io.MultiReader(&first, r))
}

// spool copies a stream into a temporary file.
func spool(ctx context.Context, r io.Reader) (src *io.SectionReader, done func() error, err error) {
	f, err := os.CreateTemp("", "litestream-webdav-*.ltx")
	if err != nil {
		return nil, nil, fmt.Errorf("make temporary file: %w", err)
	}
	done = func() error { return errors.Join(f.Close(), os.Remove(f.Name())) }
	n, err := io.Copy(f, contextReader{ctx, r})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("copy to temporary file: %w", err), done())
	}
	return io.NewSectionReader(f, 0, n), done, nil
}

// contextReader ends a copy soon after its context is done.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives as long as the copy
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// store stores a body under a name relative to the path.
func (c *ReplicaClient) store(ctx context.Context, key string, body *io.SectionReader, exclusive bool) error {
	began := time.Now()
	if err := c.Init(ctx); err != nil {
		return err
	}
	c.connection().writes.Store(true)
	tmp := blob.TempName(key, began)
	err := c.upload(ctx, tmp, body)
	if err == nil {
		err = c.move(ctx, tmp, key, body.Size(), exclusive)
	}
	if err != nil {
		c.discard(ctx, tmp)
		c.observe("PUT", 0, began, err)
		return c.wrap("put", key, err)
	}
	c.observe("PUT", body.Size(), began, nil)
	return nil
}

// upload sends a temporary file, and makes the folders above it if the server
// cannot take it.
func (c *ReplicaClient) upload(ctx context.Context, tmp string, body *io.SectionReader) error {
	put := request{
		method: http.MethodPut, target: c.target(tmp), body: body, once: true,
		header: map[string]string{"Content-Type": "application/octet-stream"},
	}
	err := c.ask(ctx, put)
	put.once = false
	if err != nil && isPassing(err) && !mayLackFolder(err) {
		if statusOf(err) == 0 {
			// A server that misses the folder may say so and close the connection
			// before it has read the file, and what it said is lost.
			_ = c.makeDirsOnce(ctx, c.target(path.Dir(tmp)).Path) // what counts is whether the file is taken then
		}
		err = c.ask(ctx, put)
	}
	for try := 0; try < foldersTries && mayLackFolder(err) && (try == 0 || !isPassing(err)); try++ {
		dirErr := c.makeDirs(ctx, c.target(path.Dir(tmp)).Path)
		if dirErr != nil && !isPassing(dirErr) {
			return errors.Join(err, dirErr)
		}
		err = c.ask(ctx, put)
	}
	if err != nil {
		return err
	}
	// The protocol has no checksum: what a proxy on the way cut short and sent on
	// as a whole would get its name.
	if n, err := c.sizeOf(ctx, tmp); err != nil {
		return fmt.Errorf("look at what was sent: %w", err)
	} else if n >= 0 && n != body.Size() {
		return fmt.Errorf("server has %d of %d bytes", n, body.Size())
	}
	return nil
}

// mayLackFolder reports whether a server may have refused to write because the
// folder is missing. RFC 4918 wants 409 then; there are servers that answer
// with 404, 403 and, nginx, 500.
func mayLackFolder(err error) bool {
	switch statusOf(err) {
	case http.StatusConflict, http.StatusNotFound, http.StatusForbidden, http.StatusInternalServerError:
		return true
	}
	return false
}

// makeDirs makes a folder and those above it that are missing, up to the one of
// the server's URL. Servers give many answers to one of several that make the
// same folder at once, forbidden, conflict and locked among them, so that it is
// tried again.
func (c *ReplicaClient) makeDirs(ctx context.Context, dir string) error {
	const attempts = 4
	delay := backoff.Backoff{Min: minDelay, Max: maxDelay}
	for attempt := 1; ; attempt++ {
		err := c.makeDirsOnce(ctx, dir)
		if err == nil || attempt == attempts || !isPassing(err) && !mayLackFolder(err) {
			return err
		}
		if err := backoff.Wait(ctx, delay.Next()); err != nil {
			return err
		}
	}
}

func (c *ReplicaClient) makeDirsOnce(ctx context.Context, dir string) error {
	root := Options{URL: c.URL}.target("")
	u := *root
	dir = path.Clean(dir)
	u.Path = dir + "/"
	mkcol := request{method: "MKCOL", target: &u, once: true}
	err := c.ask(ctx, mkcol)
	if parent := path.Dir(dir); mayLackFolder(err) && len(dir) > len(root.Path) && parent != "/" {
		if err := c.makeDirsOnce(ctx, parent); err != nil {
			return err
		}
		err = c.ask(ctx, mkcol)
	}
	switch statusOf(err) {
	case http.StatusMethodNotAllowed, http.StatusMovedPermanently:
		return nil // it is there already
	}
	if err != nil {
		return fmt.Errorf("make folder %s: %w", dir, err)
	}
	return nil
}

// sizeOf returns the size of a file, -1 if the server does not tell.
func (c *ReplicaClient) sizeOf(ctx context.Context, key string) (int64, error) {
	resp, err := c.send(ctx, request{method: http.MethodHead, target: c.target(key)})
	if err != nil {
		return 0, err
	}
	drain(resp)
	return resp.ContentLength, nil
}

// move gives a temporary file its name.
func (c *ReplicaClient) move(ctx context.Context, tmp, key string, size int64, exclusive bool) error {
	header := map[string]string{"Destination": c.target(key).String(), "Overwrite": "T"}
	if exclusive {
		header["Overwrite"] = "F"
		// Not every server heeds the header.
		if _, err := c.sizeOf(ctx, key); err == nil {
			return fs.ErrExist
		} else if statusOf(err) != http.StatusNotFound {
			return err
		}
	}
	err := c.ask(ctx, request{method: "MOVE", target: c.target(tmp), header: header})
	switch statusOf(err) {
	case http.StatusNotFound:
		// The file was there a moment ago: it was moved, and the answer lost.
		n, sizeErr := c.sizeOf(ctx, key)
		switch {
		case sizeErr != nil:
			return fmt.Errorf("temporary file is gone: %w", sizeErr)
		case exclusive:
			return fs.ErrExist // ours most likely, which the caller can tell
		case n >= 0 && n != size:
			return fmt.Errorf("temporary file is gone, and %s has %d bytes", key, n)
		}
		return nil
	case http.StatusPreconditionFailed:
		return fs.ErrExist
	case http.StatusBadGateway:
		return fmt.Errorf("%w (a proxy before the server may have to rewrite the header Destination)", err)
	}
	return err
}

// discard removes a temporary file after a failure. What stays is swept later.
func (c *ReplicaClient) discard(ctx context.Context, tmp string) {
	timeout := cleanupTimeout
	if ctx.Err() != nil {
		timeout = hurriedCleanup
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := c.ask(ctx, request{method: http.MethodDelete, target: c.target(tmp), once: true}); err != nil {
		c.logger.Load().Debug("temporary file not removed", "key", tmp, "error", err)
	}
}
