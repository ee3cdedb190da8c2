package webdav

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// LTXFiles lists one level. Without useMetadata, CreatedAt is the time of
// upload; with it, the header of every file is read.
func (c *ReplicaClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	infos, err := c.list(ctx, level, seek)
	if err != nil {
		return nil, err
	}
	if useMetadata {
		if infos, err = blob.ReadTimes(ctx, infos, maxParallel, c.readTimestamp); err != nil {
			return nil, c.wrap("list", ltxDir, err)
		}
	}
	return ltx.NewFileInfoSliceIterator(infos), nil
}

// LTXTree lists the folder ltx, and those of the levels in it.
func (c *ReplicaClient) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	var found []int
	err := c.readDir(ctx, ltxDir, func(e entry) {
		if e.dir && len(e.name) == 1 && e.name[0] >= '0' && e.name[0] <= '0'+litestream.SnapshotLevel {
			found = append(found, int(e.name[0]-'0'))
		}
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	levels := make([][]*ltx.FileInfo, litestream.SnapshotLevel+1)
	err = blob.Each(ctx, len(found), maxParallel, func(ctx context.Context, i int) (err error) {
		levels[found[i]], err = c.list(ctx, found[i], 0)
		return err
	}, nil)
	if err != nil {
		return nil, c.wrap("list", ltxDir, err)
	}
	return slices.Concat(levels...), nil
}

// list reads the folder of a level.
func (c *ReplicaClient) list(ctx context.Context, level int, seek ltx.TXID) ([]*ltx.FileInfo, error) {
	var infos []*ltx.FileInfo
	var abandoned []string
	var unsized string
	err := c.readDir(ctx, levelKey(level), func(e entry) {
		if begun, ok := blob.ParseTempName(e.name); ok && time.Since(begun) > abandonedAfter {
			abandoned = append(abandoned, levelKey(level)+"/"+e.name)
		}
		minTXID, maxTXID, err := ltx.ParseFilename(e.name)
		if err != nil || minTXID < seek || e.dir {
			return
		}
		if e.size < 0 {
			unsized = e.name
		}
		infos = append(infos, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID, Size: e.size, CreatedAt: e.modTime})
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if unsized != "" {
		return nil, c.fail("list", levelKey(level), fmt.Errorf("server does not tell the size of %s", unsized))
	}
	slices.SortFunc(infos, func(a, b *ltx.FileInfo) int {
		return cmp.Or(cmp.Compare(a.MinTXID, b.MinTXID), cmp.Compare(a.MaxTXID, b.MaxTXID))
	})
	c.sweep(ctx, abandoned)
	return infos, nil
}

// sweep removes temporary files that a crash left behind, if this process
// writes to the server itself.
func (c *ReplicaClient) sweep(ctx context.Context, keys []string) {
	if len(keys) == 0 || !c.connection().writes.Load() {
		return
	}
	err := c.deleteKeys(ctx, keys)
	c.logger.Load().Info("removed abandoned temporary files", "count", len(keys), "first", keys[0], "error", err)
}

// readTimestamp returns the timestamp of a file's header. A file without one
// keeps what the listing said: it is refused when it is read.
func (c *ReplicaClient) readTimestamp(ctx context.Context, info *ltx.FileInfo) (time.Time, error) {
	open := func() (io.ReadCloser, error) {
		return c.OpenLTXFile(ctx, info.Level, info.MinTXID, info.MaxTXID, 0, ltx.HeaderSize)
	}
	rc, err := open()
	if statusOf(err) == http.StatusForbidden { // Apache's answer for a file that is deleted at that moment, too
		rc, err = open()
	}
	if err != nil {
		return time.Time{}, err
	}
	b, err := io.ReadAll(rc)
	if err := errors.Join(err, rc.Close()); err != nil {
		return time.Time{}, c.wrap("get", fileKey(info.Level, info.MinTXID, info.MaxTXID), fmt.Errorf("read header: %w", err))
	}
	var hdr ltx.Header
	if err := hdr.UnmarshalBinary(b); err != nil {
		return info.CreatedAt, nil //nolint:nilerr // see above
	}
	return time.UnixMilli(hdr.Timestamp).UTC(), nil
}
