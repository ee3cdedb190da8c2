package sftp

import (
	"context"
	"errors"
	"io/fs"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

var _ litestream.RemnantClient = (*ReplicaClient)(nil)

// Remnants lists the temporary files of writes. Backups of Litestream v0.3 are
// not read over SFTP.
func (c *ReplicaClient) Remnants(ctx context.Context) (remnants []litestream.Remnant, err error) {
	for level := range litestream.SnapshotLevel + 1 {
		entries, err := c.readDir(ctx, levelKey(level))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if _, ok := blob.ParseTempName(e.Name()); ok && !e.IsDir() {
				remnants = append(remnants, litestream.Remnant{
					Kind: litestream.RemnantUpload, Name: levelKey(level) + "/" + e.Name(), Size: e.Size(),
				})
			}
		}
	}
	return remnants, nil
}

// DeleteRemnants deletes files, and the folder of the database if it is empty
// then.
func (c *ReplicaClient) DeleteRemnants(ctx context.Context, remnants []litestream.Remnant) error {
	keys := make([]string, 0, len(remnants))
	for _, r := range remnants {
		keys = append(keys, r.Name)
	}
	if err := c.deleteKeys(ctx, keys); err != nil {
		return err
	}
	return c.removeDir(ctx, "")
}
