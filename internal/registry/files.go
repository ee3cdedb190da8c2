package registry

import (
	"context"
	"fmt"
)

// Files returns the Files of a row, with what is queued taken into account, or
// nil if there are none or the row is damaged. The caller must not change them.
func (r *Registry) Files(ctx context.Context, id uint32) ([]byte, error) {
	var rec Record
	if c, ok := r.queuedRow(id); ok {
		if c.row == nil || !decode(&rec, int64(id), c.row[:c.pathN], c.row[c.pathN:]) {
			return nil, nil
		}
		return rec.Files, nil
	}
	r.rmu.Lock()
	defer r.rmu.Unlock()
	if r.r == nil {
		return nil, fmt.Errorf("read row %d: %w", id, ErrClosed)
	}
	row := newRow()
	err := r.r.byID.rows(ctx, row.dest, func() error {
		if !row.decode(&rec) {
			rec.Files = nil
		}
		return nil
	}, int64(id))
	if err != nil {
		return nil, fmt.Errorf("read row %d of registry %s: %w", id, r.path(), err)
	}
	return append([]byte(nil), rec.Files...), nil
}

// queuedRow returns the newest queued change of a row.
func (r *Registry) queuedRow(id uint32) (change, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.queue[id]; ok {
		return c, true
	}
	c, ok := r.inflight[id]
	return c, ok
}
