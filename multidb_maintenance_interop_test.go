package litestream_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/tests/servers"
)

// TestMaintenance_UpstreamRestores has upstream's program restore what the
// economy leaves on a replica: no snapshot but the first file of level 0, and
// snapshots in the gaps of level 1.
func TestMaintenance_UpstreamRestores(t *testing.T) {
	t.Parallel()
	upstream := servers.Upstream(t)
	fx := newInteropFixture(t)
	m := &litestream.TenantMaintainer{
		Settings: defaultMaintenance(), StagingDir: t.TempDir(), Now: func() time.Time { return fx.now },
	}
	var files litestream.TenantFiles
	exec := func(query string) {
		before := len(fx.images)
		fx.exec(query)
		if len(fx.images) > before {
			l0 := fx.levels()[0]
			files.NoteUpload(l0[len(l0)-1], fx.now)
		}
	}
	target := func() litestream.TenantTarget {
		return litestream.TenantTarget{
			Path: fx.path, Client: fx.client, Files: files,
			Note: func(change func(*litestream.TenantFiles)) { change(&files) },
			Snapshot: func(context.Context) (*ltx.FileInfo, error) {
				pos := len(fx.images)
				return fx.put(litestream.SnapshotLevel, 1, ltx.TXID(pos), nil, fx.images[pos-1]), nil //nolint:contextcheck // it belongs to the test
			},
		}
	}
	for _, query := range []string{
		"PRAGMA page_size=1024", "BEGIN", "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)",
		"INSERT INTO t (v) VALUES (randomblob(150000))", "COMMIT",
	} {
		exec(query)
	}
	points, snapshots := fx.check(upstream), 0
	for burst := range 16 {
		for i := range 4 {
			exec(fmt.Sprintf("INSERT INTO t (v) VALUES (randomblob(%d))", 200+100*i))
		}
		end := fx.now.Add(3 * time.Hour)
		for due := files.Due(m.Settings, fx.path); !due.IsZero() && due.Before(end); due = files.Due(m.Settings, fx.path) {
			fx.now = due
			if err := m.Run(t.Context(), target()); err != nil {
				t.Fatal(err)
			}
		}
		fx.now = end
		if burst%4 == 3 {
			points += fx.check(upstream)
			for _, info := range fx.levels()[litestream.SnapshotLevel] {
				fx.restore(upstream, info.MaxTXID.String(), fx.images[info.MaxTXID-1])
				snapshots++
			}
		}
	}
	t.Logf("%d transactions, %d boundaries and %d snapshots restored", len(fx.images), points, snapshots)
	if points < 8 || snapshots < 3 {
		t.Error("too few were restored")
	}
}
