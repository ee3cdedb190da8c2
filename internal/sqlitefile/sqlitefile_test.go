package sqlitefile_test

import (
	"bufio"
	"bytes"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-sqlite3"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// childEnv makes this test binary another process that holds a lock.
const childEnv = "LITESTREAM_SQLITEFILE_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		if err := serveChild(path); err != nil {
			fmt.Println("err", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serveChild runs a statement per line of its input and answers each. It opens
// the file with the first one: opening reads the schema, and nothing waits for
// the lock of another child that is writing then.
func serveChild(path string) error {
	var dc driver.Conn
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if dc == nil {
			var err error
			if dc, err = new(sqlite3.SQLiteDriver).Open("file:" + path + "?_busy_timeout=0&_synchronous=OFF"); err != nil {
				return err
			}
			defer dc.Close()
		}
		if _, err := dc.(*sqlite3.SQLiteConn).Exec(in.Text(), nil); err != nil {
			fmt.Println("err", err)
		} else {
			fmt.Println("ok")
		}
	}
	return in.Err()
}

// child is a connection in another process.
type child struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(tb testing.TB, path string) *child {
	tb.Helper()
	c := &child{t: tb, cmd: exec.Command(os.Args[0])}
	// Under the race detector a process waits a second before it exits.
	c.cmd.Env = append(os.Environ(), childEnv+"="+path, "GORACE=atexit_sleep_ms=0")
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	return c
}

// do runs a statement and returns the answer.
func (c *child) do(query string) string {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, query); err != nil {
		c.t.Fatal(err)
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func (c *child) exec(queries ...string) {
	c.t.Helper()
	for _, q := range queries {
		if got := c.do(q); got != "ok" {
			c.t.Fatalf("%s: %s", q, got)
		}
	}
}

// close ends the child as a program that closes its database.
func (c *child) close() {
	c.t.Helper()
	c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		c.t.Fatal(err)
	}
}

// open opens a database file that only children open with SQLite.
func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// header is a valid database header of page size 4096 with ten pages.
func header() []byte {
	b := make([]byte, sqlitefile.HeaderSize)
	copy(b, "SQLite format 3\x00")
	binary.BigEndian.PutUint16(b[16:], 4096)
	b[18], b[19] = 1, 1
	b[21], b[22], b[23] = 64, 32, 32
	binary.BigEndian.PutUint32(b[24:], 77)
	binary.BigEndian.PutUint32(b[28:], 10)
	binary.BigEndian.PutUint32(b[92:], 77)
	return b
}

func TestParseHeader(t *testing.T) {
	put16 := func(b []byte, off int, v uint16) { binary.BigEndian.PutUint16(b[off:], v) }
	put32 := func(b []byte, off int, v uint32) { binary.BigEndian.PutUint32(b[off:], v) }
	base := sqlitefile.Header{PageSize: 4096, PageN: 10, SizeValid: true}
	with := func(f func(h *sqlitefile.Header)) sqlitefile.Header {
		h := base
		f(&h)
		return h
	}
	for _, tt := range []struct {
		name   string
		change func(b []byte)
		want   sqlitefile.Header // zero if it is no database
	}{
		{"rollback journal", func([]byte) {}, base},
		{"wal", func(b []byte) { b[18], b[19] = 2, 2 }, with(func(h *sqlitefile.Header) { h.WAL = true })},
		{"read version alone", func(b []byte) { b[19] = 2 }, with(func(h *sqlitefile.Header) { h.WAL = true })},
		{"write version of the future", func(b []byte) { b[18] = 3 }, base},
		{"page size 512", func(b []byte) { put16(b, 16, 512) }, with(func(h *sqlitefile.Header) { h.PageSize = 512 })},
		{"page size 32768", func(b []byte) { put16(b, 16, 32768) }, with(func(h *sqlitefile.Header) { h.PageSize = 32768 })},
		{"page size 65536", func(b []byte) { put16(b, 16, 1) }, with(func(h *sqlitefile.Header) { h.PageSize = 65536 })},
		{"auto vacuum", func(b []byte) { put32(b, 52, 3) }, with(func(h *sqlitefile.Header) { h.AutoVacuum = true })},
		{"size not valid", func(b []byte) { put32(b, 92, 76) }, with(func(h *sqlitefile.Header) { h.SizeValid = false })},
		{"size 0", func(b []byte) { put32(b, 28, 0) }, with(func(h *sqlitefile.Header) { h.PageN, h.SizeValid = 0, false })},
		{"reserved bytes", func(b []byte) { b[20] = 32 }, base},

		{"page size 0", func(b []byte) { put16(b, 16, 0) }, sqlitefile.Header{}},
		{"page size 2", func(b []byte) { put16(b, 16, 2) }, sqlitefile.Header{}},
		{"page size 256", func(b []byte) { put16(b, 16, 256) }, sqlitefile.Header{}},
		{"page size 4097", func(b []byte) { put16(b, 16, 4097) }, sqlitefile.Header{}},
		{"page size 49152", func(b []byte) { put16(b, 16, 49152) }, sqlitefile.Header{}},
		{"magic", func(b []byte) { b[0] = 's' }, sqlitefile.Header{}},
		{"magic's last byte", func(b []byte) { b[15] = ' ' }, sqlitefile.Header{}},
		{"encrypted", func(b []byte) {
			for i := range b {
				b[i] ^= 0x5A
			}
		}, sqlitefile.Header{}},
		{"zeros", func(b []byte) { clear(b) }, sqlitefile.Header{}},
		{"read version of the future", func(b []byte) { b[18], b[19] = 3, 3 }, sqlitefile.Header{}},
		{"payload fractions", func(b []byte) { b[21] = 65 }, sqlitefile.Header{}},
		{"usable size below 480", func(b []byte) { put16(b, 16, 512); b[20] = 33 }, sqlitefile.Header{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := header()
			tt.change(b)
			got, err := sqlitefile.ParseHeader(b)
			if tt.want == (sqlitefile.Header{}) {
				if !errors.Is(err, sqlitefile.ErrFormat) {
					t.Errorf("err=%v, want ErrFormat", err)
				}
			} else if err != nil || got != tt.want {
				t.Errorf("err=%v\n%s", err, cmp.Diff(tt.want, got))
			}
			checkOpens(t, b, tt.want != sqlitefile.Header{})
		})
	}
}

// checkOpens asks SQLite itself whether it takes a file with that header for a
// database.
func checkOpens(t *testing.T, header []byte, want bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	size := int(binary.BigEndian.Uint16(header[16:]))
	if size == 1 {
		size = 65536
	}
	b := make([]byte, 10*max(size, 4096))
	copy(b, header)
	b[100] = 13 // an empty table leaf
	binary.BigEndian.PutUint16(b[105:], uint16(size-int(header[20])))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	dc, err := (&sqlite3.SQLiteDriver{}).Open("file:" + path + "?_synchronous=OFF")
	if err == nil {
		defer dc.Close()
		_, err = dc.(*sqlite3.SQLiteConn).Exec("SELECT count(*) FROM sqlite_schema", nil)
	}
	if want && err == nil && header[19] == 2 {
		if _, err := os.Stat(sqlitefile.WALPath(path)); err != nil {
			t.Errorf("SQLite opened no log: %v", err)
		}
	}
	var e sqlite3.Error
	if got := !errors.As(err, &e) || e.Code != sqlite3.ErrNotADB; got != want {
		t.Errorf("SQLite takes it for a database: %v (%v), want %v", got, err, want)
	}
}

func TestReadHeader(t *testing.T) {
	for _, n := range []int{0, 1, 16, 99, 100, 101} {
		b := append(header(), make([]byte, 10)...)[:n]
		_, err := sqlitefile.ReadHeader(bytes.NewReader(b))
		var want error
		switch {
		case n == 0:
			want = sqlitefile.ErrEmpty
		case n < sqlitefile.HeaderSize:
			want = sqlitefile.ErrFormat
		}
		if !errors.Is(err, want) {
			t.Errorf("%d bytes: err=%v, want %v", n, err, want)
		}
	}
	f := open(t, t.TempDir())
	if _, err := sqlitefile.ReadHeader(f); err == nil || errors.Is(err, sqlitefile.ErrFormat) {
		t.Errorf("folder: err=%v, want a read error", err)
	}
}

func TestHeader_PageCount(t *testing.T) {
	for _, tt := range []struct {
		valid bool
		size  int64
		want  uint32
	}{
		{true, 4096 * 10, 10},
		{true, 4096 * 12, 10},
		{true, 0, 10},
		{false, 0, 0},
		{false, 1, 1},
		{false, 4096, 1},
		{false, 4097, 2},
		{false, 4096 * 12, 12},
		{false, 4096 * (1<<32 - 2), 1<<32 - 2},
	} {
		h := sqlitefile.Header{PageSize: 4096, PageN: 10, SizeValid: tt.valid}
		if got := h.PageCount(tt.size); got != tt.want {
			t.Errorf("valid=%v size=%d: %d pages, want %d", tt.valid, tt.size, got, tt.want)
		}
	}
}

// TestReadHeader_SQLite reads what SQLite wrote, in both journal modes and at
// every page size.
func TestReadHeader_SQLite(t *testing.T) {
	for size := 512; size <= 65536; size *= 2 {
		for _, mode := range []string{"delete", "wal"} {
			path := filepath.Join(t.TempDir(), "db")
			dc, err := (&sqlite3.SQLiteDriver{}).Open("file:" + path + "?_synchronous=OFF")
			if err != nil {
				t.Fatal(err)
			}
			_, err = dc.(*sqlite3.SQLiteConn).Exec(fmt.Sprintf("PRAGMA page_size=%d; PRAGMA auto_vacuum=full; PRAGMA journal_mode=%s; "+
				"CREATE TABLE t(b); INSERT INTO t VALUES(zeroblob(100000))", size, mode), nil)
			if err := errors.Join(err, dc.Close()); err != nil {
				t.Fatal(err)
			}
			f := open(t, path)
			h, err := sqlitefile.ReadHeader(f)
			if err != nil {
				t.Fatal(err)
			}
			st, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			n := uint32(st.Size() / int64(size))
			want := sqlitefile.Header{PageSize: uint32(size), WAL: mode == "wal", PageN: n, SizeValid: true, AutoVacuum: true}
			if h != want || h.PageCount(st.Size()) != n {
				t.Error(cmp.Diff(want, h))
			}
		}
	}
}

func TestPaths(t *testing.T) {
	got := []string{sqlitefile.WALPath("a/b.db"), sqlitefile.SHMPath("a/b.db"), sqlitefile.JournalPath("a/b.db")}
	if want := []string{"a/b.db-wal", "a/b.db-shm", "a/b.db-journal"}; !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestStat(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	if _, err := sqlitefile.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: err=%v, want not-exist", err)
	}
	if _, err := sqlitefile.Stat(dir); err == nil {
		t.Error("folder: no error")
	}
	write(t, path, []byte("12345"))
	when := time.Unix(1000, 123456789)
	if err := os.Chtimes(path, when, when); err != nil {
		t.Fatal(err)
	}
	a, err := sqlitefile.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if a.Size != 5 || a.Mtime != when.UnixNano() || a.Ctime <= a.Mtime || a.ID == (wal.FileID{}) {
		t.Errorf("print=%+v", a)
	}
	b, err := sqlitefile.StatFile(open(t, path))
	if err != nil || a != b {
		t.Errorf("err=%v\n%s", err, cmp.Diff(a, b))
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if b, err = sqlitefile.Stat(link); err != nil || a != b {
		t.Errorf("by a link: err=%v\n%s", err, cmp.Diff(a, b))
	}
}

func TestTake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	take := func() sqlitefile.Fingerprint {
		t.Helper()
		fp, err := sqlitefile.Take(path)
		if err != nil {
			t.Fatal(err)
		}
		return fp
	}
	if _, err := sqlitefile.Take(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: err=%v, want not-exist", err)
	}
	write(t, path, []byte("x"))
	bare := take()
	if bare.WAL != (wal.Print{}) || bare.Main.Size != 1 {
		t.Errorf("fingerprint=%+v", bare)
	}
	write(t, sqlitefile.WALPath(path), nil)
	if got := take(); got != bare {
		t.Errorf("an empty log changes the fingerprint:\n%s", cmp.Diff(bare, got))
	}
	write(t, sqlitefile.WALPath(path), []byte("abc"))
	log := take()
	if log.WAL.Size != 3 || log.Main != bare.Main {
		t.Errorf("fingerprint=%+v", log)
	}
	if err := os.Remove(sqlitefile.WALPath(path)); err != nil {
		t.Fatal(err)
	}
	if got := take(); got != bare {
		t.Errorf("log removed:\n%s", cmp.Diff(bare, got))
	}
	if err := os.Mkdir(sqlitefile.WALPath(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlitefile.Take(path); err == nil {
		t.Error("the log is a folder: no error")
	}
}

func TestFingerprint_Settled(t *testing.T) {
	now := time.Unix(1000, 0)
	at := func(mtime, ctime int) wal.Print {
		return wal.Print{Size: 1, Mtime: now.Add(time.Duration(mtime) * time.Second).UnixNano(), Ctime: now.Add(time.Duration(ctime) * time.Second).UnixNano()}
	}
	for _, tt := range []struct {
		name string
		fp   sqlitefile.Fingerprint
		want bool
	}{
		{"old", sqlitefile.Fingerprint{Main: at(-3, -3), WAL: at(-3, -3)}, true},
		{"no log", sqlitefile.Fingerprint{Main: at(-3, -3)}, true},
		{"at the margin", sqlitefile.Fingerprint{Main: at(-2, -3)}, false},
		{"young mtime", sqlitefile.Fingerprint{Main: at(-1, -3)}, false},
		{"young ctime", sqlitefile.Fingerprint{Main: at(-3, -1)}, false},
		{"young log", sqlitefile.Fingerprint{Main: at(-3, -3), WAL: at(-1, -3)}, false},
		{"young log's ctime", sqlitefile.Fingerprint{Main: at(-3, -3), WAL: at(-3, -2)}, false},
		{"future", sqlitefile.Fingerprint{Main: at(9, -3)}, false},
	} {
		if got := tt.fp.Settled(now, 2*time.Second); got != tt.want {
			t.Errorf("%s: settled=%v, want %v", tt.name, got, tt.want)
		}
		if tt.fp.WAL == (wal.Print{}) && sqlitefile.Settled(tt.fp.Main, now, 2*time.Second) != tt.want {
			t.Errorf("%s: one file settled=%v, want %v", tt.name, !tt.want, tt.want)
		}
	}
}

func TestHotJournal(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"empty", nil, false},
		{"short", []byte{0xd9, 0xd5}, false},
		{"zeroed header", make([]byte, 512), false},
		{"live header", append([]byte{0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7}, make([]byte, 504)...), true},
	} {
		path := filepath.Join(t.TempDir(), "db")
		if got, err := sqlitefile.HotJournal(path); err != nil || got {
			t.Errorf("missing: hot=%v err=%v", got, err)
		}
		write(t, sqlitefile.JournalPath(path), tt.b)
		if got, err := sqlitefile.HotJournal(path); err != nil || got != tt.want {
			t.Errorf("%s: hot=%v err=%v, want %v", tt.name, got, err, tt.want)
		}
	}
	path := filepath.Join(t.TempDir(), "db")
	if err := os.Mkdir(sqlitefile.JournalPath(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlitefile.HotJournal(path); err == nil {
		t.Error("the journal is a folder: no error")
	}
}

// TestHotJournal_SQLite looks at a transaction under way, a finished one and
// one whose process died, in the journal modes that leave a file behind.
func TestHotJournal_SQLite(t *testing.T) {
	for _, mode := range []string{"delete", "truncate", "persist"} {
		t.Run(mode, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			hot := func(want bool, when string) {
				t.Helper()
				if got, err := sqlitefile.HotJournal(path); err != nil || got != want {
					t.Errorf("%s: hot=%v err=%v, want %v", when, got, err, want)
				}
			}
			c := startChild(t, path)
			c.exec("PRAGMA journal_mode="+mode, "CREATE TABLE t(b)", "INSERT INTO t VALUES(zeroblob(100000))")
			hot(false, "committed")
			c.exec("PRAGMA cache_size=2", "BEGIN", "UPDATE t SET b=randomblob(100000)")
			hot(true, "under way")
			c.exec("ROLLBACK")
			hot(false, "rolled back")
			c.exec("BEGIN", "UPDATE t SET b=randomblob(100000)")
			c.cmd.Process.Kill()
			c.cmd.Wait()
			hot(true, "died")
			c = startChild(t, path)
			c.exec("SELECT count(*) FROM t")
			hot(false, "recovered")
		})
	}
}

// TestLocked lets another process hold each of SQLite's locks on the file.
func TestLocked(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setup []string
		want  bool
	}{
		{"rollback journal, idle", []string{"SELECT count(*) FROM t"}, false},
		{"shared", []string{"BEGIN", "SELECT count(*) FROM t"}, true},
		{"reserved", []string{"BEGIN IMMEDIATE"}, true},
		{"exclusive", []string{"BEGIN EXCLUSIVE"}, true},
		{"exclusive mode", []string{"PRAGMA locking_mode=exclusive", "BEGIN IMMEDIATE", "COMMIT"}, true},
		{"spilled", []string{"PRAGMA cache_size=2", "BEGIN", "INSERT INTO t VALUES(zeroblob(100000))"}, true},
		{"wal, idle", []string{"PRAGMA journal_mode=wal", "SELECT count(*) FROM t"}, true},
		{"wal, writing", []string{"PRAGMA journal_mode=wal", "BEGIN IMMEDIATE"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			c := startChild(t, path)
			c.exec("CREATE TABLE t(b)")
			c.exec(tt.setup...)
			f := open(t, path)
			if got, err := sqlitefile.Locked(f); err != nil || got != tt.want {
				t.Errorf("locked=%v err=%v, want %v", got, err, tt.want)
			}
			c.close()
			if got, err := sqlitefile.Locked(f); err != nil || got {
				t.Errorf("closed: locked=%v err=%v, want false", got, err)
			}
		})
	}
	t.Run("pending", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "db")
		reader, writer := startChild(t, path), startChild(t, path)
		writer.exec("CREATE TABLE t(b)")
		reader.exec("BEGIN", "SELECT count(*) FROM t")
		writer.exec("BEGIN", "INSERT INTO t VALUES(1)")
		if got := writer.do("COMMIT"); got == "ok" {
			t.Fatal("committed in spite of a reader")
		}
		reader.close() // the writer holds PENDING and RESERVED
		if got, err := sqlitefile.Locked(open(t, path)); err != nil || !got {
			t.Errorf("locked=%v err=%v, want true", got, err)
		}
	})
	t.Run("closed file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "db")
		write(t, path, nil)
		f := open(t, path)
		f.Close()
		if _, err := sqlitefile.Locked(f); err == nil {
			t.Error("no error")
		}
	})
}

func TestBootID(t *testing.T) {
	if _, err := os.Stat("/proc/sys/kernel/random/boot_id"); err != nil {
		t.Skip("no boot id here")
	}
	a, b := sqlitefile.BootID(), sqlitefile.BootID()
	if a == [16]byte{} || a != b {
		t.Errorf("boot ids %x and %x, want the same, not zero", a, b)
	}
}

func TestNetworkFS(t *testing.T) {
	if got, err := sqlitefile.NetworkFS(t.TempDir()); err != nil || got != "" {
		t.Errorf("temporary folder: %q, %v; want a local file system", got, err)
	}
	if _, err := sqlitefile.NetworkFS(filepath.Join(t.TempDir(), "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: err=%v, want not-exist", err)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(header())
	f.Add([]byte{})
	f.Add(header()[:99])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := sqlitefile.ParseHeader(b)
		if err != nil {
			if !errors.Is(err, sqlitefile.ErrFormat) {
				t.Errorf("err=%v, want ErrFormat", err)
			}
			return
		}
		if h.PageSize < 512 || h.PageSize > 65536 || h.PageSize&(h.PageSize-1) != 0 {
			t.Errorf("page size %d", h.PageSize)
		}
		if got := h.PageCount(int64(len(b))); !h.SizeValid && got != uint32((len(b)-1)/int(h.PageSize)+1) {
			t.Errorf("%d bytes are %d pages of %d", len(b), got, h.PageSize)
		}
	})
}
