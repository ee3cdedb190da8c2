package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// diffModel is a source whose rows are known at each position.
type diffModel struct {
	*source

	rnd  *rand.Rand
	rows map[ltx.TXID]map[string]map[string]string // of each table by key
}

// diffTables are tables with the expression of their key and of all else.
var diffTables = map[string][2]string{
	"a":     {"id", "hex(v)"},
	"w":     {"k||'|'||n", "hex(v)"},
	"extra": {"rowid", "v"},
}

func newDiffModel(t *testing.T, rnd *rand.Rand, client litestream.ReplicaClient) *diffModel {
	t.Helper()
	m := &diffModel{newSource(t, client, 512<<rnd.IntN(4), rnd.IntN(2) == 0), rnd, map[ltx.TXID]map[string]map[string]string{}}
	m.exec(fmt.Sprintf("PRAGMA auto_vacuum=%d", rnd.IntN(3)))
	m.exec("CREATE TABLE a (id INTEGER PRIMARY KEY, v BLOB, g AS (length(v)))")
	m.exec("CREATE TABLE w (k TEXT, n INT, v BLOB, PRIMARY KEY (n DESC, k COLLATE NOCASE)) WITHOUT ROWID")
	return m
}

// commit changes some rows, or more, and captures that.
func (m *diffModel) commit() {
	m.tb.Helper()
	size := func() int { return []int{0, 20, 300, 3000, 12000}[m.rnd.IntN(5)] }
	for range m.rnd.IntN(12) {
		id := m.rnd.IntN(120)
		switch m.rnd.IntN(7) {
		case 0, 1:
			m.exec("INSERT OR REPLACE INTO a (id, v) VALUES (?, randomblob(?))", id, size())
		case 2:
			m.exec("UPDATE a SET v=randomblob(length(v)) WHERE id=?", id)
		case 3:
			m.exec("DELETE FROM a WHERE id BETWEEN ? AND ?", id, id+m.rnd.IntN(9))
		case 4, 5:
			m.exec("INSERT OR REPLACE INTO w VALUES (?, ?, randomblob(?))", fmt.Sprintf("Key%d", id), id%3, size())
		case 6:
			m.exec("DELETE FROM w WHERE k LIKE ?", fmt.Sprintf("%%%d", id%10))
		}
	}
	switch m.rnd.IntN(12) {
	case 0:
		m.exec("VACUUM")
	case 1:
		m.exec("PRAGMA incremental_vacuum")
	case 2:
		m.exec("CREATE INDEX IF NOT EXISTS a_v ON a (substr(v,1,30))")
	case 3:
		m.exec("DROP INDEX IF EXISTS a_v")
	case 4:
		m.exec("CREATE TABLE IF NOT EXISTS extra (v TEXT)")
		m.exec("INSERT INTO extra SELECT hex(v) FROM a LIMIT 5")
	case 5:
		m.exec("DROP TABLE IF EXISTS extra")
	}
	txid := m.capture()
	m.rows[txid] = map[string]map[string]string{}
	for table, expr := range diffTables {
		m.rows[txid][table] = m.read(table, expr)
	}
}

// read returns the rows of a table; nil: there is none.
func (m *diffModel) read(table string, expr [2]string) map[string]string {
	m.tb.Helper()
	rows, err := m.db.Query(fmt.Sprintf("SELECT %s, %s FROM %s", expr[0], expr[1], table))
	if err != nil && strings.Contains(err.Error(), "no such table") {
		return nil
	} else if err != nil {
		m.tb.Fatal(err)
	}
	defer rows.Close()
	all := map[string]string{}
	for rows.Next() {
		var k, v string
		if err := rows.Scan(&k, &v); err != nil {
			m.tb.Fatal(err)
		}
		all[k] = v
	}
	if err := rows.Err(); err != nil {
		m.tb.Fatal(err)
	}
	return all
}

// compact merges and drops files, so that not every position stays restorable.
func (m *diffModel) compact(client *memReplica) {
	m.tb.Helper()
	for lo := ltx.TXID(2); lo+2 <= m.txid; lo += 3 {
		if m.rnd.IntN(3) > 0 {
			m.write(1, lo, lo+2)
			for txid := lo; txid <= lo+2; txid++ {
				if m.rnd.IntN(2) == 0 {
					delete(client.files, fileKey{0, txid, txid})
				}
			}
		}
	}
	m.write(litestream.SnapshotLevel, 1, 1+ltx.TXID(m.rnd.IntN(int(m.txid))))
}

// wantPages returns how pages differ; written counts those that were others in
// between.
func (m *diffModel) wantPages(from, to ltx.TXID, written bool) litestream.DiffPageCounts {
	a, b := m.images[from], m.images[to]
	want := litestream.DiffPageCounts{Before: len(a) / m.pageSize, After: len(b) / m.pageSize}
	want.Added, want.Removed = max(0, want.After-want.Before), max(0, want.Before-want.After)
	for pgno := uint32(1); int(pgno) <= min(want.Before, want.After); pgno++ {
		if written && m.changed(pgno, from+1, to) || !written && !bytes.Equal(m.page(a, pgno), m.page(b, pgno)) {
			want.Changed++
		}
	}
	return want
}

func (m *diffModel) check(res *litestream.DiffResult, from, to ltx.TXID) {
	m.tb.Helper()
	if d := cmp.Diff(m.wantPages(from, to, res.Method == litestream.DiffFiles), res.Pages); d != "" {
		m.tb.Errorf("%d to %d by %s: pages (-want +got):\n%s", from, to, res.Method, d)
	}
	if res.Before.TXID != from || res.After.TXID != to || res.Before.Bytes() != int64(len(m.images[from])) || res.After.Bytes() != int64(len(m.images[to])) {
		m.tb.Errorf("%d to %d: states %+v and %+v", from, to, res.Before, res.After)
	}
	if res.Level != litestream.DiffRows {
		return
	}
	for table := range diffTables {
		was, is := m.rows[from][table], m.rows[to][table]
		var want litestream.DiffRowCounts
		for k, v := range is {
			if old, ok := was[k]; !ok {
				want.Inserted++
			} else if old != v {
				want.Changed++
			}
		}
		for k := range was {
			if _, ok := is[k]; !ok {
				want.Deleted++
			}
		}
		var got litestream.DiffRowCounts
		for _, e := range res.Entries {
			if e.Name != table {
				continue
			}
			if e.Created != (was == nil) || e.Dropped != (is == nil) || e.Note != "" {
				m.tb.Errorf("%d to %d: %+v", from, to, e)
			}
			got = *e.Rows
		}
		if d := cmp.Diff(want, got); d != "" {
			m.tb.Errorf("%d to %d: rows of %s (-want +got):\n%s", from, to, table, d)
		}
	}
}

// TestDiff_Random compares random restore points of random databases.
func TestDiff_Random(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	methods := map[litestream.DiffMethod]int{}
	for round := range rounds {
		rnd := rand.New(rand.NewPCG(seed, uint64(round)))
		client := newMemReplica()
		m := newDiffModel(t, rnd, client)
		for range 5 + rnd.IntN(20) {
			m.commit()
		}
		m.compact(client)
		tl, err := litestream.OpenTimeline(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		for range 6 {
			i, j := rnd.IntN(len(tl.Points)), rnd.IntN(len(tl.Points))
			from, to := tl.Points[min(i, j)].TXID, tl.Points[max(i, j)].TXID
			scratch := t.TempDir()
			for level := litestream.DiffPages; level <= litestream.DiffRows; level++ {
				res, err := litestream.Diff(t.Context(), client, litestream.DiffOptions{
					From: litestream.DiffPoint{TXID: from}, To: litestream.DiffPoint{TXID: to}, Level: level, ScratchDir: scratch,
				})
				if err != nil {
					t.Fatalf("round %d: %d to %d, level %s: %v", round, from, to, level, err)
				}
				methods[res.Method]++
				m.check(res, from, to)
			}
			if left := folderNames(t, scratch); len(left) > 0 {
				t.Errorf("left in the scratch folder: %q", left)
			}
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	t.Logf("methods: %v", methods)
}

// TestDiff_Replicated compares what a database that is replicated was, across
// checkpoints and a restart of its log.
func TestDiff_Replicated(t *testing.T) {
	dir := t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
	mustExec(t, app, "CREATE TABLE other (v)")
	mustExec(t, app, "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<500) INSERT INTO t SELECT i, randomblob(200) FROM n")
	db := replicated(t, path, replica)
	syncAll(t, db)
	client := file.NewReplicaClient(replica)
	diff := func(from ltx.TXID, level litestream.DiffLevel) *litestream.DiffResult {
		t.Helper()
		res, err := litestream.Diff(t.Context(), client, litestream.DiffOptions{From: litestream.DiffPoint{TXID: from}, Level: level, Keys: 2, ScratchDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	first := diff(1, litestream.DiffPages).After.TXID
	mustExec(t, app, "UPDATE t SET v=randomblob(200) WHERE id IN (7, 300)")
	syncAll(t, db)
	mustExec(t, app, "PRAGMA busy_timeout=50") // the replicator's lock keeps the log, however long this waits
	mustExec(t, app, "PRAGMA wal_checkpoint(TRUNCATE)")
	mustExec(t, app, "PRAGMA busy_timeout=5000")
	mustExec(t, app, "DELETE FROM t WHERE id>490")
	syncAll(t, db)
	mustExec(t, app, "INSERT INTO t VALUES (1000, 'x')")
	syncAll(t, db)
	res := diff(first, litestream.DiffRows)
	var got []string
	for _, e := range res.Entries {
		if e.Rows != nil && e.Name != "sqlite_schema" { // its first page holds the header, too
			got = append(got, fmt.Sprintf("%s +%d -%d ~%d %v", e.Name, e.Rows.Inserted, e.Rows.Deleted, e.Rows.Changed, e.Rows.Keys))
		}
	}
	if want := []string{"t +1 -10 ~2 [{changed 7} {changed 300}]"}; !slices.Equal(got, want) || res.Same == 0 || !res.Differs() {
		t.Errorf("got %q and %d the same, want %q\n%+v", got, res.Same, want, res)
	}
	if pages := diff(first, litestream.DiffPages); pages.Method != litestream.DiffFiles || pages.Pages.Changed < res.Pages.Changed {
		t.Errorf("pages %+v, rows %+v", pages, res)
	}
	if same := diff(res.After.TXID, litestream.DiffRows); same.Method != litestream.DiffNothing || same.Differs() {
		t.Errorf("of one point: %+v", same)
	}
}

// diffFixture is a replica of six positions, of which two cannot be restored.
func diffFixture(t *testing.T) (*source, *memReplica) {
	t.Helper()
	client := newMemReplica()
	s := newSource(t, client, 1024, true)
	s.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
	for i := range 6 {
		s.exec("INSERT INTO t (v) VALUES (?)", i)
		s.capture()
	}
	return s, client
}

func TestDiff_Errors(t *testing.T) {
	s, client := diffFixture(t)
	at := func(txid ltx.TXID) litestream.DiffPoint { return litestream.DiffPoint{TXID: txid} }
	before := func(d time.Duration) litestream.DiffPoint {
		return litestream.DiffPoint{Timestamp: s.timeOf(1).Add(d)}
	}
	gap := newMemReplica()
	for k, b := range client.files {
		gap.files[k], gap.times[k] = b, client.times[k]
	}
	delete(gap.files, fileKey{0, 4, 4})
	notFolder := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notFolder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		client litestream.ReplicaClient
		opt    litestream.DiffOptions
		is     error
		text   string
	}{
		{"NoPoint", client, litestream.DiffOptions{}, nil, "the first point is not given"},
		{"Order", client, litestream.DiffOptions{From: at(5), To: at(2)}, litestream.ErrDiffOrder, "txid 0000000000000005 of 2026-01-02T03:04:10Z, and txid 0000000000000002"},
		{"TooEarly", client, litestream.DiffOptions{From: before(0)}, litestream.ErrTxNotAvailable, "first point: transaction not available: timestamp 2026-01-02T03:04:06Z is not after the first backup, which was made at 2026-01-02T03:04:06Z"},
		{"TooNew", client, litestream.DiffOptions{From: at(1), To: at(9)}, litestream.ErrTxNotAvailable, "second point: transaction not available: 0000000000000009 is newer than the newest on the replica, 0000000000000006"},
		{"Gap", gap, litestream.DiffOptions{From: at(2)}, litestream.ErrNonContiguous, "second point"},
		{"Empty", newMemReplica(), litestream.DiffOptions{From: at(1)}, litestream.ErrNoBackups, ""},
		{"Scratch", client, litestream.DiffOptions{From: at(1), Level: litestream.DiffTables, ScratchDir: notFolder}, nil, "name another place with -scratch"},
		{"NoScratch", client, litestream.DiffOptions{From: at(1), Level: litestream.DiffTables, ScratchDir: filepath.Join(t.TempDir(), "x")}, fs.ErrNotExist, "name another place with -scratch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := litestream.Diff(t.Context(), tt.client, tt.opt)
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.is, tt.text)
			}
		})
	}
	// In front of the gap all is well.
	if res, err := litestream.Diff(t.Context(), gap, litestream.DiffOptions{From: at(1), To: at(3)}); err != nil || res.After.TXID != 3 {
		t.Errorf("got %+v, %v", res, err)
	}
	// A time stands for what was captured before it.
	if res, err := litestream.Diff(t.Context(), client, litestream.DiffOptions{From: before(1), To: before(3 * time.Second)}); err != nil || res.Before.TXID != 1 || res.After.TXID != 3 {
		t.Errorf("got %+v, %v", res, err)
	}
}

// TestDiff_Room refuses to fill a disk.
func TestDiff_Room(t *testing.T) {
	dir := testutil.SmallDisk(t, "64k")
	s, client := diffFixture(t)
	s.exec("INSERT INTO t (v) VALUES (zeroblob(100000))")
	s.capture()
	opt := litestream.DiffOptions{From: litestream.DiffPoint{TXID: 1}, Level: litestream.DiffTables, ScratchDir: dir}
	if _, err := litestream.Diff(t.Context(), client, opt); !errors.Is(err, litestream.ErrDiskFull) || !strings.Contains(err.Error(), "-level pages") {
		t.Errorf("got %v", err)
	}
	if left := folderNames(t, dir); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	opt.Level = litestream.DiffPages
	if res, err := litestream.Diff(t.Context(), client, opt); err != nil || res.Pages.Added < 90 {
		t.Errorf("got %+v, %v", res, err)
	}
}

// TestDiff_Canceled leaves nothing in the scratch folder. Behind the last opens,
// which are under way at once, it may come too late to be noticed.
func TestDiff_Canceled(t *testing.T) {
	_, client := diffFixture(t)
	why := errors.New("why")
	for n := range 8 {
		ctx, cancel := context.WithCancelCause(t.Context())
		scratch, opens := t.TempDir(), 0
		client.onOpen = func(_ fileKey, _, _ int64, r io.ReadCloser) (io.ReadCloser, error) {
			client.mu.Lock()
			defer client.mu.Unlock()
			if opens++; opens > n {
				cancel(why)
			}
			return r, nil
		}
		_, err := litestream.Diff(ctx, client, litestream.DiffOptions{From: litestream.DiffPoint{TXID: 2}, To: litestream.DiffPoint{TXID: 5}, Level: litestream.DiffRows, ScratchDir: scratch})
		if err == nil && n < 4 {
			t.Errorf("after %d opens: no error", n)
		}
		if left := folderNames(t, scratch); len(left) > 0 {
			t.Errorf("after %d opens: left %q", n, left)
		}
		cancel(nil)
	}
}

// TestDiff_FileGone plans again when compaction takes a file away.
func TestDiff_FileGone(t *testing.T) {
	s, client := diffFixture(t)
	s.write(1, 2, 4)
	s.write(1, 3, 4)
	first := true
	client.onOpen = func(k fileKey, _, _ int64, r io.ReadCloser) (io.ReadCloser, error) {
		client.mu.Lock()
		defer client.mu.Unlock()
		if k == (fileKey{1, 3, 4}) && first {
			first = false
			delete(client.files, k)
		}
		if _, ok := client.files[k]; !ok {
			return nil, &litestream.ReplicaError{Type: "mem", Op: "get", Err: os.ErrNotExist}
		}
		return r, nil
	}
	res, err := litestream.Diff(t.Context(), client, litestream.DiffOptions{From: litestream.DiffPoint{TXID: 2}, To: litestream.DiffPoint{TXID: 4}})
	if err != nil || first || res.Method != litestream.DiffFiles {
		t.Errorf("got %+v, %v", res, err)
	}
}

// TestDiff_Checksums compares two snapshots between which no files are left.
func TestDiff_Checksums(t *testing.T) {
	s, client := diffFixture(t)
	s.write(litestream.SnapshotLevel, 1, 3)
	s.write(litestream.SnapshotLevel, 1, 6)
	for k := range client.files {
		if k.level == 0 {
			delete(client.files, k)
		}
	}
	opt := litestream.DiffOptions{From: litestream.DiffPoint{TXID: 3}}
	res, err := litestream.Diff(t.Context(), client, opt)
	if err != nil || res.Method != litestream.DiffChecksums {
		t.Fatalf("got %+v, %v", res, err)
	}
	m := &diffModel{source: s}
	m.check(res, 3, 6)
	// What was written in between is a smaller read, and no more than that.
	s.write(1, 4, 6)
	if res, err = litestream.Diff(t.Context(), client, opt); err != nil || res.Method != litestream.DiffFiles {
		t.Fatalf("got %+v, %v", res, err)
	}
	m.check(res, 3, 6)
	client.files[fileKey{1, 4, 6}][120] ^= 1
	var le *litestream.LTXError
	if res, err = litestream.Diff(t.Context(), client, opt); !errors.As(err, &le) || le.MinTXID != 4 {
		t.Errorf("of a damaged file: %+v, %v", res, err)
	}
}

// TestDiff_PageSize compares across a snapshot with pages of another size.
func TestDiff_PageSize(t *testing.T) {
	s, client := diffFixture(t)
	s.exec("PRAGMA page_size=4096")
	s.exec("VACUUM")
	s.pageSize = 4096
	s.exec("UPDATE t SET v='new' WHERE id=3")
	image, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.images[7] = image
	pages := map[uint32][]byte{}
	for pgno := uint32(1); s.page(image, pgno) != nil; pgno++ {
		pages[pgno] = s.page(image, pgno)
	}
	hdr := ltx.Header{Version: ltx.Version, PageSize: 4096, Commit: uint32(len(pages)), MinTXID: 1, MaxTXID: 7, Timestamp: s.timeOf(7).UnixMilli()}
	data := testutil.BuildLTXChecksum(t, hdr, pages, testutil.DatabaseChecksum(pages))
	if _, err := client.WriteLTXFile(t.Context(), litestream.SnapshotLevel, 1, 7, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	for level := litestream.DiffPages; level <= litestream.DiffRows; level++ {
		res, err := litestream.Diff(t.Context(), client, litestream.DiffOptions{From: litestream.DiffPoint{TXID: 6}, Level: level})
		if err != nil {
			t.Fatal(err)
		}
		n := len(s.images[6]) / 1024
		if want := (litestream.DiffPageCounts{Before: n, After: len(pages), Added: len(pages), Removed: n}); res.Pages != want || res.Before.PageSize != 1024 || res.After.PageSize != 4096 {
			t.Errorf("level %s: got %+v, want %+v", level, res, want)
		}
		if level == litestream.DiffRows {
			i := slices.IndexFunc(res.Entries, func(e litestream.DiffEntry) bool { return e.Name == "t" })
			if r := res.Entries[i].Rows; r.Changed != 1 || r.Inserted+r.Deleted != 0 {
				t.Errorf("rows %+v, want 1 changed", r)
			}
		}
	}
}

// TestDiff_Collation tells why rows are not compared, and compares the others.
func TestDiff_Collation(t *testing.T) {
	_, client := diffFixture(t)
	s := newSource(t, client, 1024, true)
	s.exec("CREATE TABLE w (k TEXT PRIMARY KEY COLLATE NOCASE) WITHOUT ROWID")
	s.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
	s.exec("PRAGMA writable_schema=on")
	s.exec("UPDATE sqlite_schema SET sql=replace(sql, 'NOCASE', 'GERMAN') WHERE name='w'")
	clear(client.files)
	s.capture()
	s.exec("INSERT INTO w VALUES ('x')")
	s.exec("INSERT INTO t VALUES (1, 2)")
	s.capture()
	res, err := litestream.Diff(t.Context(), client, litestream.DiffOptions{From: litestream.DiffPoint{TXID: 1}, Level: litestream.DiffRows})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range res.Entries {
		switch e.Name {
		case "w":
			if e.Rows != nil || !strings.Contains(e.Note, "collation GERMAN") {
				t.Errorf("got %+v", e)
			}
		case "t":
			if e.Rows == nil || e.Rows.Inserted != 1 {
				t.Errorf("got %+v", e)
			}
		}
	}
}
