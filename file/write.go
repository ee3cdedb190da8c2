package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// abandonedAfter is the age from which a temporary file counts as left behind
// by a crash. No single file takes that long to write.
const abandonedAfter = 24 * time.Hour

// tempSeq tells apart the temporary files that this process begins in the same
// nanosecond.
var tempSeq atomic.Uint64

// WriteLTXFile stores a file under its name in one step, replacing one that is
// there already.
func (c *ReplicaClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, os.Rename)
}

// WriteLTXFileExclusive stores a file unless one of that name exists. Of any
// number of writers, in any number of processes, exactly one succeeds.
func (c *ReplicaClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	info := &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}
	if _, err := os.Lstat(c.ltxPath(level, minTXID, maxTXID)); err == nil {
		return nil, c.fail("put", fileKey(level, minTXID, maxTXID), fs.ErrExist)
	}
	return c.write(ctx, info, r, publishExclusive)
}

// publishExclusive gives the file tmp the name dst unless that is taken.
func publishExclusive(tmp, dst string) error {
	err := os.Link(tmp, dst)
	switch {
	case err == nil:
		return os.Remove(tmp)
	case errors.Is(err, fs.ErrExist):
		return err
	default:
		// Some file systems (FAT, a few FUSE ones) have no hard links. Any
		// other cause meets the rename too.
		return renameNoReplace(tmp, dst)
	}
}

// write stores what r holds in a temporary file and publishes it under the
// name that info tells. It fills in the rest of info.
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

	dir := c.levelDir(info.Level)
	if err := c.makeDirs(dir); err != nil {
		return nil, c.fail("put", key, err)
	}
	c.sweep(info.Level)

	dst := c.ltxPath(info.Level, info.MinTXID, info.MaxTXID)
	tmp := tempName(dst, time.Now())
	if info.Size, err = c.writeTemp(ctx, tmp, r, info.CreatedAt); err != nil {
		return nil, c.fail("put", key, discardTemp(tmp, err))
	}
	if err := publish(tmp, dst); err != nil {
		return nil, c.fail("put", key, discardTemp(tmp, err))
	}
	if err := syncDir(dir); err != nil {
		return nil, c.fail("put", key, err)
	}
	return info, nil
}

// writeTemp writes r to a new file and makes bytes and times durable. The times
// are set before the file gets its name, so that no listing sees another one.
func (c *ReplicaClient) writeTemp(ctx context.Context, tmp string, r io.Reader, createdAt time.Time) (n int64, err error) {
	perms := c.perms.Load()
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perms.Mode.Perm())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()

	c.chown(tmp, perms)
	if n, err = io.Copy(f, &contextReader{ctx: ctx, r: r}); err != nil {
		return n, err
	}
	if err := os.Chtimes(tmp, createdAt, createdAt); err != nil {
		return n, err
	}
	return n, f.Sync()
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
// with the configured mode and owner, and makes their names durable.
func (c *ReplicaClient) makeDirs(dir string) error {
	fi, err := os.Stat(dir)
	switch {
	case err == nil && fi.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%s is not a directory", dir)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := c.makeDirs(parent); err != nil {
			return err
		}
	}
	perms := c.perms.Load()
	if err := os.Mkdir(dir, perms.DirMode.Perm()); errors.Is(err, fs.ErrExist) {
		return nil // made by a concurrent writer
	} else if err != nil {
		return err
	}
	c.chown(dir, perms)
	return syncDir(parent)
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

// sweep removes temporary files that a crash left on a level, once per level.
func (c *ReplicaClient) sweep(level int) {
	bit := uint32(1) << (uint(level) % 32)
	if c.swept.Or(bit)&bit != 0 {
		return
	}
	dir := c.levelDir(level)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the write that follows meets the same error and returns it
	}
	for _, entry := range entries {
		begun, ok := parseTempName(entry.Name())
		if !ok || time.Since(begun) < abandonedAfter {
			continue
		}
		err := os.Remove(filepath.Join(dir, entry.Name()))
		c.logger.Load().Info("removed abandoned temporary file", "path", filepath.Join(dir, entry.Name()), "error", err)
	}
}

// tempName returns an unused name beside dst that tells when the write began:
// <name>.ltx.<unix nanoseconds>-<process>-<sequence>.tmp. Litestream v0.5 skips
// it in listings like any name that is not an LTX file's.
func tempName(dst string, now time.Time) string {
	return fmt.Sprintf("%s.%d-%d-%d.tmp", dst, now.UnixNano(), os.Getpid(), tempSeq.Add(1))
}

// parseTempName returns when the write of a temporary file began.
func parseTempName(name string) (begun time.Time, ok bool) {
	name, ok = strings.CutSuffix(name, ".tmp")
	if !ok {
		return time.Time{}, false
	}
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return time.Time{}, false
	}
	if _, _, err := ltx.ParseFilename(name[:i]); err != nil {
		return time.Time{}, false
	}
	nanos, _, ok := strings.Cut(name[i+1:], "-")
	if !ok {
		return time.Time{}, false
	}
	ns, err := strconv.ParseInt(nanos, 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(0, ns), true
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
