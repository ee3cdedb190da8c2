package registry_test

import (
	"bytes"
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/benbjohnson/litestream/internal/registry"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// sql runs statements on a database that nobody else has open.
func sql(t *testing.T, path, query string, args ...driver.Value) {
	t.Helper()
	c, err := (&sqlite3.SQLiteDriver{}).Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.(*sqlite3.SQLiteConn).Exec(query, args); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// edit changes the bytes of a file.
func edit(t *testing.T, path string, fn func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fn(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// filled makes a registry of n rows with ledgers and returns the rows.
func filled(tb testing.TB, dir string, n uint32) map[uint32]registry.Record {
	tb.Helper()
	rows := map[uint32]registry.Record{}
	r := open(tb, dir, registry.Options{})
	for id := range n {
		rec := full(id+1, fmt.Sprint("/data/tenants/", id+1))
		r.Put(rec, bytes.Repeat([]byte{byte(id)}, 100))
		rows[rec.ID] = rec
	}
	shut(tb, r, true)
	return rows
}

func noise(b []byte) {
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(b) // never fails
}

// TestOpen_Unusable gives Open a file that it cannot use: that is moved aside
// with one line, and an empty registry begins.
func TestOpen_Unusable(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(b []byte) []byte // nil: sql
		sql    string
		reason string
	}{
		{name: "Garbage", edit: func(b []byte) []byte { noise(b); return b }, reason: "not a database"},
		{name: "Zeros", edit: func(b []byte) []byte { clear(b); return b }, reason: "not a database"},
		{name: "Text", edit: func([]byte) []byte { return []byte("registry\n") }, reason: "not a database"},
		{name: "TornHeader", edit: func(b []byte) []byte { noise(b[:512]); return b }, reason: "not a database"},
		{name: "FirstPageLost", edit: func(b []byte) []byte { clear(b[100:4096]); return b }, reason: "malformed"},
		{name: "OnlyHeader", edit: func(b []byte) []byte { return b[:100] }},
		{name: "CutShort", edit: func(b []byte) []byte { return b[:len(b)/2] }, reason: "malformed"},
		{name: "MiddlePage", edit: func(b []byte) []byte { at := len(b) / 2 &^ 4095; noise(b[at : at+4096]); return b }},
		{name: "NewerVersion", sql: "PRAGMA user_version=3", reason: "version 3, want 2"},
		{name: "OtherApplication", sql: "PRAGMA application_id=7", reason: "application id 0x7"},
		{name: "NoTable", sql: "DROP TABLE ledger", reason: "no such table"},
		{name: "NoInfo", sql: "DELETE FROM info", reason: "table info is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := dir + "/" + registry.FileName
			filled(t, dir, 200)
			if tt.edit != nil {
				edit(t, path, tt.edit)
			} else {
				sql(t, path, tt.sql)
			}
			old, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}

			var log logbook
			r := open(t, dir, log.options())
			if got := log.lines(); len(got) != 1 || !strings.Contains(got[0], tt.reason) || !strings.Contains(got[0], registry.CorruptName) {
				t.Errorf("log=%q, want one line with %q", got, tt.reason)
			}
			if info := r.Info(); !info.Fresh || info.Clean || info.SameBoot {
				t.Errorf("info=%+v, want a fresh one", info)
			}
			if got := load(t, r); len(got) != 0 {
				t.Errorf("rows=%d, want none", len(got))
			}
			r.Put(full(1, "/new"), []byte("ledger"))
			shut(t, r, true)
			if aside, err := os.ReadFile(dir + "/" + registry.CorruptName); err != nil || !bytes.HasPrefix(aside, old[:min(len(old), 16)]) || len(aside) < len(old) {
				t.Errorf("moved aside: %d bytes, %v, want the old file's %d", len(aside), err, len(old))
			}

			r = open(t, dir, log.options())
			sameRows(t, load(t, r), map[uint32]registry.Record{1: full(1, "/new")})
			if got := log.lines(); len(got) != 1 || !r.Info().Clean {
				t.Errorf("log=%q, info %+v at the next start", got, r.Info())
			}
		})
	}
}

// TestOpen_Nothing has Open find files that are no damage.
func TestOpen_Nothing(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/" + registry.FileName
	var log logbook
	shut(t, open(t, dir, log.options()), true)
	if err := os.Rename(path, path+"-wal"); err != nil { // the main file was deleted
		t.Fatal(err)
	}
	r := open(t, dir, log.options())
	if got := log.lines(); !r.Info().Fresh || len(got) != 0 {
		t.Errorf("info=%+v, log %q, want a fresh one", r.Info(), got)
	}
}

// TestOpen_Log damages the log that a killed owner left: what it held is lost,
// and the stop counts as unclean although the last one before was clean.
func TestOpen_Log(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"Garbage": func(b []byte) []byte { noise(b); return b },
		"Cut":     func(b []byte) []byte { return b[:len(b)/2] },
		"Empty":   func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := startChild(t, dir)
			c.do("put")
			c.do("close")
			c = startChild(t, dir)
			c.do("put") // generation 1 again
			c.do("put")
			c.kill()
			edit(t, dir+"/registry.db-wal", damage)
			var log logbook
			r := open(t, dir, log.options())
			if info := r.Info(); info.Clean || info.Fresh || len(log.lines()) != 0 {
				t.Errorf("info=%+v, log %q", info, log.lines())
			}
			if gen, err := generation(t.Context(), r); err != nil || gen != 1 {
				t.Errorf("generation=%d, %v, want 1", gen, err)
			}
		})
	}
}

// TestLoad_DamagedRow skips a row that is not what was written, even where
// SQLite sees nothing wrong, and removes it.
func TestLoad_DamagedRow(t *testing.T) {
	dir := t.TempDir()
	want := filled(t, dir, 20)
	path := dir + "/" + registry.FileName
	sql(t, path, "UPDATE tenant SET data = substr(data, 1, length(data) - 1) || x'00' WHERE id = 3")
	sql(t, path, "UPDATE tenant SET path = 'text' WHERE id = 4")
	sql(t, path, "UPDATE tenant SET id = 5000000000 WHERE id = 5")
	sql(t, path, "UPDATE tenant SET data = x'' WHERE id = 6")
	for id := range uint32(4) {
		delete(want, id+3)
	}
	var log logbook
	r := open(t, dir, log.options())
	for range 2 {
		sameRows(t, load(t, r), want)
		if got := log.lines(); len(got) != 1 || !strings.Contains(got[0], "rows=4") {
			t.Errorf("log=%q, want one line for all rows", got)
		}
	}
	if got := ledger(t, r, 3); got != "" {
		t.Errorf("ledger=%q of a damaged row, want none", got)
	}
}

// TestLedger_Damaged takes a ledger that is not what was written for its row
// for none: a wrong one would hide changes from the next capture.
func TestLedger_Damaged(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 5)
	path := dir + "/" + registry.FileName
	sql(t, path, "UPDATE ledger SET data = zeroblob(100) WHERE id = 2")
	sql(t, path, "DELETE FROM ledger WHERE id = 4; UPDATE ledger SET id = 4 WHERE id = 3")
	r := open(t, dir, registry.Options{})
	r.Put(full(5, "/another"), nil) // without a Delete
	flush(t, r)
	for id := range uint32(5) {
		if got := ledger(t, r, id+1); (got != "") != (id == 0) {
			t.Errorf("ledger of %d=%q", id+1, got)
		}
	}
	r.Put(full(1, "/data/tenants/1"), []byte("queued"))
	r.Put(full(1, "/another yet"), nil)
	if got := ledger(t, r, 1); got != "" {
		t.Errorf("ledger=%q of another path", got)
	}
}

// TestOpen_Flips changes single bits: Open always succeeds, and no row is
// ever another than was written.
func TestOpen_Flips(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	want := filled(t, dir, 100)
	good, err := os.ReadFile(dir + "/" + registry.FileName)
	if err != nil {
		t.Fatal(err)
	}
	found, lost := 0, 0
	for range 50 {
		dir := t.TempDir()
		b := bytes.Clone(good)
		b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		if err := os.WriteFile(dir+"/"+registry.FileName, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r := open(t, dir, registry.Options{})
		for id, rec := range load(t, r) {
			if d := cmp.Diff(want[id], rec); d != "" {
				t.Fatalf("row %d (-want +got):\n%s", id, d)
			}
			found++
		}
		if r.Info().Fresh {
			lost++
		}
		r.Put(full(1, "/again"), []byte("ledger"))
		flush(t, r)
		shut(t, r, true)
	}
	t.Logf("%d rows found, %d registries moved aside", found, lost)
}

// TestFlush_DiskFull keeps everything queued until there is room again.
func TestFlush_DiskFull(t *testing.T) {
	dir := testutil.SmallDisk(t, "2m")
	r := open(t, dir, registry.Options{})
	r.Put(full(1, "/first"), []byte("first"))
	r.Put(full(2, "/second"), []byte("second"))
	flush(t, r)
	filler := dir + "/filler"
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("x"), 1500<<10)
	r.Put(full(1, "/first"), big)
	r.Delete(2)
	r.SetSummary([]byte("summary"))
	for range 2 {
		if err := r.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "free space in the state directory") {
			t.Fatalf("err=%v, want one that says what to do", err)
		}
		if got := r.Pending(); got != 3 {
			t.Errorf("pending=%d, want 3", got)
		}
	}
	sameRows(t, load(t, r), map[uint32]registry.Record{1: full(1, "/first"), 2: full(2, "/second")})
	if ledger(t, r, 1) != string(big) || ledger(t, r, 2) != "" {
		t.Error("what is queued was forgotten")
	}
	r.Put(full(3, "/third"), nil) // queued after the failure
	newest := full(1, "/first")
	newest.TXID = 99
	r.Put(newest, nil)
	testutil.ResizeDisk(t, dir, "64m")
	flush(t, r)
	want := map[uint32]registry.Record{1: newest, 3: full(3, "/third")}
	sameRows(t, load(t, r), want)
	if ledger(t, r, 1) != string(big) || r.Pending() != 0 {
		t.Errorf("pending=%d, ledger of %d bytes", r.Pending(), len(ledger(t, r, 1)))
	}
	shut(t, r, true)
	r = open(t, dir, registry.Options{})
	sameRows(t, load(t, r), want)
	shut(t, r, true)
}

// TestClose_DiskFull says that the last rows were lost, and claims no clean
// stop.
func TestClose_DiskFull(t *testing.T) {
	dir := testutil.SmallDisk(t, "1m")
	r := open(t, dir, registry.Options{})
	r.Put(full(1, "/x"), bytes.Repeat([]byte("x"), 2<<20))
	if err := r.Close(t.Context(), true); err == nil {
		t.Error("no error")
	}
	r = open(t, dir, registry.Options{})
	if info := r.Info(); info.Clean || len(load(t, r)) != 0 {
		t.Errorf("info=%+v, want an unclean stop", info)
	}
	shut(t, r, true)
}

const permissionRoot = "LITESTREAM_TEST_PERMISSION_ROOT"

// TestOpen_Permission opens as a user who may not write: a run of this test in
// a child process without root's rights.
func TestOpen_Permission(t *testing.T) {
	if root := os.Getenv(permissionRoot); root != "" {
		openUnwritable(t, root)
		return
	}
	// Not below t.TempDir, whose parent other users may not enter.
	root, err := os.MkdirTemp("/tmp", "litestream-registry-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	for name, mode := range map[string]fs.FileMode{"": 0o755, "/closed": 0o555, "/open": 0o777} {
		if err := os.MkdirAll(root+name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(root+name, mode); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() != 0 {
		openUnwritable(t, root)
		return
	}
	filled(t, root+"/open", 1) // root's files
	if err := os.Remove(root + "/open/lock"); err != nil {
		t.Fatal(err)
	}
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/test", exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), root+"/test", "-test.run=^TestOpen_Permission$")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), permissionRoot+"="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestOpen_Empty gives Open a file without a byte, as a power cut may leave it,
// or a stop while it was made. One line says why all is looked at.
func TestOpen_Empty(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 20)
	edit(t, dir+"/"+registry.FileName, func([]byte) []byte { return nil })
	var log logbook
	r := open(t, dir, log.options())
	if got := log.lines(); len(got) != 1 || !strings.Contains(got[0], registry.FileName) {
		t.Errorf("log=%q, want one line that names the file", got)
	}
	if info := r.Info(); !info.Fresh || info.Clean {
		t.Errorf("info=%+v, want a fresh one", info)
	}
	shut(t, r, true)
	shut(t, open(t, dir, log.options()), true)
	shut(t, open(t, t.TempDir(), log.options()), true)
	if got := log.lines(); len(got) != 1 {
		t.Errorf("log=%q after the next start, and the first one with another directory", got)
	}
}

func openUnwritable(t *testing.T, root string) {
	t.Helper()
	for dir, want := range map[string]string{
		root + "/closed":     "set another state-dir",
		root + "/closed/new": "set another state-dir",
		root + "/test/x":     "not a directory; set another state-dir",
		root + "/open":       "needs write access",
	} {
		if os.Getuid() != 65534 && strings.HasSuffix(dir, "open") {
			continue // its files are this user's
		}
		r, err := registry.Open(t.Context(), dir, registry.Options{})
		if err == nil {
			shut(t, r, true)
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: err=%v, want one with %q", dir, err, want)
		}
	}
	if os.Getuid() == 65534 {
		if _, err := registry.OpenReader(t.Context(), root+"/open"); err == nil || !strings.Contains(err.Error(), "access") {
			t.Errorf("reader: err=%v, want one that says whose files they are", err)
		}
	}
}

// TestRecord_Layout holds the layout that docs/formats/registry.md describes.
func TestRecord_Layout(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 1)
	c, err := (&sqlite3.SQLiteDriver{}).Open(dir + "/" + registry.FileName)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rows, err := c.(*sqlite3.SQLiteConn).Query("SELECT id, path, data FROM tenant", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	vals := make([]driver.Value, 3)
	if err := rows.Next(vals); err != nil {
		t.Fatal(err)
	}
	want := full(1, "/data/tenants/1")
	data := vals[2].([]byte)
	if string(vals[1].([]byte)) != want.Path || data[0] != 3 || data[1] != want.State ||
		binary.BigEndian.Uint64(data[2:]) != want.Place ||
		binary.BigEndian.Uint64(data[10:]) != uint64(want.TXID) ||
		binary.BigEndian.Uint64(data[18:]) != uint64(want.SyncedAt.UnixNano()) ||
		binary.BigEndian.Uint64(data[42:]) != uint64(want.GoneAt.UnixNano()) ||
		binary.BigEndian.Uint64(data[50:]) != want.Fingerprint.Main.ID.Dev ||
		binary.BigEndian.Uint64(data[122:]) != uint64(want.Fingerprint.WAL.Ctime) ||
		int(binary.BigEndian.Uint16(data[130:])) != len(want.Reason) ||
		len(data) != 130+2+len(want.Reason)+2+len(want.Files)+4 {
		t.Errorf("data=%x", data)
	}
}
