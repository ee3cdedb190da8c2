package sftp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/pkg/sftp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// LTXFiles lists one level. Without useMetadata, CreatedAt is the modification
// time, which is the timestamp of the LTX header cut to whole seconds, because
// the protocol has no finer ones. With it, the header of every file is read.
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
	entries, err := c.readDir(ctx, ltxDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	levels := make([][]*ltx.FileInfo, litestream.SnapshotLevel+1)
	var found []int
	for _, entry := range entries {
		if name := entry.Name(); len(name) == 1 && name[0] >= '0' && name[0] <= '0'+litestream.SnapshotLevel {
			found = append(found, int(name[0]-'0'))
		}
	}
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
	entries, err := c.readDir(ctx, levelKey(level))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	infos := make([]*ltx.FileInfo, 0, len(entries))
	var abandoned []string
	for _, entry := range entries {
		name := entry.Name()
		if begun, ok := blob.ParseTempName(name); ok && time.Since(begun) > abandonedAfter {
			abandoned = append(abandoned, levelKey(level)+"/"+name)
		}
		minTXID, maxTXID, err := ltx.ParseFilename(name)
		if err != nil || minTXID < seek || entry.IsDir() {
			continue
		}
		infos = append(infos, &ltx.FileInfo{
			Level: level, MinTXID: minTXID, MaxTXID: maxTXID,
			Size: entry.Size(), CreatedAt: entry.ModTime().UTC(),
		})
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
	if len(keys) == 0 {
		return
	}
	if cn, err := c.connection(ctx); err != nil || !cn.writes.Load() {
		return
	}
	err := c.deleteKeys(ctx, keys)
	c.logger.Load().Info("removed abandoned temporary files", "count", len(keys), "first", c.join(keys[0]), "error", err)
}

// readDir reads a folder that is named relative to the path.
func (c *ReplicaClient) readDir(ctx context.Context, key string) (entries []fs.FileInfo, err error) {
	began := time.Now()
	err = c.do(ctx, func(ctx context.Context, s *session) error {
		found := make(chan []fs.FileInfo, 1)
		err := s.call(ctx, func(client *sftp.Client) error {
			a, err := client.ReadDirContext(ctx, c.join(key))
			if err == nil {
				found <- a
			}
			return err
		})
		if err == nil {
			entries = <-found
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		c.observe("LIST", 0, began, nil)
		return nil, fs.ErrNotExist
	}
	c.observe("LIST", 0, began, err)
	if err != nil {
		return nil, c.wrap("list", key, err)
	}
	return entries, nil
}

// readTimestamp returns the timestamp of a file's header. A file without one
// keeps what the listing said: it is refused when it is read.
func (c *ReplicaClient) readTimestamp(ctx context.Context, info *ltx.FileInfo) (time.Time, error) {
	rc, err := c.OpenLTXFile(ctx, info.Level, info.MinTXID, info.MaxTXID, 0, ltx.HeaderSize)
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
