// Package file stores LTX files in a folder of the local file system, in the
// layout of Litestream v0.5: <path>/ltx/<level>/<min>-<max>.ltx.
//
// A file appears under its name only when all its bytes are on the disk, and
// its modification time is the timestamp of its LTX header, so that a listing
// needs no file to be opened.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReplicaClientType is the name of this kind of replica in configurations.
const ReplicaClientType = "file"

// Modes of files and folders when nothing is known of the database they
// belong to, as in Litestream v0.5. The umask applies to them.
const (
	DefaultMode    = fs.FileMode(0o600)
	DefaultDirMode = fs.FileMode(0o700)
)

// ltxDir is the folder below a replica's path that holds one folder per level.
const ltxDir = "ltx"

var (
	_ litestream.ReplicaClient    = (*ReplicaClient)(nil)
	_ litestream.ExclusiveWriter  = (*ReplicaClient)(nil)
	_ litestream.Prefixer         = (*ReplicaClient)(nil)
	_ litestream.PermissionSetter = (*ReplicaClient)(nil)
	_ litestream.Locator          = (*ReplicaClient)(nil)
	_ litestream.TreeLister       = (*ReplicaClient)(nil)
	_ litestream.ObjectClient     = (*ReplicaClient)(nil)
	_ litestream.ObjectDeleter    = (*ReplicaClient)(nil)
	_ litestream.V03Client        = (*ReplicaClient)(nil)
)

// ReplicaClient stores the LTX files of one database below one folder. It is
// safe for concurrent use, by several processes too. The folder need not exist
// until the first file is written.
type ReplicaClient struct {
	// Replica may be set, as programs written for Litestream v0.5 do, and has
	// no effect: a Store hands the database's permissions over by itself.
	Replica *litestream.Replica

	path   string
	perms  atomic.Pointer[litestream.FilePermissions]
	logger atomic.Pointer[slog.Logger]
	dirs   *dirTable
}

// Shared by all new clients, which are many.
var (
	defaultPermissions = &litestream.FilePermissions{Mode: DefaultMode, DirMode: DefaultDirMode, UID: -1, GID: -1}
	discardLogger      = slog.New(slog.DiscardHandler)
)

// NewReplicaClient returns a client for the folder path.
func NewReplicaClient(path string) *ReplicaClient {
	c := &ReplicaClient{path: path, dirs: &sharedDirs}
	c.perms.Store(defaultPermissions)
	c.logger.Store(discardLogger)
	return c
}

// Type returns "file".
func (c *ReplicaClient) Type() string { return ReplicaClientType }

// Location names the destination in one line.
func (c *ReplicaClient) Location() string { return "file://" + c.path }

// Path returns the folder of the replica.
func (c *ReplicaClient) Path() string { return c.path }

// SetLogger sets where the client reports what it does beside its tasks.
func (c *ReplicaClient) SetLogger(logger *slog.Logger) {
	c.logger.Store(logger.With("replica", ReplicaClientType))
}

// SetPermissions sets mode and owner of files and folders made from now on.
// Those that exist are left as they are.
func (c *ReplicaClient) SetPermissions(p litestream.FilePermissions) {
	c.perms.Store(&p)
}

// WithPrefix returns a client for another folder with the same settings.
func (c *ReplicaClient) WithPrefix(path string) litestream.ReplicaClient {
	other := &ReplicaClient{path: path, dirs: c.dirs}
	other.perms.Store(c.perms.Load())
	other.logger.Store(c.logger.Load())
	return other
}

// Init checks that the client has a path. It touches no file.
func (c *ReplicaClient) Init(context.Context) error {
	if c.path == "" {
		return c.permanent("init", "", errors.New("path of file replica is empty"),
			"set the replica's path to a folder")
	}
	return nil
}

// LTXFiles lists one level. The modification time of a file is the timestamp
// of its header, so useMetadata makes no difference.
func (c *ReplicaClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, _ bool) (ltx.FileIterator, error) {
	if err := ctx.Err(); err != nil {
		return nil, c.fail("list", levelKey(level), err)
	}
	infos, err := c.list(level, seek)
	if err != nil {
		return nil, err
	}
	return ltx.NewFileInfoSliceIterator(infos), nil
}

// LTXTree lists all levels: the folder ltx, and those of the levels in it.
func (c *ReplicaClient) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, c.fail("list", ltxDir, err)
	}
	entries, err := os.ReadDir(filepath.Join(c.path, ltxDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, c.fail("list", ltxDir, err)
	}
	var all []*ltx.FileInfo
	for _, entry := range entries { // by name, so that the levels ascend
		name := entry.Name()
		if len(name) != 1 || name[0] < '0' || name[0] > '0'+litestream.SnapshotLevel {
			continue
		}
		infos, err := c.list(int(name[0]-'0'), 0)
		if err != nil {
			return nil, err
		}
		all = append(all, infos...)
	}
	return all, nil
}

// list reads the folder of a level, whose names sort like the TXIDs in them.
func (c *ReplicaClient) list(level int, seek ltx.TXID) ([]*ltx.FileInfo, error) {
	entries, err := os.ReadDir(c.levelDir(level))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, c.fail("list", levelKey(level), err)
	}

	infos := make([]*ltx.FileInfo, 0, len(entries))
	for _, entry := range entries {
		minTXID, maxTXID, err := ltx.ParseFilename(entry.Name())
		if err != nil || minTXID < seek || entry.IsDir() {
			continue
		}
		fi, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted since the folder was read
		} else if err != nil {
			return nil, c.fail("list", fileKey(level, minTXID, maxTXID), err)
		}
		infos = append(infos, &ltx.FileInfo{
			Level:     level,
			MinTXID:   minTXID,
			MaxTXID:   maxTXID,
			Size:      fi.Size(),
			CreatedAt: fi.ModTime().UTC(),
		})
	}
	return infos, nil
}

// OpenLTXFile reads size bytes of a file from offset on, or all that follow if
// size is 0. From the end of the file on there is nothing to read.
func (c *ReplicaClient) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	key := fileKey(level, minTXID, maxTXID)
	if err := ctx.Err(); err != nil {
		return nil, c.fail("get", key, err)
	}
	if offset < 0 || size < 0 {
		return nil, c.fail("get", key, fmt.Errorf("invalid range: offset %d, size %d", offset, size))
	}
	return c.open(key, c.ltxPath(level, minTXID, maxTXID), offset, size)
}

// open reads a part of a file.
func (c *ReplicaClient) open(key, path string, offset, size int64) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, c.fail("get", key, err)
	}
	if offset > 0 {
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, c.fail("get", key, errors.Join(err, f.Close()))
		}
	}
	if size == 0 {
		return f, nil
	}
	return limitedFile{Reader: io.LimitReader(f, size), Closer: f}, nil
}

// limitedFile reads the beginning of what is left of a file.
type limitedFile struct {
	io.Reader
	io.Closer
}

// DeleteLTXFiles unlinks files one by one. It goes on after an error and
// returns all of them.
func (c *ReplicaClient) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	var errs []error
	for _, info := range a {
		key := fileKey(info.Level, info.MinTXID, info.MaxTXID)
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, c.fail("delete", key, err))...)
		}
		err := os.Remove(c.ltxPath(info.Level, info.MinTXID, info.MaxTXID))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, c.fail("delete", key, err))
		}
	}
	return errors.Join(errs...)
}

// DeleteAll unlinks every LTX file and every temporary file of a write, and
// then the level folders that are empty. Anything else stays.
func (c *ReplicaClient) DeleteAll(ctx context.Context) error {
	var errs []error
	for level := range litestream.SnapshotLevel + 1 {
		if err := c.deleteLevel(ctx, level); err != nil {
			errs = append(errs, c.fail("delete", levelKey(level), err))
		}
	}
	c.removeEmptyDir(filepath.Join(c.path, ltxDir))
	return errors.Join(errs...)
}

func (c *ReplicaClient) deleteLevel(ctx context.Context, level int) error {
	dir := c.levelDir(level)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		_, _, err := ltx.ParseFilename(entry.Name())
		_, temporary := blob.ParseTempName(entry.Name())
		if entry.IsDir() || (err != nil && !temporary) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	c.removeEmptyDir(dir)
	return errors.Join(errs...)
}

// removeEmptyDir removes a folder if nothing is in it. One that is not empty
// holds files of somebody else, which is no error.
func (c *ReplicaClient) removeEmptyDir(dir string) {
	c.dirs.forget(dir)
	_ = os.Remove(dir) // rmdir refuses a folder that is not empty
}

func (c *ReplicaClient) levelDir(level int) string {
	return filepath.Join(c.path, ltxDir, strconv.Itoa(level))
}

func (c *ReplicaClient) ltxPath(level int, minTXID, maxTXID ltx.TXID) string {
	return filepath.Join(c.levelDir(level), ltx.FormatFilename(minTXID, maxTXID))
}

// levelKey and fileKey name a level and a file in errors, relative to the path.
func levelKey(level int) string { return ltxDir + "/" + strconv.Itoa(level) }

func fileKey(level int, minTXID, maxTXID ltx.TXID) string {
	return levelKey(level) + "/" + ltx.FormatFilename(minTXID, maxTXID)
}
