package interop_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/tests/servers"
)

// A scene is one database, the application that writes to it, and a replica.
type scene struct {
	t      *testing.T
	dir    string
	path   string // of the database
	app    *sql.DB
	client func() litestream.ReplicaClient // a new one of the replica
	url    string                          // the replica, as upstream reads it
	yaml   string                          // the same in upstream's configuration
	s3     bool                            // the replica is on S3
	noURL  bool                            // upstream needs its configuration to reach the replica
	env    []string                        // of upstream's process
	bin    string                          // upstream's program
	images map[ltx.TXID][]byte             // what the database was at a position
	loose  bool                            // the images need not match in upstream's own tables
	n      int                             // names outputs
}

// newScene returns a scene with a file replica and no database yet.
func newScene(t *testing.T) *scene {
	t.Helper()
	if testing.Short() {
		t.Skip("starts another program many times")
	}
	dir := t.TempDir()
	replica := filepath.Join(dir, "replica")
	s := &scene{
		t: t, dir: dir, path: filepath.Join(dir, "app.db"), bin: servers.Upstream(t),
		client: func() litestream.ReplicaClient { return file.NewReplicaClient(replica) },
		url:    "file://" + replica, yaml: "path: " + replica,
		env:    (&servers.S3Server{}).Env(),
		images: make(map[ltx.TXID][]byte),
	}
	t.Cleanup(s.closeApp)
	return s
}

// openApp opens the database as an application.
func (s *scene) openApp() {
	s.t.Helper()
	if s.app != nil {
		return
	}
	app, err := sql.Open("sqlite3", "file:"+s.path+"?_busy_timeout=10000")
	if err != nil {
		s.t.Fatal(err)
	}
	app.SetMaxOpenConns(1)
	s.app = app
}

// closeApp closes the application. If it was the last to have the database
// open, SQLite checkpoints it and deletes the log.
func (s *scene) closeApp() {
	if s.app == nil {
		return
	}
	if err := s.app.Close(); err != nil {
		s.t.Error(err)
	}
	s.app = nil
}

// exec runs statements in the application.
func (s *scene) exec(query string, args ...any) {
	s.t.Helper()
	s.openApp()
	if _, err := s.app.ExecContext(s.t.Context(), query, args...); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
}

// create makes the database.
func (s *scene) create(pageSize int, journalMode string) {
	s.t.Helper()
	s.exec(fmt.Sprintf("PRAGMA page_size=%d", pageSize))
	s.exec("PRAGMA journal_mode=" + journalMode)
	s.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
	s.exec("CREATE TABLE ledger (n INTEGER PRIMARY KEY)")
}

// image returns the bytes of the database with its log applied. Nobody writes
// meanwhile. Another process copies the files: if this one closed them, the
// application would lose its locks (fcntl(2)), and look as if it were gone.
func (s *scene) image() []byte {
	s.t.Helper()
	out := s.output()
	for _, suffix := range []string{"", "-wal"} {
		if _, err := os.Stat(s.path + suffix); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if msg, err := exec.CommandContext(s.t.Context(), "cp", s.path+suffix, out+suffix).CombinedOutput(); err != nil {
			s.t.Fatalf("copy %s: %v\n%s", s.path+suffix, err, msg)
		}
	}
	db, err := sql.Open("sqlite3", "file:"+out)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := db.ExecContext(s.t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		s.t.Fatalf("checkpoint a copy: %v", err)
	}
	if err := db.Close(); err != nil {
		s.t.Fatal(err)
	}
	return s.take(out)
}

func (s *scene) output() string {
	s.n++
	return filepath.Join(s.dir, fmt.Sprintf("out-%d.db", s.n))
}

// take reads a file and removes it.
func (s *scene) take(path string) []byte {
	s.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		s.t.Fatal(err)
	}
	return data
}

// listing returns what the replica holds, level by level.
func (s *scene) listing() (levels [litestream.SnapshotLevel + 1][]*ltx.FileInfo) {
	s.t.Helper()
	client := s.client()
	if err := client.Init(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	for level := range levels {
		itr, err := client.LTXFiles(s.t.Context(), level, 0, true)
		if err != nil {
			s.t.Fatal(err)
		}
		if levels[level], err = ltx.SliceFileIterator(itr); err != nil {
			s.t.Fatal(err)
		}
	}
	return levels
}

// newest returns the newest TXID on the replica.
func (s *scene) newest() (txid ltx.TXID) {
	s.t.Helper()
	for _, infos := range s.listing() {
		for _, info := range infos {
			txid = max(txid, info.MaxTXID)
		}
	}
	return txid
}

// remember notes what the database is at the replica's newest position, and
// returns that position. Everything was replicated.
func (s *scene) remember() ltx.TXID {
	s.t.Helper()
	txid, image := s.newest(), s.image()
	if old, ok := s.images[txid]; ok && !s.loose && !bytes.Equal(old, image) {
		s.t.Fatalf("the database changed without a new position after %s", txid)
	}
	s.images[txid] = image
	return txid
}

// target is what to restore. The zero value is the newest position.
type target struct {
	txid      ltx.TXID
	timestamp time.Time
}

func (tg target) String() string {
	switch {
	case tg.txid != 0:
		return "txid " + tg.txid.String()
	case !tg.timestamp.IsZero():
		return "timestamp " + tg.timestamp.Format(time.RFC3339Nano)
	}
	return "latest"
}

// theirs restores with upstream.
func (s *scene) theirs(tg target) ([]byte, error) {
	s.t.Helper()
	out := s.output()
	args := []string{"restore", "-o", out}
	if tg.txid != 0 {
		args = append(args, "-txid", tg.txid.String())
	}
	if !tg.timestamp.IsZero() {
		args = append(args, "-timestamp", tg.timestamp.Format(time.RFC3339Nano))
	}
	if s.noURL {
		config := filepath.Join(s.dir, "restore.yml")
		text := fmt.Sprintf("dbs:\n  - path: %s\n    replica:\n      %s\n", s.path, strings.ReplaceAll(s.yaml, "\n", "\n      "))
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "-config", config, s.path)
	} else {
		args = append(args, s.url)
	}
	if msg, err := s.upstream(args...); err != nil {
		return nil, fmt.Errorf("%w: %s", err, msg)
	}
	return s.take(out), nil
}

// ours restores with the code under test.
func (s *scene) ours(tg target) ([]byte, error) {
	s.t.Helper()
	opt := litestream.NewRestoreOptions()
	opt.OutputPath, opt.TXID, opt.Timestamp = s.output(), tg.txid, tg.timestamp
	opt.IntegrityCheck = litestream.IntegrityCheckQuick
	client := s.client()
	if err := client.Init(s.t.Context()); err != nil {
		return nil, err
	}
	if _, err := litestream.Restore(s.t.Context(), client, opt); err != nil {
		return nil, err
	}
	return s.take(opt.OutputPath), nil
}

// check restores a target with both and compares them with each other and with
// what the database was, if that is known.
func (s *scene) check(tg target, want []byte) {
	s.t.Helper()
	theirs, err := s.theirs(tg)
	// Upstream refuses times behind the last upload in whole seconds on S3.
	outside := s.s3 && err != nil && strings.Contains(err.Error(), "timestamp does not exist")
	if err != nil && !outside {
		s.t.Fatalf("%s: upstream: %v", tg, err)
	}
	ours, err := s.ours(tg)
	if err != nil {
		s.t.Fatalf("%s: ours: %v", tg, err)
	}
	if !outside && !bytes.Equal(ours, theirs) {
		s.t.Fatalf("%s: restores differ: %s", tg, difference(ours, theirs))
	}
	if want == nil || bytes.Equal(ours, want) {
		return
	}
	// Upstream leaves a change of its own tables for its next start.
	if !s.loose || s.content(ours) != s.content(want) {
		s.t.Fatalf("%s: restore differs from the source: %s", tg, difference(ours, want))
	}
}

// query opens an image, hands it to fn and removes it.
func (s *scene) query(image []byte, fn func(db *sql.DB)) {
	s.t.Helper()
	path := s.output()
	if err := os.WriteFile(path, image, 0o600); err != nil {
		s.t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", "file:"+path+"?immutable=1")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(db.Close(), os.Remove(path)); err != nil {
			s.t.Error(err)
		}
	}()
	fn(db)
}

// ledger returns up to which number the ledger of an image is complete.
func (s *scene) ledger(image []byte) (n int) {
	s.t.Helper()
	s.query(image, func(db *sql.DB) {
		var highest int
		if err := db.QueryRowContext(s.t.Context(), "SELECT count(*), coalesce(max(n), 0) FROM ledger").Scan(&n, &highest); err != nil {
			s.t.Fatal(err)
		}
		if n != highest {
			s.t.Errorf("ledger holds %d writes up to %d", n, highest)
		}
	})
	return n
}

// content returns a hash of all rows of the application's tables.
func (s *scene) content(image []byte) (sum string) {
	s.t.Helper()
	s.query(image, func(db *sql.DB) { sum = s.hashRows(db) })
	return sum
}

func (s *scene) hashRows(db *sql.DB) string {
	s.t.Helper()
	h := sha256.New()
	for _, table := range []string{"t", "ledger"} {
		s.hashTable(h, db, table)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func (s *scene) hashTable(h io.Writer, db *sql.DB, table string) {
	s.t.Helper()
	rows, err := db.QueryContext(s.t.Context(), "SELECT * FROM "+table+" ORDER BY 1")
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		s.t.Fatal(err)
	}
	values := make([]sql.RawBytes, len(columns))
	dest := make([]any, len(columns))
	for i := range values {
		dest[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			s.t.Fatal(err)
		}
		fmt.Fprintf(h, "%s %x\n", table, values)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
}

// checkAll checks the newest position, every TXID that can be restored, and the
// moment before each of them. It returns how many targets there were.
func (s *scene) checkAll() (n int) {
	s.t.Helper()
	newest := s.newest()
	s.check(target{}, s.images[newest])
	return 1 + s.checkTXIDs() + s.checkTimestamps(newest)
}

// checkTXIDs checks every TXID that can be restored.
func (s *scene) checkTXIDs() (n int) {
	s.t.Helper()
	newest := s.newest()
	client := s.client()
	if err := client.Init(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	refused := 0
	for txid := ltx.TXID(1); txid <= newest; txid++ {
		_, err := litestream.CalcRestorePlan(s.t.Context(), client, txid, time.Time{}, nil)
		if err == nil {
			s.check(target{txid: txid}, s.images[txid])
			n++
			continue
		}
		if refused++; refused > 1 {
			continue // one is enough to see that both agree
		}
		if _, err := s.theirs(target{txid: txid}); err == nil {
			s.t.Errorf("txid %s: upstream restores it, ours has no plan", txid)
		}
	}
	return n
}

// checkTimestamps restores the moment just before each level-0 file.
func (s *scene) checkTimestamps(newest ltx.TXID) (n int) {
	s.t.Helper()
	var before *ltx.FileInfo
	for _, info := range s.listing()[0] {
		if before != nil && before.CreatedAt.Before(info.CreatedAt) && info.MaxTXID <= newest {
			s.check(target{timestamp: info.CreatedAt}, s.images[before.MaxTXID])
			n++
		}
		before = info
	}
	return n
}

// wantContiguous checks that level 0 has no gap and one file per TXID.
func (s *scene) wantContiguous() {
	s.t.Helper()
	infos := s.listing()[0]
	for i, info := range infos {
		if info.MinTXID != info.MaxTXID || i > 0 && infos[i-1].MaxTXID+1 != info.MinTXID {
			s.t.Errorf("level 0 holds %s-%s behind file %d", info.MinTXID, info.MaxTXID, i)
		}
	}
}

// header reads the header of a level-0 file and counts its pages.
func (s *scene) header(txid ltx.TXID) (hdr ltx.Header, pages int) {
	s.t.Helper()
	client := s.client()
	if err := client.Init(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	rc, err := client.OpenLTXFile(s.t.Context(), 0, txid, txid, 0, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer rc.Close()
	dec := ltx.NewDecoder(rc)
	if err := dec.DecodeHeader(); err != nil {
		s.t.Fatal(err)
	}
	hdr = dec.Header()
	page := make([]byte, hdr.PageSize)
	for {
		var ph ltx.PageHeader
		if err := dec.DecodePage(&ph, page); errors.Is(err, io.EOF) {
			return hdr, pages
		} else if err != nil {
			s.t.Fatal(err)
		}
		pages++
	}
}

// isFull reports whether a level-0 file is a full copy: it holds the whole
// database, and not because the log from where the one before it ended does.
func (s *scene) isFull(txid ltx.TXID) bool {
	s.t.Helper()
	before, _ := s.header(txid - 1)
	hdr, pages := s.header(txid)
	continues := hdr.WALSalt1 == before.WALSalt1 && hdr.WALSalt2 == before.WALSalt2 &&
		hdr.WALOffset == before.WALOffset+before.WALSize
	return uint32(pages) == hdr.Commit && !continues
}

// difference says where two databases differ first.
func difference(got, want []byte) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d and %d bytes", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Sprintf("at offset %d of %d", i, len(got))
		}
	}
	return "not at all"
}

// waitFor polls until a condition holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no %s after 30s", what)
		}
	}
}
