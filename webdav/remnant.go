package webdav

import (
	"context"
	"errors"
	"io/fs"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

var _ litestream.RemnantClient = (*ReplicaClient)(nil)

// Remnants lists the temporary files of writes. Backups of Litestream v0.3 are
// not read over WebDAV.
func (c *ReplicaClient) Remnants(ctx context.Context) (remnants []litestream.Remnant, err error) {
	for level := range litestream.SnapshotLevel + 1 {
		err := c.readDir(ctx, levelKey(level), func(e entry) {
			if _, ok := blob.ParseTempName(e.name); ok && !e.dir {
				remnants = append(remnants, litestream.Remnant{
					Kind: litestream.RemnantUpload, Name: levelKey(level) + "/" + e.name, Size: max(e.size, 0),
				})
			}
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return remnants, nil
}

// DeleteRemnants deletes files. Folders stay, as with DeleteAll.
func (c *ReplicaClient) DeleteRemnants(ctx context.Context, remnants []litestream.Remnant) error {
	keys := make([]string, 0, len(remnants))
	for _, r := range remnants {
		keys = append(keys, r.Name)
	}
	return c.deleteKeys(ctx, keys)
}
