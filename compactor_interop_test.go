package litestream_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/tests/servers"
)

// interopFixture is a real SQLite database whose transactions are put on a
// replica by hand, in upstream's layout and without checksums.
type interopFixture struct {
	t        *testing.T
	path     string
	conn     *sql.Conn
	pageSize int
	images   [][]byte // the whole database after each transaction
	client   *file.ReplicaClient
	c        *litestream.Compactor
	now      time.Time
}

func newInteropFixture(t *testing.T) *interopFixture {
	t.Helper()
	dir := t.TempDir()
	fx := &interopFixture{
		t: t, path: filepath.Join(dir, "db"), pageSize: 1024,
		client: file.NewReplicaClient(filepath.Join(dir, "replica")),
		now:    time.Now().Add(-72 * time.Hour).Truncate(time.Second),
	}
	db, err := sql.Open("sqlite3", fx.path)
	if err != nil {
		t.Fatal(err)
	}
	if fx.conn, err = db.Conn(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(fx.conn.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	fx.c = litestream.NewCompactor(fx.client, nil)
	fx.c.Now = func() time.Time { return fx.now }
	fx.c.StagingDir = dir
	return fx
}

// exec runs a statement and replicates what it changed.
func (fx *interopFixture) exec(query string) {
	fx.t.Helper()
	if _, err := fx.conn.ExecContext(fx.t.Context(), query); err != nil {
		fx.t.Fatalf("%s: %v", query, err)
	}
	image, err := os.ReadFile(fx.path)
	if err != nil {
		fx.t.Fatal(err)
	}
	var before []byte
	if n := len(fx.images); n > 0 {
		before = fx.images[n-1]
	}
	if bytes.Equal(image, before) {
		return
	}
	fx.images = append(fx.images, image)
	fx.now = fx.now.Add(time.Second)
	txid := ltx.TXID(len(fx.images))
	fx.c.NoteL0(fx.put(0, txid, txid, before, image))
}

// put writes the pages of image that differ from before.
func (fx *interopFixture) put(level int, minTXID, maxTXID ltx.TXID, before, image []byte) *ltx.FileInfo {
	fx.t.Helper()
	var buf bytes.Buffer
	enc, err := ltx.NewEncoder(&buf)
	if err != nil {
		fx.t.Fatal(err)
	}
	n := fx.pageSize
	if err := enc.EncodeHeader(ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: uint32(n), Commit: uint32(len(image) / n),
		MinTXID: minTXID, MaxTXID: maxTXID, Timestamp: fx.now.UnixMilli(),
	}); err != nil {
		fx.t.Fatal(err)
	}
	for off := 0; off < len(image); off += n {
		page := image[off : off+n]
		if off+n <= len(before) && bytes.Equal(page, before[off:off+n]) {
			continue
		}
		if err := enc.EncodePage(ltx.PageHeader{Pgno: uint32(off/n + 1)}, page); err != nil {
			fx.t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		fx.t.Fatal(err)
	}
	info, err := fx.client.WriteLTXFile(fx.t.Context(), level, minTXID, maxTXID, &buf)
	if err != nil {
		fx.t.Fatal(err)
	}
	return info
}

// levels returns what the replica holds, level by level.
func (fx *interopFixture) levels() (levels listing) {
	fx.t.Helper()
	for level := range levels {
		itr, err := fx.client.LTXFiles(fx.t.Context(), level, 0, false)
		if err != nil {
			fx.t.Fatal(err)
		}
		if levels[level], err = ltx.SliceFileIterator(itr); err != nil {
			fx.t.Fatal(err)
		}
	}
	return levels
}

// check restores with upstream's program, the newest state and every boundary
// of level 1 that a plan leads to, and compares all bytes.
func (fx *interopFixture) check(upstream string) (n int) {
	fx.t.Helper()
	fx.restore(upstream, "", fx.images[len(fx.images)-1])
	levels := fx.levels()
	for _, info := range levels[1] {
		if _, err := litestream.PlanRestore(levels, info.MaxTXID, time.Time{}); err == nil {
			fx.restore(upstream, info.MaxTXID.String(), fx.images[info.MaxTXID-1])
			n++
		}
	}
	return n
}

func (fx *interopFixture) restore(upstream, txid string, want []byte) {
	fx.t.Helper()
	out := filepath.Join(fx.t.TempDir(), "out")
	args := []string{"restore", "-o", out}
	if txid != "" {
		args = append(args, "-txid", txid)
	}
	args = append(args, "file://"+fx.client.Path())
	ctx, cancel := context.WithTimeout(fx.t.Context(), 30*time.Second)
	defer cancel()
	if msg, err := exec.CommandContext(ctx, upstream, args...).CombinedOutput(); err != nil {
		fx.t.Fatalf("%s %q: %v\n%s", upstream, args, err, msg)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		fx.t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		fx.t.Fatalf("upstream's restore of %q differs: %d and %d bytes", txid, len(got), len(want))
	}
}

// TestCompactor_UpstreamRestores has upstream's program restore a replica of a
// real database before and after compaction and retention.
func TestCompactor_UpstreamRestores(t *testing.T) {
	t.Parallel()
	upstream := servers.Upstream(t)
	fx := newInteropFixture(t)
	rng := rand.New(rand.NewPCG(7, 7))
	fx.exec("PRAGMA page_size=1024")
	fx.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
	snapshot := func() {
		pos := ltx.TXID(len(fx.images))
		fx.c.NoteSnapshot(fx.put(litestream.SnapshotLevel, 1, pos, nil, fx.images[pos-1]))
	}
	compact := func() {
		for level := 1; level <= fx.c.Levels.MaxLevel(); level++ {
			if _, err := fx.c.Compact(t.Context(), level); err != nil && !errors.Is(err, litestream.ErrNoCompaction) {
				t.Fatalf("Compact(%d): %v", level, err)
			}
		}
	}
	snapshot()
	for day := range 3 {
		for range 4 {
			for range 4 {
				fx.exec(fmt.Sprintf("INSERT INTO t (v) VALUES (randomblob(%d))", 100+rng.IntN(20000)))
			}
			fx.exec(fmt.Sprintf("UPDATE t SET v=randomblob(300) WHERE id%%%d=0", 2+rng.IntN(3)))
			fx.exec(fmt.Sprintf("DELETE FROM t WHERE id%%%d=1", 2+rng.IntN(3)))
			if day == 1 {
				fx.exec("VACUUM")
			}
			if day == 0 {
				fx.check(upstream)
			}
			compact()
		}
		fx.check(upstream)
		fx.now = fx.now.Add(12 * time.Hour)
		snapshot()
		fx.now = fx.now.Add(11 * time.Hour)
		l0, err := fx.c.EnforceL0Retention(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		rest, err := fx.c.EnforceSnapshotRetention(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		points := fx.check(upstream)
		t.Logf("day %d: %d transactions, %d and %d files deleted, %d points restored by upstream", day, len(fx.images), l0, rest, points)
		if l0 == 0 || points == 0 || day == 2 && rest == 0 {
			t.Errorf("day %d: nothing was deleted or restored", day)
		}
	}
}
