package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// abandonedAfter is the age from which a temporary file counts as left behind
// by a crash. No single file takes that long to write.
const abandonedAfter = 24 * time.Hour

// WriteLTXFile stores a file under its name in one step, replacing one that is
// there already.
func (c *ReplicaClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, os.Rename)
}

// WriteLTXFileExclusive stores a file unless one of that name exists. Of any
// number of writers, in any number of processes, exactly one succeeds.
func (c *ReplicaClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, publishExclusive)
}

// publishExclusive gives the file tmp the name dst unless that is taken.
func publishExclusive(tmp, dst string) error {
	err := renameNoReplace(tmp, dst)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// Some file systems (NFS) and systems know no such rename. Any other cause
	// meets the link too.
	if err := os.Link(tmp, dst); err != nil {
		return err
	}
	return os.Remove(tmp)
}

// write stores what r holds under the name that info tells. It fills in the
// rest of info.
func (c *ReplicaClient) write(ctx context.Context, info *ltx.FileInfo, r io.Reader, publish func(tmp, dst string) error) (*ltx.FileInfo, error) {
	key := fileKey(info.Level, info.MinTXID, info.MaxTXID)
	if err := ctx.Err(); err != nil {
		return nil, c.fail("put", key, err)
	}
	hdr, r, err := ltx.PeekHeader(r)
	if err != nil {
		return nil, c.fail("put", key, fmt.Errorf("read ltx header: %w", err))
	}
	info.CreatedAt = time.UnixMilli(hdr.Timestamp).UTC()
	n := newFile{
		dst: c.ltxPath(info.Level, info.MinTXID, info.MaxTXID),
		r:   &contextReader{ctx: ctx, r: r}, modTime: info.CreatedAt, publish: publish,
	}
	if info.Size, err = c.store(n); err != nil {
		return nil, c.fail("put", key, err)
	}
	return info, nil
}

// newFile is a file on its way to its name.
type newFile struct {
	dst     string
	r       io.Reader
	modTime time.Time
	publish func(tmp, dst string) error
}

// store writes a temporary file, publishes it under its name and returns its
// size. When it returns, the file, its name and those of the folders above it
// survive a power cut.
func (c *ReplicaClient) store(n newFile) (size int64, err error) {
	dir, tmp := filepath.Dir(n.dst), blob.TempName(n.dst, time.Now())
	f, missing, err := c.createTemp(tmp)
	if err != nil {
		return 0, err
	}
	unknown, since := c.dirs.unknown(dir), c.dirs.moment()
	if len(unknown) > 0 && missing == 0 {
		c.sweep(dir)
	}
	if size, err = c.fill(f, n); err != nil {
		return size, discardTemp(tmp, err)
	}
	if err := n.publish(tmp, n.dst); err != nil {
		return size, discardTemp(tmp, err)
	}
	if err := c.dirs.sync(dir); err != nil {
		return size, err
	}
	return size, c.dirs.syncNames(unknown, missing, since)
}

// createTemp creates a temporary file, and the folders above it that are
// missing, whose number it returns.
func (c *ReplicaClient) createTemp(tmp string) (f *os.File, missing int, err error) {
	perms := c.perms.Load()
	create := func() (*os.File, error) {
		return os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perms.Mode.Perm())
	}
	if f, err = create(); errors.Is(err, fs.ErrNotExist) {
		if missing, err = c.makeDirs(filepath.Dir(tmp)); err == nil {
			f, err = create()
		}
	}
	if err == nil {
		c.chown(tmp, perms)
	}
	return f, missing, err
}

// fill writes a new file, makes bytes and times durable, and closes it. The
// times are set before the file gets its name, so that no listing sees others.
func (c *ReplicaClient) fill(f *os.File, n newFile) (size int64, err error) {
	defer func() { err = errors.Join(err, f.Close()) }()
	if size, err = copyFull(f, n.r); err != nil {
		return size, err
	}
	if err := os.Chtimes(f.Name(), n.modTime, n.modTime); err != nil {
		return size, err
	}
	return size, f.Sync()
}

// copyBuffers are shared by all writers: the first backup of a fleet writes
// small files by the thousand.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// copyFull copies r with as few writes as its buffer allows.
func copyFull(w io.Writer, r io.Reader) (size int64, err error) {
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := io.ReadFull(r, buf[:])
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return size, err
		}
		m, err := w.Write(buf[:n])
		size += int64(m)
		if err != nil || end {
			return size, err
		}
	}
}

// discardTemp removes the temporary file of a write that failed with err.
func discardTemp(tmp string, err error) error {
	if rmErr := os.Remove(tmp); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		return errors.Join(err, rmErr)
	}
	return err
}

// contextReader ends a copy soon after its context is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (cr *contextReader) Read(p []byte) (int, error) {
	if err := cr.ctx.Err(); err != nil {
		return 0, err
	}
	return cr.r.Read(p)
}

// makeDirs creates the folder dir and those above it that are missing, each
// with the configured mode and owner. It returns how many were missing, which
// concurrent writers may have made before us.
func (c *ReplicaClient) makeDirs(dir string) (missing int, err error) {
	c.dirs.forget(dir)
	err = c.makeDir(dir)
	if parent := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && parent != dir {
		if missing, err = c.makeDirs(parent); err != nil {
			return 0, err
		}
		missing++
		if err = c.makeDir(dir); errors.Is(err, fs.ErrExist) {
			return missing, nil
		}
		return missing, err
	}
	if err == nil {
		return 1, nil
	}
	// It is there, be it on a mount that cannot be written to.
	if fi, statErr := os.Stat(dir); statErr != nil {
		return 0, err
	} else if !fi.IsDir() {
		return 0, fmt.Errorf("%s is not a directory", dir)
	}
	return 0, nil
}

func (c *ReplicaClient) makeDir(dir string) error {
	perms := c.perms.Load()
	if err := os.Mkdir(dir, perms.DirMode.Perm()); err != nil {
		return err
	}
	c.chown(dir, perms)
	return nil
}

// chown gives path the configured owner. Only root may, so that a refusal is
// expected where we run as another user, and the file is as good without.
func (c *ReplicaClient) chown(path string, perms *litestream.FilePermissions) {
	if perms.UID < 0 && perms.GID < 0 {
		return
	}
	if err := os.Lchown(path, perms.UID, perms.GID); err != nil {
		c.logger.Load().Debug("owner of replica file not set", "path", path, "error", err)
	}
}

// sweep removes temporary files that a crash left in a folder.
func (c *ReplicaClient) sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // what cannot be read is left to whoever can
	}
	for _, entry := range entries {
		begun, ok := blob.ParseTempName(entry.Name())
		if !ok || time.Since(begun) < abandonedAfter {
			continue
		}
		err := os.Remove(filepath.Join(dir, entry.Name()))
		c.logger.Load().Info("removed abandoned temporary file", "path", filepath.Join(dir, entry.Name()), "error", err)
	}
}
