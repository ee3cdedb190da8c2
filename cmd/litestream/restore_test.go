package main

import (
	"bytes"
	"database/sql"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// testDatabase returns the bytes of a small database.
func testDatabase(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// writeSnapshot puts a database on a file replica as transaction 1.
func writeSnapshot(t *testing.T, dir string, data []byte) {
	t.Helper()
	const pageSize = 4096
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var buf bytes.Buffer
	enc, err := ltx.NewEncoder(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if err := enc.EncodeHeader(ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: pageSize, Commit: uint32(len(data) / pageSize),
		MinTXID: 1, MaxTXID: 1, Timestamp: at.UnixMilli(),
	}); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(data); i += pageSize {
		if err := enc.EncodePage(ltx.PageHeader{Pgno: uint32(i/pageSize) + 1}, data[i:i+pageSize]); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "ltx", "9", ltx.FormatFilename(1, 1))
	writeFile(t, path, buf.String())
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestRestore_Errors(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "c.yml"), "dbs: []")
	writeFile(t, filepath.Join(dir, "full"), "x")
	writeFile(t, filepath.Join(dir, "left-wal"), "x")
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeSnapshot(t, filepath.Join(dir, "r"), testDatabase(t))
	url := "file://" + dir + "/r"
	for args, want := range map[string]string{
		"restore":                                                      "database path or replica URL required\nTry: litestream restore -o /path/to/db s3://bucket/prefix",
		"restore a b":                                                  "too many arguments",
		"restore a":                                                    "config file not found: " + dir + "/missing.yml",
		"restore -config c.yml a":                                      "database not found in config: " + dir + "/a",
		"restore " + url:                                               "-o is required when restoring from a replica URL\nTry: litestream restore -o /path/to/db " + url,
		"restore -o x -config c.yml " + url:                            "cannot specify a replica URL and the -config flag",
		"restore -o x -timestamp foo " + url:                           "invalid -timestamp, must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z)",
		"restore -o x -integrity-check foo " + url:                     "invalid -integrity-check value: foo",
		"restore -f -dry-run -o x " + url:                              "cannot use -dry-run with -f",
		"restore -f -txid 0000000000000001 -o x " + url:                "cannot use follow mode with -txid",
		"restore -f -timestamp 2026-01-02T03:04:05Z -o x " + url:       "cannot use follow mode with -timestamp",
		"restore -o x bogus://a/b":                                     `unknown replica type in config: "bogus"`,
		"restore -o x file://" + dir + "/none":                         "no matching backup files available",
		"restore -o full " + url:                                       "output path already exists: full (restore to another path, or replace it with -force)",
		"restore -o folder " + url:                                     "output path already exists: folder is a directory (give the path of the database file)",
		"restore -o left " + url:                                       "output path already exists: left-wal was left by SQLite and would mix with the restored database (move it away, or delete it with -force)",
		"restore -o x -txid 0000000000000009 " + url:                   "transaction not available: 0000000000000009 is newer than the newest on the replica, 0000000000000001",
		"restore -o x -timestamp 2020-01-01T00:00:00Z " + url:          "",
		"restore -o x -dry-run -timestamp 2020-01-01T00:00:00Z " + url: "",
		"restore -o x -txid 0000000000000001 -timestamp 2030-01-01T00:00:00Z " + url: "cannot specify both -txid and -timestamp",
	} {
		got := runCommand(t, strings.Fields(args)...)
		if got.code != 1 || got.stdout != "" || (want != "" && got.stderr != "Error: "+want+"\n") {
			t.Errorf("%s: got %+v, want error %q", args, got, want)
		}
		if _, err := os.Stat(filepath.Join(dir, "x")); err == nil {
			t.Fatalf("%s: wrote the output", args)
		}
	}
	for _, txid := range []string{"1", "zz", "+000000000000001", "00000000000000001"} {
		got := runCommand(t, "restore", "-txid", txid, "-o", "x", url)
		want := `invalid value "` + txid + `" for flag -txid: invalid txid format`
		if got.code != 1 || got.stderr != want+"\nError: "+want+"\n" {
			t.Errorf("txid %s: got %q, want %q", txid, got.stderr, want)
		}
	}
}

func TestRestore(t *testing.T) {
	dir := testFolder(t)
	data := testDatabase(t)
	writeSnapshot(t, filepath.Join(dir, "r"), data)
	url := "file://" + dir + "/r"
	writeFile(t, filepath.Join(dir, "c.yml"), "dbs: [{path: a.db, meta-path: m, replica: {path: r}}]\nlogging: {level: warn}")

	check := func(path string) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%s differs from the source", path)
		}
	}
	for _, args := range []string{
		"restore -o o1 " + url,
		"restore -o o2 -txid 0000000000000001 -integrity-check full -config c.yml a.db",
		"restore -o o3 -timestamp 2026-01-02T03:04:06Z -parallelism 2 " + url,
		"restore -o o1 -force " + url,
		"restore -o new/folder/o4 " + url,
	} {
		if got := runCommand(t, strings.Fields(args)...); got != (result{}) {
			t.Errorf("%s: got %+v, want silence", args, got)
		}
		check(strings.Fields(args)[2])
	}

	// In place, the restore leaves a ledger so that replication goes on with a
	// diff instead of a snapshot.
	if got := runCommand(t, "restore", "-config", "c.yml", filepath.Join(dir, "a.db")); got != (result{}) {
		t.Fatalf("restore in place: %+v", got)
	}
	check("a.db")
	if fi, err := os.Stat("m/ledger"); err != nil || fi.Size() == 0 {
		t.Errorf("ledger: %v, %v", fi, err)
	}
	if _, err := os.Stat("ledger"); err == nil {
		t.Error("ledger outside the metadata directory")
	}

	if got := runCommand(t, "restore", "-if-db-not-exists", "-o", "o1", url); got.code != 0 || !strings.Contains(got.stdout, "database already exists, skipping") {
		t.Errorf("-if-db-not-exists: %+v", got)
	}
	if got := runCommand(t, "restore", "-if-replica-exists", "-o", "x", "file://"+dir+"/none"); got.code != 0 || !strings.Contains(got.stdout, "no matching backups found") {
		t.Errorf("-if-replica-exists: %+v", got)
	}
	writeLTXFile(t, filepath.Join(dir, "hole"), 0, 5, 5)
	if got := runCommand(t, "restore", "-if-replica-exists", "-o", "x", "file://"+dir+"/hole"); got.code != 1 || !strings.Contains(got.stderr, "missing txids") {
		t.Errorf("-if-replica-exists on a damaged replica: %+v", got)
	}
}

func TestRestore_JSON(t *testing.T) {
	dir := testFolder(t)
	writeSnapshot(t, filepath.Join(dir, "r"), testDatabase(t))
	writeFile(t, filepath.Join(dir, "c.yml"), "dbs: [{path: a.db, replica: {path: r}}]\nlogging: {level: debug}")
	got := runCommand(t, "restore", "-json", "-integrity-check", "quick", "-config", "c.yml", "-o", "o.db", "a.db")
	head, tail, _ := strings.Cut(got.stdout, `"duration_ms": `)
	_, tail, _ = strings.Cut(tail, ",")
	want := [2]string{
		"{\n  \"db_path\": \"o.db\",\n  \"replica\": \"file\",\n  \"txid\": \"0000000000000001\",\n  ",
		"\n  \"integrity_check\": \"quick\"\n}\n",
	}
	if diff := cmp.Diff(want, [2]string{head, tail}); diff != "" || got.code != 0 {
		t.Errorf("-json: status %d (-want +got):\n%s", got.code, diff)
	}
	if !strings.Contains(got.stderr, `msg="post-restore integrity check passed" db=a.db replica=file`) {
		t.Errorf("log lines on stderr: %q", got.stderr)
	}
}

func TestRestore_DryRun(t *testing.T) {
	dir := testFolder(t)
	writeSnapshot(t, filepath.Join(dir, "r"), testDatabase(t))
	writeFile(t, filepath.Join(dir, "c.yml"), "dbs: [{path: a.db, replica: {path: r}}]")
	fi, err := os.Stat("r/ltx/9/" + ltx.FormatFilename(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	size := strconv.FormatInt(fi.Size(), 10)
	wantText := "Restore plan:\n  source: file://" + dir + "/r\n  target: o.db\n  replica: file\n  txid range: 0000000000000001 - 0000000000000001\n\n" +
		"Files to fetch:\nlevel  file                                   min_txid          max_txid          size  timestamp\n" +
		"9      0000000000000001-0000000000000001.ltx  0000000000000001  0000000000000001  " + size + strings.Repeat(" ", 6-len(size)) + "2026-01-02T03:04:05Z\n"
	got := runCommand(t, "restore", "-dry-run", "-o", "o.db", "file://"+dir+"/r")
	if diff := cmp.Diff(result{0, wantText, ""}, got, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("-dry-run (-want +got):\n%s", diff)
	}
	wantJSON := "{\n  \"source\": \"a.db\",\n  \"target_path\": \"" + dir + "/a.db\",\n  \"replica\": \"file\",\n" +
		"  \"min_txid\": \"0000000000000001\",\n  \"max_txid\": \"0000000000000001\",\n  \"files\": [\n    {\n      \"level\": 9,\n" +
		"      \"name\": \"0000000000000001-0000000000000001.ltx\",\n      \"min_txid\": \"0000000000000001\",\n      \"max_txid\": \"0000000000000001\",\n" +
		"      \"size\": " + size + ",\n      \"timestamp\": \"2026-01-02T03:04:05Z\"\n    }\n  ]\n}\n"
	got = runCommand(t, "restore", "-dry-run", "-json", "-config", "c.yml", "a.db")
	if diff := cmp.Diff(result{0, wantJSON, ""}, got, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("-dry-run -json (-want +got):\n%s", diff)
	}
	if entries, err := os.ReadDir("."); err != nil || len(entries) != 2 {
		t.Errorf("dry run left %v, %v", entries, err)
	}
}

// TestRestore_Interrupted holds that a signal ends a restore with an error and
// nothing half-written.
func TestRestore_Interrupted(t *testing.T) {
	testFolder(t)
	// A server that accepts and never answers: the restore waits until it is
	// interrupted.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	url := "s3://bucket/db?endpoint=http://" + ln.Addr().String()
	c := make(chan os.Signal, 1)
	c <- os.Interrupt
	var stdout, stderr bytes.Buffer
	a := &app{stdout: &stdout, stderr: &stderr, signals: func() (<-chan os.Signal, func()) { return c, func() {} }}
	code := a.main(t.Context(), []string{"restore", "-o", "o.db", url})
	if code != 1 || stderr.String() != "Error: restore interrupted by interrupt, nothing was written\n" {
		t.Errorf("got %d, %q, want the interrupt", code, stderr.String())
	}
	for _, name := range []string{"o.db", "o.db.tmp"} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s was left", name)
		}
	}
}

func TestFormatProgress(t *testing.T) {
	for _, tt := range []struct {
		done, total int64
		elapsed     time.Duration
		want        string
	}{
		{0, 0, 0, "restoring 100.0%  0 B of 0 B"},
		{0, 1000, time.Second, "restoring   0.0%  0 B of 1.0 kB"},
		{250_000_000, 1_000_000_000, 100 * time.Millisecond, "restoring  25.0%  250 MB of 1.0 GB"},
		{250_000_000, 1_000_000_000, 5 * time.Second, "restoring  25.0%  250 MB of 1.0 GB  50 MB/s  15s left"},
		{1_000_000_000, 1_000_000_000, 20 * time.Second, "restoring 100.0%  1.0 GB of 1.0 GB  50 MB/s  0s left"},
	} {
		got := formatProgress(litestream.RestoreProgress{Phase: litestream.RestoreReading, BytesDone: tt.done, BytesTotal: tt.total}, tt.elapsed)
		if got != tt.want {
			t.Errorf("%d of %d after %s: got %q, want %q", tt.done, tt.total, tt.elapsed, got, tt.want)
		}
	}
}

func TestProgressLine(t *testing.T) {
	var terminal bytes.Buffer
	p := newProgressLine(&terminal)
	p.update(litestream.RestoreProgress{Phase: litestream.RestoreReading})
	p.clear()
	if terminal.Len() > 0 {
		t.Fatalf("piped: got %q, want nothing", terminal.String())
	}
	p.w = &terminal
	p.update(litestream.RestoreProgress{Phase: litestream.RestorePlanning})
	if _, err := p.wrap(&terminal).Write([]byte("log line\n")); err != nil {
		t.Fatal(err)
	}
	p.update(litestream.RestoreProgress{Phase: litestream.RestoreSyncing})
	p.clear()
	p.clear()
	want := clearLine + "planning" + clearLine + "log line\n" + clearLine + "syncing" + clearLine
	if got := terminal.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
