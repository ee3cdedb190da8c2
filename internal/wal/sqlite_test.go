package wal_test

import (
	"bytes"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// conn is one connection of the embedded SQLite.
type conn struct {
	*sqlite3.SQLiteConn
	tb testing.TB
}

// openConn opens a connection. It is closed when the test ends, unless it was
// closed before.
func openConn(tb testing.TB, path string) *conn {
	tb.Helper()
	c, err := (&sqlite3.SQLiteDriver{}).Open("file:" + path + "?_busy_timeout=0&_synchronous=OFF")
	if err != nil {
		tb.Fatal(err)
	}
	sc := &conn{SQLiteConn: c.(*sqlite3.SQLiteConn), tb: tb}
	tb.Cleanup(func() { sc.Close() })
	return sc
}

func (c *conn) try(query string) error {
	_, err := c.Exec(query, nil)
	return err
}

func (c *conn) exec(queries ...string) {
	c.tb.Helper()
	for _, q := range queries {
		if err := c.try(q); err != nil {
			c.tb.Fatalf("%s: %v", q, err)
		}
	}
}

// row returns the first row of a query.
func (c *conn) row(query string) []driver.Value {
	c.tb.Helper()
	rows, err := c.Query(query, nil)
	if err != nil {
		c.tb.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	row := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(row); err != nil {
		c.tb.Fatalf("%s: %v", query, err)
	}
	return row
}

// image returns the database as SQLite reads it, page by page.
func (c *conn) image() []byte {
	c.tb.Helper()
	b, err := c.Serialize("main")
	if err != nil {
		c.tb.Fatal(err)
	}
	return b
}

// database is a real database. The raw descriptor of its main file is opened
// before any connection and closed after the last one, because closing it
// drops this process's locks.
type database struct {
	tb   testing.TB
	path string
	raw  *os.File
	boot [16]byte
}

func newDatabase(tb testing.TB) *database {
	tb.Helper()
	d := &database{tb: tb, path: filepath.Join(tb.TempDir(), "db"), boot: [16]byte{1}}
	var err error
	if d.raw, err = os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.raw.Close() })
	return d
}

// open opens a connection; sessions that write are WAL sessions with no
// automatic checkpoint.
func (d *database) open(queries ...string) *conn {
	d.tb.Helper()
	c := openConn(d.tb, d.path)
	c.exec(queries...)
	return c
}

// walMode are the pragmas of a connection that creates a database.
func walMode(pageSize int) []string {
	return []string{
		fmt.Sprintf("PRAGMA page_size=%d", pageSize), "PRAGMA journal_mode=wal",
		"PRAGMA wal_autocheckpoint=0", "PRAGMA synchronous=off",
	}
}

func (d *database) source() wal.Source {
	d.tb.Helper()
	main, err := sqlitefile.Stat(d.path)
	if err != nil {
		d.tb.Fatal(err)
	}
	return wal.Source{Path: sqlitefile.WALPath(d.path), BootID: d.boot, Main: main, Pages: d.raw}
}

// picture is what a replica holds: every page at one commit, and the cursor
// behind it.
type picture struct {
	pages map[uint32][]byte
	size  uint32
	cur   wal.Cursor
}

// clockMargin is longer than a tick of the file system's clock.
const clockMargin = 25 * time.Millisecond

// take copies the whole database while nobody writes.
func (d *database) take(opt wal.Options) *picture {
	d.tb.Helper()
	src := d.source()
	trusted := sqlitefile.Settled(src.Main, time.Now(), clockMargin)
	h, err := sqlitefile.ReadHeader(d.raw)
	if err != nil {
		d.tb.Fatal(err)
	}
	c, err := wal.CopyLog(src.Path, h.PageSize, opt)
	if err != nil {
		d.tb.Fatal(err)
	}
	defer c.Frames.Close()
	p := &picture{pages: map[uint32][]byte{}, size: h.PageCount(src.Main.Size)}
	if c.Frames.CommitN > 0 {
		p.size = c.Frames.Commit
	}
	for n := uint32(1); n <= p.size; n++ {
		page := make([]byte, h.PageSize)
		if ok, err := c.Frames.ReadPage(n, page); err != nil {
			d.tb.Fatal(err)
		} else if !ok {
			if _, err := d.raw.ReadAt(page, int64(n-1)*int64(h.PageSize)); err != nil && !errors.Is(err, io.EOF) {
				d.tb.Fatal(err)
			}
		}
		p.pages[n] = page
	}
	p.cur = c.Cursor(d.boot, src.Main, trusted, p.size)
	return p
}

// tail looks at the database from the picture's cursor and puts what is
// proven into the picture. It returns the reason if nothing is.
func (d *database) tail(p *picture, opt wal.Options) wal.Reason {
	d.tb.Helper()
	res, err := wal.Tail(p.cur, d.source(), opt)
	if err != nil {
		d.tb.Fatal(err)
	}
	if res.Reason != "" || res.Frames == nil {
		if res.Reason == "" && res.Cursor != p.cur {
			d.tb.Fatalf("cursor moved without frames: %+v", res.Cursor)
		}
		return res.Reason
	}
	p.apply(d.tb, res)
	return ""
}

// apply puts captured frames over the picture. Pages that were added must be
// among them.
func (p *picture) apply(tb testing.TB, res wal.Result) {
	tb.Helper()
	f := res.Frames
	defer f.Close()
	for n := min(p.size, f.MinCommit) + 1; n <= f.Commit; n++ {
		if !f.Has(n) {
			tb.Fatalf("page %d was added, but is not in the frames", n)
		}
	}
	for _, n := range f.Pages() {
		page := make([]byte, f.PageSize)
		if ok, err := f.ReadPage(n, page); err != nil || !ok {
			tb.Fatalf("page %d: ok=%v err=%v", n, ok, err)
		}
		p.pages[n] = page
	}
	for n := range p.pages {
		if n > f.Commit {
			delete(p.pages, n)
		}
	}
	p.size, p.cur = f.Commit, res.Cursor
}

// bytes is the picture as a database file.
func (p *picture) bytes() []byte {
	var b bytes.Buffer
	for n := uint32(1); n <= p.size; n++ {
		b.Write(p.pages[n])
	}
	return b.Bytes()
}

// differ describes the first difference of two images, or returns "".
func differ(got, want []byte, pageSize int) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d pages, SQLite reads %d", len(got)/pageSize, len(want)/pageSize)
	}
	var bad []int
	for off := 0; off < len(got); off += pageSize {
		if !bytes.Equal(got[off:off+pageSize], want[off:off+pageSize]) {
			bad = append(bad, off/pageSize+1)
		}
	}
	if len(bad) == 0 {
		return ""
	}
	return fmt.Sprintf("pages %v differ from what SQLite reads", bad)
}

// check compares the picture with the database as the connection reads it.
func (p *picture) check(c *conn) {
	c.tb.Helper()
	if got := differ(p.bytes(), c.image(), int(p.cur.PageSize)); got != "" {
		c.tb.Fatal(got)
	}
}

// frame is the offset of the nth frame.
func frame(n int, pageSize uint32) int64 { return 32 + int64(n)*(24+int64(pageSize)) }
