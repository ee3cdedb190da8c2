package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// lostTenants are replicas in a folder, and what they hold.
type lostTenants struct {
	tb      testing.TB
	dir     string
	n       int
	image   []byte // of all, but for the mark
	entries []*litestream.FleetRestoreEntry
	opens   atomic.Int64
}

const tenantPageSize = 4096

var tenantTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// newLostTenants makes n replicas below a folder: a snapshot each, and a file
// behind it for every third one.
func newLostTenants(tb testing.TB, dir string, n int) *lostTenants {
	tb.Helper()
	s := newSource(tb, newMemReplica(), tenantPageSize, true)
	s.exec("CREATE TABLE t (v)")
	s.exec("INSERT INTO t VALUES (zeroblob(9000))")
	image, err := os.ReadFile(s.path)
	if err != nil {
		tb.Fatal(err)
	}
	l := &lostTenants{tb: tb, dir: dir, n: n, image: image}
	for i := range n {
		l.write(i)
	}
	l.entries = lostEntries(n, int64(len(image)))
	return l
}

// lostEntries are what a catalog tells of n tenants.
func lostEntries(n int, size int64) (a []*litestream.FleetRestoreEntry) {
	for i := range n {
		a = append(a, &litestream.FleetRestoreEntry{
			Path: fmt.Sprintf("/data/p%d/t%04d.db", i%7, i), Replica: fmt.Sprintf("p%d/t%04d", i%7, i), Size: size,
			TXID: newestOf(i), SyncedAt: tenantTime.Add(time.Duration(i*7919%n) * time.Minute),
		})
	}
	return a
}

func newestOf(i int) ltx.TXID {
	if i%3 == 0 {
		return 2
	}
	return 1
}

// want returns a tenant's database.
func (l *lostTenants) want(i int) []byte { return l.at(i, newestOf(i)) }

func (l *lostTenants) at(i int, txid ltx.TXID) []byte {
	image := bytes.Clone(l.image)
	copy(image[len(image)-40:], fmt.Sprintf("tenant %04d at %s", i, txid))
	return image
}

func (l *lostTenants) client(i int) *file.ReplicaClient {
	return file.NewReplicaClient(filepath.Join(l.dir, filepath.FromSlash(fmt.Sprintf("p%d/t%04d", i%7, i))))
}

// write writes a tenant's replica.
func (l *lostTenants) write(i int) {
	l.tb.Helper()
	for txid := ltx.TXID(1); txid <= newestOf(i); txid++ {
		l.writeAt(i, txid)
	}
}

// writeAt writes one file of a tenant's replica.
func (l *lostTenants) writeAt(i int, txid ltx.TXID) {
	l.tb.Helper()
	level := 9
	if txid > 1 {
		level = 0
	}
	name := filepath.Join(l.client(i).Path(), "ltx", strconv.Itoa(level), ltx.FormatFilename(txid, txid))
	at := tenantTime.Add(time.Duration(txid) * time.Hour)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, l.encode(i, txid), 0o600), os.Chtimes(name, at, at)); err != nil {
		l.tb.Fatal(err)
	}
}

func (l *lostTenants) encode(i int, txid ltx.TXID) []byte {
	l.tb.Helper()
	image := l.at(i, txid)
	sum := func(image []byte) ltx.Checksum {
		c, err := ltx.ChecksumReader(bytes.NewReader(image), tenantPageSize)
		if err != nil {
			l.tb.Fatal(err)
		}
		return c
	}
	hdr := ltx.Header{
		Version: ltx.Version, PageSize: tenantPageSize, Commit: uint32(len(image) / tenantPageSize), MinTXID: txid, MaxTXID: txid,
		Timestamp: tenantTime.Add(time.Duration(txid) * time.Hour).UnixMilli(),
	}
	first := uint32(1)
	if txid > 1 {
		hdr.PreApplyChecksum = sum(l.at(i, txid-1))
		first = hdr.Commit
	}
	var buf bytes.Buffer
	enc, err := ltx.NewEncoder(&buf)
	if err != nil {
		l.tb.Fatal(err)
	}
	enc.SetPostApplyChecksum(sum(image))
	if err := enc.EncodeHeader(hdr); err != nil {
		l.tb.Fatal(err)
	}
	for pgno := first; pgno <= hdr.Commit; pgno++ {
		if err := enc.EncodePage(ltx.PageHeader{Pgno: pgno}, image[(pgno-1)*tenantPageSize:][:tenantPageSize]); err != nil {
			l.tb.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		l.tb.Fatal(err)
	}
	return buf.Bytes()
}

func fleetSeq(a []*litestream.FleetRestoreEntry) iter.Seq2[*litestream.FleetRestoreEntry, error] {
	return func(yield func(*litestream.FleetRestoreEntry, error) bool) {
		for _, e := range a {
			e := *e
			if !yield(&e, nil) {
				return
			}
		}
	}
}

// options restore everything to a folder, a few at a time.
func (l *lostTenants) options(root string) litestream.FleetRestoreOptions {
	return litestream.FleetRestoreOptions{
		Root: root, Source: "file://" + l.dir, Entries: fleetSeq(l.entries), Parallelism: 4,
		Open: func(e *litestream.FleetRestoreEntry) (litestream.ReplicaClient, error) {
			return &countingClient{file.NewReplicaClient(filepath.Join(l.dir, e.Replica)), &l.opens}, nil
		},
	}
}

// countingClient counts the files that are fetched.
type countingClient struct {
	*file.ReplicaClient

	opens *atomic.Int64
}

func (c *countingClient) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	c.opens.Add(1)
	return c.ReplicaClient.OpenLTXFile(ctx, level, minTXID, maxTXID, offset, size)
}

// runFleetRestore runs a restore and returns the outcomes by path.
func runFleetRestore(ctx context.Context, tb testing.TB, opt litestream.FleetRestoreOptions) (litestream.FleetRestoreSummary, map[string]*litestream.FleetRestoreRow) {
	tb.Helper()
	rows := make(map[string]*litestream.FleetRestoreRow)
	report, n := opt.Report, 0
	opt.Report = func(row *litestream.FleetRestoreRow) {
		rows[row.Path] = row
		n++
		if report != nil {
			report(row)
		}
	}
	r, err := litestream.NewFleetRestore(opt)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	if err := r.Load(ctx); err != nil {
		tb.Fatal(err)
	}
	sum, err := r.Run(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	if n != sum.Total {
		tb.Errorf("%d outcomes of %d databases", n, sum.Total)
	}
	if p := r.Progress(); p.Total != sum.Total || p.Finished != sum.Total-sum.Left {
		tb.Errorf("progress at the end: %+v of %+v", p, sum)
	}
	return sum, rows
}

// wantTenants compares all databases below a root with what they were, and
// finds what else lies there.
func (l *lostTenants) wantTenants(root string) {
	l.tb.Helper()
	found := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		base, ok := strings.CutSuffix(d.Name(), ".db")
		i, numbered := numberOf(base)
		if !ok || !numbered {
			l.tb.Errorf("left over: %s", name)
			return nil
		}
		found++
		wantImage(l.tb, name, l.want(i))
		return nil
	})
	if err != nil {
		l.tb.Fatal(err)
	}
	if found != l.n {
		l.tb.Errorf("%d databases, want %d", found, l.n)
	}
}

// numberOf returns which tenant a file is of.
func numberOf(base string) (int, bool) {
	i, err := strconv.Atoi(strings.TrimPrefix(base, "t"))
	return i, err == nil
}

// counts drops what a comparison is not about.
func counts(s litestream.FleetRestoreSummary) litestream.FleetRestoreSummary {
	s.Bytes, s.First, s.FirstPath, s.Stopped = 0, nil, "", nil
	return s
}

// Everything is there, byte for byte, and nothing else; each database costs one
// listing and one request per file.
func TestFleetRestore(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 60)
	for i, e := range l.entries {
		if i%2 == 0 {
			e.HasOwner, e.Mode, e.UID, e.GID = true, 0o4640, os.Getuid(), os.Getgid()
		}
	}
	root := filepath.Join(t.TempDir(), "new", "root")
	sum, rows := runFleetRestore(t.Context(), t, l.options(root))
	want := litestream.FleetRestoreSummary{Total: 60, Restored: 60, Bytes: 60 * int64(len(l.image))}
	if diff := cmp.Diff(want, sum); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	l.wantTenants(root)
	if got := l.opens.Load(); got != 60 { // the snapshot of a two-file plan is read, too
		if got != 60+20 {
			t.Errorf("%d files fetched, want one for each file of the plans", got)
		}
	}
	for i, e := range l.entries {
		row := rows[e.Path]
		if row.Status != litestream.FleetRestored || row.TXID != newestOf(i) || row.Target != filepath.Join(root, e.Path) || row.Warning != "" {
			t.Errorf("%+v", row)
		}
		fi, err := os.Stat(row.Target)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 && fi.Mode() != 0o640 {
			t.Errorf("%s: mode %s", row.Target, fi.Mode())
		}
	}
	sum, _ = runFleetRestore(t.Context(), t, l.options(root))
	if diff := cmp.Diff(litestream.FleetRestoreSummary{Total: 60, Refused: 60}, counts(sum)); diff != "" || !errors.Is(sum.First, litestream.ErrOutputExists) {
		t.Errorf("once more (-want +got), %v:\n%s", sum.First, diff)
	}
	opt := l.options(root)
	opt.Existing = litestream.FleetRestoreSkip
	if sum, _ = runFleetRestore(t.Context(), t, opt); sum.Skipped != 60 {
		t.Errorf("skip: %+v", sum)
	}
	l.wantTenants(root)
}

func TestFleetTarget(t *testing.T) {
	for in, want := range map[string]string{
		"/data/a.db": "data/a.db", "a": "a", "x/y z": "x/y z", "/\xff.db": "\xff.db",
		"": "", "/": "", ".": "", "..": "", "/..": "", "/../etc/passwd": "", "/a/../b": "", "a//b": "", "/a/": "", "//a": "", "./a": "", "a/.": "",
		"/a\x00b": "", "/a-wal": "", "/a-shm": "", "/a-journal": "", "/.restore-litestream/journal": "", "/a/.litestream-restore-1.tmp": "",
	} {
		got, err := litestream.FleetTarget(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
}

// loaded returns the paths that a restore would restore, in order.
func loaded(t *testing.T, opt litestream.FleetRestoreOptions) (paths []string) {
	t.Helper()
	r, err := litestream.NewFleetRestore(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = r.Rows(func(e *litestream.FleetRestoreEntry, _ string) bool {
		paths = append(paths, e.Path)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestFleetRestore_Plan(t *testing.T) {
	at := func(h int) time.Time { return tenantTime.Add(time.Duration(h) * time.Hour) }
	entries := []*litestream.FleetRestoreEntry{
		{Path: "/c", Size: 30, SyncedAt: at(1)},
		{Path: "/a", SyncedAt: at(3)},
		{Path: "/b", Size: 10},
		{Path: "/gone", Size: 1, SyncedAt: at(9), DeletedAt: at(10)},
		{Path: "/b", Size: 10}, // a listing may name a replica twice
		{Path: "/d", Size: 10, SyncedAt: at(2)},
	}
	for _, tt := range []struct {
		name string
		set  func(*litestream.FleetRestoreOptions)
		want string
	}{
		{"Name", func(*litestream.FleetRestoreOptions) {}, "/c /a /b /d"},
		{"Small", func(o *litestream.FleetRestoreOptions) { o.Order = litestream.FleetRestoreBySize }, "/b /d /c /a"},
		{"Recent", func(o *litestream.FleetRestoreOptions) { o.Order = litestream.FleetRestoreByRecent }, "/a /d /c /b"},
		{"Deleted", func(o *litestream.FleetRestoreOptions) { o.Deleted = true }, "/c /a /b /gone /d"},
		{"BeforeDeletion", func(o *litestream.FleetRestoreOptions) { o.Timestamp = at(9) }, "/c /a /b /gone /d"},
		{"BehindDeletion", func(o *litestream.FleetRestoreOptions) { o.Timestamp = at(11) }, "/c /a /b /d"},
		{"Match", func(o *litestream.FleetRestoreOptions) {
			o.Match = func(e *litestream.FleetRestoreEntry) bool { return e.Path < "/c" }
		}, "/a /b"},
	} {
		opt := litestream.FleetRestoreOptions{
			Root: t.TempDir(), Entries: fleetSeq(entries),
			Open: func(*litestream.FleetRestoreEntry) (litestream.ReplicaClient, error) {
				return nil, errors.ErrUnsupported
			},
		}
		tt.set(&opt)
		if got := strings.Join(loaded(t, opt), " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		if got := folderNames(t, opt.Root); len(got) > 0 {
			t.Errorf("%s: loading wrote %q", tt.name, got)
		}
	}
}

// A hostile catalog writes nothing outside of the root, and harms no
// neighbour: neither by paths nor by links that lie in the root already.
func TestFleetRestore_Hostile(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 12)
	base := t.TempDir()
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, dir := range []string{root, outside, filepath.Join(root, "real")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"abs": outside, "up": "../outside", "in": "real", "file.db": "../outside/victim.db"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "victim.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	paths := []string{
		"/../outside/a.db", "/abs/a.db", "/up/a.db", "/up/new/a.db", "/file.db", "/x/../../outside/b.db", "../outside/c.db",
		"/x\x00/a.db", "/in/ok.db", "/y.db", "/y.db-wal", "/y.db/below.db",
	}
	for i, p := range paths {
		l.entries[i].Path = p
	}
	opt := l.options(root)
	sum, rows := runFleetRestore(t.Context(), t, opt)
	// y.db is a file or a folder, whichever came first.
	if rows["/in/ok.db"].Err != nil || (rows["/y.db"].Err == nil) == (rows["/y.db/below.db"].Err == nil) || sum.Restored != 2 || sum.Failed+sum.Refused != 10 {
		t.Errorf("%+v, %v, %v", sum, rows["/in/ok.db"], rows["/y.db"])
	}
	wantImage(t, filepath.Join(root, "real", "ok.db"), l.want(8))
	if got := folderNames(t, outside); !cmp.Equal(got, []string{"victim.db"}) {
		t.Errorf("outside: %q", got)
	}
	wantImage(t, filepath.Join(outside, "victim.db"), nil)
	if got := folderNames(t, base); !cmp.Equal(got, []string{"outside", "root"}) {
		t.Errorf("beside the root: %q", got)
	}
	if _, err := os.Lstat(filepath.Join(root, "y.db-wal")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log beside a database: %v", err)
	}
}

// Two replicas that claim a path are both refused, and a broken replica or a
// slow one keeps nobody else.
func TestFleetRestore_Trouble(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 40)
	l.entries[1].Path = l.entries[2].Path
	name := filepath.Join(l.client(4).Path(), "ltx", "9", ltx.FormatFilename(1, 1))
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(l.client(5).Path()); err != nil {
		t.Fatal(err)
	}
	l.entries[7].TXID = 9
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	root := t.TempDir()
	opt := l.options(root)
	open := opt.Open
	opt.Open = func(e *litestream.FleetRestoreEntry) (litestream.ReplicaClient, error) {
		if e.Path == l.entries[0].Path || e.Path == l.entries[3].Path {
			<-ctx.Done() // the slow ones
			return nil, ctx.Err()
		}
		return open(e)
	}
	finished := 0
	opt.Report = func(*litestream.FleetRestoreRow) {
		if finished++; finished == 38 {
			cancel()
		}
	}
	sum, rows := runFleetRestore(ctx, t, opt)
	want := litestream.FleetRestoreSummary{Total: 40, Restored: 34, Failed: 4, Left: 2, Warnings: 1, Behind: 1}
	if diff := cmp.Diff(want, counts(sum)); diff != "" || !errors.Is(sum.Stopped, context.Canceled) {
		t.Errorf("summary (-want +got), %v:\n%s", sum.Stopped, diff)
	}
	for i, text := range map[int]string{2: "two entries have this path", 4: "ltx file", 5: "no matching backup"} {
		if row := rows[l.entries[i].Path]; row.Status != litestream.FleetRestoreFailed || !strings.Contains(row.Err.Error(), text) {
			t.Errorf("tenant %d: %+v", i, row)
		}
	}
	if row := rows[l.entries[7].Path]; !strings.Contains(row.Warning, "the replica ends at txid 0000000000000001, and reached 0000000000000009") {
		t.Errorf("a replica that lost its end: %+v", row)
	}
	for _, path := range []string{"data/p2/t0002.db", "data/p4/t0004.db", "data/p5/t0005.db", "data/p0/t0000.db"} {
		if _, err := os.Lstat(filepath.Join(root, path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
