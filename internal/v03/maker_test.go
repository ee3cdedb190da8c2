package v03_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/pierrec/lz4/v4"

	v03 "github.com/benbjohnson/litestream/internal/v03"
)

const generation = "0123456789abcdef"

var start = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

// A maker writes a backup as v0.3 does, of a real database.
type maker struct {
	tb    testing.TB
	db    *sql.DB
	path  string
	index uint32
	sent  int64 // bytes of the log
	files []v03.File
	data  map[string][]byte    // compressed, by name
	want  map[time.Time][]byte // the database at the time of each stretch
	now   time.Time
}

func newMaker(tb testing.TB, pageSize int) *maker {
	tb.Helper()
	m := &maker{
		tb: tb, path: filepath.Join(tb.TempDir(), "app.db"), now: start,
		data: map[string][]byte{}, want: map[time.Time][]byte{},
	}
	db, err := sql.Open("sqlite3", m.path)
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	m.db = db
	tb.Cleanup(func() { db.Close() })
	m.exec(fmt.Sprintf("PRAGMA page_size=%d", pageSize))
	m.exec("PRAGMA journal_mode=wal")
	m.exec("PRAGMA wal_autocheckpoint=0")
	m.exec("PRAGMA synchronous=off")
	m.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
	return m
}

func (m *maker) exec(query string) {
	m.tb.Helper()
	if _, err := m.db.ExecContext(m.tb.Context(), query); err != nil {
		m.tb.Fatalf("%s: %v", query, err)
	}
}

func (m *maker) read(path string) []byte {
	m.tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		m.tb.Fatal(err)
	}
	return b
}

func compress(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := lz4.NewWriter(&buf)
	if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb)); err != nil { // v0.3 has 4 MiB, which is slow here
		tb.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func (m *maker) put(name string, b []byte) {
	m.tb.Helper()
	name = v03.Dir + "/" + generation + "/" + name
	f, ok := v03.ParseName(name)
	if !ok {
		m.tb.Fatalf("invalid name: %s", name)
	}
	c := compress(m.tb, b)
	m.now = m.now.Add(time.Second)
	f.Size, f.CreatedAt = int64(len(c)), m.now
	// A second snapshot within an index replaces the first.
	m.files = slices.DeleteFunc(m.files, func(old v03.File) bool { return old.Name == name })
	m.files, m.data[name] = append(m.files, f), c
}

// snapshot stores the database file as it is.
func (m *maker) snapshot() {
	m.put(fmt.Sprintf("snapshots/%08x.snapshot.lz4", m.index), m.read(m.path))
}

// sync stores what the log has grown by, and remembers what SQLite makes of
// database and log.
func (m *maker) sync() {
	log := m.read(m.path + "-wal")
	if int64(len(log)) == m.sent {
		return
	}
	m.put(fmt.Sprintf("wal/%08x_%08x.wal.lz4", m.index, m.sent), log[m.sent:])
	m.sent = int64(len(log))
	m.want[m.now] = m.checkpointed()
}

// checkpointed returns what SQLite makes of a copy of database and log.
func (m *maker) checkpointed() []byte {
	m.tb.Helper()
	path := filepath.Join(m.tb.TempDir(), "copy.db")
	for _, suffix := range []string{"", "-wal"} {
		if err := os.WriteFile(path+suffix, m.read(m.path+suffix), 0o600); err != nil {
			m.tb.Fatal(err)
		}
	}
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		m.tb.Fatal(err)
	}
	if _, err := db.ExecContext(m.tb.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		m.tb.Fatal(err)
	}
	if err := db.Close(); err != nil {
		m.tb.Fatal(err)
	}
	return m.read(path)
}

// backfill checkpoints a part of the log and stores a snapshot, which is ahead
// of the log's beginning then. A reader keeps the log from being restarted, as
// v0.3 does.
func (m *maker) backfill() {
	m.tb.Helper()
	reader, err := sql.Open("sqlite3", m.path)
	if err != nil {
		m.tb.Fatal(err)
	}
	defer reader.Close()
	tx, err := reader.BeginTx(m.tb.Context(), nil)
	if err != nil {
		m.tb.Fatal(err)
	}
	var n int
	if err := tx.QueryRowContext(m.tb.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil {
		m.tb.Fatal(err)
	}
	m.exec("INSERT INTO t (v) VALUES (randomblob(50))")
	m.exec("PRAGMA wal_checkpoint(PASSIVE)")
	m.sync()
	m.snapshot()
	if err := tx.Rollback(); err != nil {
		m.tb.Fatal(err)
	}
}

// restart begins the next index.
func (m *maker) restart() {
	m.exec("PRAGMA wal_checkpoint(TRUNCATE)")
	m.index, m.sent = m.index+1, 0
}

// open returns the compressed content of a file.
func (m *maker) open(f v03.File) io.Reader { return bytes.NewReader(m.data[f.Name]) }

// restore plans and applies.
func (m *maker) restore(until time.Time) ([]byte, v03.Result, error) {
	m.tb.Helper()
	p, err := v03.NewPlan(m.files, until)
	if err != nil {
		return nil, v03.Result{}, err
	}
	out, err := os.Create(filepath.Join(m.tb.TempDir(), "out.db"))
	if err != nil {
		m.tb.Fatal(err)
	}
	defer out.Close()
	res, err := v03.Apply(p, out, m.open, m.tb.TempDir())
	if err != nil {
		return nil, res, err
	}
	return m.read(out.Name()), res, nil
}

// name returns the name of the i-th file.
func (m *maker) name(i int) string { return m.files[i].Name }

// remove deletes the i-th file.
func (m *maker) remove(i int) { m.files = append(m.files[:i:i], m.files[i+1:]...) }

// fill makes a backup of three indexes with two stretches each, and one
// snapshot: files 0 to 6.
func (m *maker) fill() {
	m.snapshot()
	for i := range 3 {
		if i > 0 {
			m.restart()
		}
		for range 2 {
			m.exec("INSERT INTO t (v) VALUES (randomblob(9000))")
			m.sync()
		}
	}
}
