package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// tenantReplica counts requests as a store bills them: one for a listing of
// all levels and one for a batch of deletions.
type tenantReplica struct {
	*testutil.MemClient
	tb         testing.TB
	headerTime bool // listings show the header's timestamp, as the file backend does
	counts     map[string]int
	deletes    int // deletions until errCrash; negative is never
	decoded    map[string]*replicaFile
	during     func()                                     // called before and after requests
	wrote      func(level int, minTXID, maxTXID ltx.TXID) // told of each file
	unseen     []ltx.TXID                                 // of level 0, each by one listing
}

func (r *tenantReplica) interrupt() {
	if r.during != nil {
		r.during()
	}
}

func (r *tenantReplica) LTXTree(ctx context.Context) (tree []*ltx.FileInfo, err error) {
	r.counts["LIST"]++
	defer r.interrupt()
	tree, err = r.MemClient.LTXTree(ctx)
	if len(r.unseen) > 0 {
		txid := r.unseen[0]
		r.unseen = r.unseen[1:]
		tree = slices.DeleteFunc(tree, func(f *ltx.FileInfo) bool { return f.Level == 0 && f.MinTXID == txid })
	}
	if err != nil || !r.headerTime {
		return tree, err
	}
	for i, info := range tree {
		for _, f := range r.Files(info.Level) {
			if f.MinTXID == info.MinTXID && f.MaxTXID == info.MaxTXID {
				tree[i] = f
			}
		}
	}
	return tree, nil
}

func (r *tenantReplica) LTXFiles(context.Context, int, ltx.TXID, bool) (ltx.FileIterator, error) {
	r.tb.Error("a single level was listed")
	return nil, errors.New("unexpected")
}

func (r *tenantReplica) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	r.counts["GET"]++
	r.interrupt()
	return r.MemClient.OpenLTXFile(ctx, level, minTXID, maxTXID, offset, size)
}

func (r *tenantReplica) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, body io.Reader) (*ltx.FileInfo, error) {
	r.counts[fmt.Sprintf("PUT %d", level)]++
	if r.wrote != nil {
		r.wrote(level, minTXID, maxTXID)
	}
	if level > 0 {
		r.interrupt()
	}
	return r.MemClient.WriteLTXFile(ctx, level, minTXID, maxTXID, body)
}

func (r *tenantReplica) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	r.counts["DELETE"]++
	for _, info := range a {
		if r.deletes == 0 {
			return errCrash
		}
		r.deletes--
		if err := r.MemClient.DeleteLTXFiles(ctx, []*ltx.FileInfo{info}); err != nil {
			return err
		}
	}
	return nil
}

// take returns the requests since the last call.
func (r *tenantReplica) take() map[string]int {
	counts := r.counts
	r.counts = map[string]int{}
	return counts
}

func (r *tenantReplica) names(level int) []string {
	names := []string{}
	for _, f := range r.Files(level) {
		names = append(names, fmt.Sprintf("%d-%d", f.MinTXID, f.MaxTXID))
	}
	return names
}

// decode returns the content of a file, which never changes under a name.
func (r *tenantReplica) decode(info *ltx.FileInfo) *replicaFile {
	key := fixtureKey(info.Level, info.MinTXID, info.MaxTXID)
	data, ok := r.Data(info.Level, info.MinTXID, info.MaxTXID)
	if !ok {
		return nil
	}
	if f := r.decoded[key]; f != nil && bytes.Equal(f.data, data) {
		return f
	}
	f := decodeFixture(r.tb, data)
	f.info = *info
	r.decoded[key] = f
	return f
}

func (r *tenantReplica) listing() (levels listing) {
	for level := range levels {
		levels[level] = r.Files(level)
	}
	return levels
}

// tenantFixture is one database of a fleet whose clock goes where it is due.
type tenantFixture struct {
	t        *testing.T
	db       fixtureDB
	uploaded ltx.TXID
	client   *tenantReplica
	m        *litestream.TenantMaintainer
	path     string
	files    litestream.TenantFiles
	now      time.Time
	gone     bool
	runs     int
	times    map[ltx.TXID]time.Time // of the transactions, if not that of the upload
	snapErr  error
	local    func(level int, minTXID, maxTXID ltx.TXID) (io.ReadCloser, error)
}

func defaultMaintenance() litestream.MaintenanceSettings {
	return litestream.MaintenanceSettings{
		Levels:            litestream.DefaultCompactionLevels(),
		SnapshotInterval:  litestream.DefaultSnapshotInterval,
		SnapshotRetention: litestream.DefaultSnapshotRetention,
		L0Retention:       litestream.DefaultL0Retention,
		Grace:             litestream.DefaultRetentionGrace,
		RetentionEnabled:  true,
	}
}

func newTenantFixture(t *testing.T) *tenantFixture {
	t.Helper()
	fx := &tenantFixture{t: t, path: "/data/t1.db", now: time.Date(2026, 11, 22, 12, 0, 1, 0, time.UTC)}
	clock := func() time.Time { return fx.now }
	mem := testutil.NewMemClient()
	mem.Now = clock
	fx.client = &tenantReplica{
		MemClient: mem, tb: t, counts: map[string]int{}, deletes: -1, decoded: map[string]*replicaFile{},
	}
	fx.m = &litestream.TenantMaintainer{Settings: defaultMaintenance(), StagingDir: t.TempDir(), Now: clock}
	return fx
}

// large makes the database so large that a snapshot outweighs many files.
func (fx *tenantFixture) large() {
	fx.t.Helper()
	fx.db.commit(6000)
	for i := range fx.db.history[0] {
		fx.db.history[0][i] = uint64(i)*0x9e3779b97f4a7c15 + 1
	}
	fx.upload()
}

// commit writes n transactions of one page and uploads each.
func (fx *tenantFixture) commit(n int, gap time.Duration) {
	fx.t.Helper()
	for range n {
		size := max(len(fx.db.at(fx.db.txid())), 4)
		fx.db.commit(size, 1+int(fx.db.txid())%4)
		fx.upload()
		fx.now = fx.now.Add(gap)
	}
}

// upload sends what was committed.
func (fx *tenantFixture) upload() {
	fx.t.Helper()
	for fx.uploaded < fx.db.txid() {
		fx.uploaded++
		at, ok := fx.times[fx.uploaded]
		if !ok {
			at = fx.now
		}
		data := fx.db.ltx(fx.t, fx.uploaded, fx.uploaded, at, fx.checksums())
		fx.note(func(f *litestream.TenantFiles) {
			f.NoteUpload(fx.db.upload(fx.t, fx.client, 0, data), fx.now)
		})
	}
}

// checksums are left out where they take the test's time.
func (fx *tenantFixture) checksums() bool { return len(fx.db.at(1)) < 1000 }

// note applies a change and checks that the record survives being stored.
func (fx *tenantFixture) note(change func(*litestream.TenantFiles)) {
	fx.t.Helper()
	change(&fx.files)
	data, err := fx.files.MarshalBinary()
	if err != nil || len(data) >= 200 {
		fx.t.Fatalf("record of %d bytes, err=%v", len(data), err)
	}
	var got litestream.TenantFiles
	if err := got.UnmarshalBinary(data); err != nil {
		fx.t.Fatal(err)
	}
	if got != fx.files {
		fx.t.Fatalf("decoded %+v, want %+v", got, fx.files)
	}
}

func (fx *tenantFixture) snapshot(context.Context) (*ltx.FileInfo, error) {
	if fx.snapErr != nil {
		return nil, fx.snapErr
	}
	fx.upload() //nolint:contextcheck // the fixture's requests belong to the test
	data := fx.db.ltx(fx.t, 1, fx.uploaded, fx.now, fx.checksums())
	return fx.db.upload(fx.t, fx.client, litestream.SnapshotLevel, data), nil //nolint:contextcheck // likewise
}

func (fx *tenantFixture) target() litestream.TenantTarget {
	target := litestream.TenantTarget{
		Path: fx.path, Client: fx.client, Files: fx.files, Note: fx.note, Snapshot: fx.snapshot, LocalFile: fx.local,
	}
	if fx.gone {
		target.Snapshot = nil
	}
	return target
}

func (fx *tenantFixture) due() time.Time { return fx.files.Due(fx.m.Settings, fx.path) }

// run runs what is due; afterwards nothing may be.
func (fx *tenantFixture) run() error {
	fx.t.Helper()
	fx.runs++
	err := fx.m.Run(fx.t.Context(), fx.target())
	if due := fx.due(); err == nil && !due.IsZero() && !due.After(fx.now) {
		fx.t.Fatalf("due at %s after a run at %s: %+v", due, fx.now, fx.files)
	}
	return err
}

// pass lets time go by and runs whatever becomes due.
func (fx *tenantFixture) pass(d time.Duration) {
	fx.t.Helper()
	end := fx.now.Add(d)
	for due := fx.due(); !due.IsZero() && !due.After(end); due = fx.due() {
		if due.After(fx.now) {
			fx.now = due
		}
		if err := fx.run(); err != nil {
			fx.t.Fatalf("%s: %v", fx.now, err)
		}
	}
	fx.now = end
}

func (fx *tenantFixture) wantRequests(want map[string]int) {
	fx.t.Helper()
	if diff := cmp.Diff(want, fx.client.take(), cmpopts.EquateEmpty()); diff != "" {
		fx.t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// plan returns the files that a restore to txid reads; nil if none leads there.
func (fx *tenantFixture) plan(levels listing, txid ltx.TXID) (chain []*replicaFile) {
	infos, err := litestream.PlanRestore(levels, txid, time.Time{})
	if err != nil {
		return nil
	}
	for _, info := range infos {
		chain = append(chain, fx.client.decode(info))
	}
	return chain
}

func (fx *tenantFixture) wantFiles(want map[int][]string) {
	fx.t.Helper()
	got := map[int][]string{}
	for level := range litestream.SnapshotLevel + 1 {
		if names := fx.client.names(level); len(names) > 0 {
			got[level] = names
		}
	}
	if !maps.EqualFunc(want, got, slices.Equal[[]string]) {
		fx.t.Errorf("files (-want +got):\n%s", cmp.Diff(want, got))
	}
}
