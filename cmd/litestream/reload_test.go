package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/control"
)

// daemon is a replicate command that runs in this process, with everything it
// has.
type daemon struct {
	t       *testing.T
	dir     string
	out     lockedBuffer
	signals chan os.Signal
	hangups chan os.Signal
	done    chan int
	stop    func()
}

// startDaemon starts a daemon with c.yml, to which a control socket is added,
// and waits until it answers.
func startDaemon(t *testing.T, dir, config string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: dir, signals: make(chan os.Signal, 2), hangups: make(chan os.Signal, 1), done: make(chan int, 1)}
	d.write(config)
	a := &app{
		stdout: &d.out, stderr: &d.out, newRunner: newStore,
		signals: func() (<-chan os.Signal, func()) { return d.signals, func() {} },
		hangups: func() (<-chan os.Signal, func()) { return d.hangups, func() {} },
	}
	ctx := context.WithoutCancel(t.Context())
	go func() { d.done <- a.main(ctx, []string{"replicate", "-config", "c.yml"}) }()
	d.stop = sync.OnceFunc(func() {
		d.signals <- syscall.SIGTERM
		select {
		case code := <-d.done:
			if code != 0 {
				t.Errorf("status %d\n%s", code, d.out.String())
			}
		case <-time.After(30 * time.Second):
			t.Errorf("the daemon does not end\n%s", d.out.String())
		}
	})
	t.Cleanup(d.stop)
	d.await("control socket listening")
	return d
}

func (d *daemon) write(config string) {
	d.t.Helper()
	writeFile(d.t, filepath.Join(d.dir, "c.yml"), "socket: {enabled: true, path: "+d.socket()+"}\n"+config)
}

func (d *daemon) socket() string { return filepath.Join(d.dir, "s") }

// await waits until the log has a text.
func (d *daemon) await(text string) {
	d.t.Helper()
	eventually(d.t, "the log to have "+text, func() bool { return strings.Contains(d.out.String(), text) })
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("timeout waiting for %s", what)
		}
	}
}

// reload runs the command and returns what it reports.
func (d *daemon) reload(args ...string) []string {
	d.t.Helper()
	got := runCommand(d.t, append([]string{"reload", "-json", "-socket", d.socket()}, args...)...)
	if got.code != 0 {
		d.t.Fatalf("got %+v", got)
	}
	var report control.ReloadReport
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
		d.t.Fatal(err)
	}
	if dry := len(args) > 0 && args[0] == "-dry-run"; report.Applied == dry || report.Changes == nil {
		d.t.Errorf("got %s", got.stdout)
	}
	return strings.Split(strings.TrimSuffix(describe(report.Changes), "\n"), "\n")
}

// sync waits until a database is on its replica.
func (d *daemon) sync(path string) {
	d.t.Helper()
	if got := runCommand(d.t, "sync", "-wait", "-socket", d.socket(), path); got.code != 0 {
		d.t.Fatalf("sync %s: %+v\n%s", path, got, d.out.String())
	}
}

// restored returns how many rows a restore of a replica has.
func (d *daemon) restored(replica string) int {
	d.t.Helper()
	out := filepath.Join(d.t.TempDir(), "o.db")
	if got := runCommand(d.t, "restore", "-integrity-check", "full", "-o", out, "file://"+filepath.Join(d.dir, replica)); got.code != 0 {
		d.t.Fatalf("restore %s: %+v", replica, got)
	}
	return countRows(d.t, out)
}

// snapshots returns how many snapshots a replica has.
func (d *daemon) snapshots(replica string) int {
	d.t.Helper()
	a, err := filepath.Glob(filepath.Join(d.dir, replica, "ltx", "9", "*.ltx"))
	if err != nil {
		d.t.Fatal(err)
	}
	return len(a)
}

// writer writes rows until it is stopped, and returns how many there are.
func writer(t *testing.T, path string) (stop func() int) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_journal_mode=WAL&_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	end, done := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := db.Exec("INSERT INTO t VALUES (randomblob(100))"); err != nil {
				done <- err
				return
			}
			select {
			case <-tick.C:
			case <-end:
				done <- nil
				return
			}
		}
	}()
	once := sync.OnceValue(func() int {
		close(end)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		return countRows(t, path)
	})
	t.Cleanup(func() { once() })
	return once
}

func insertRow(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
}

const reloadBase = `
dbs:
  - {path: a.db, monitor-interval: 20ms, replica: {path: r/a, sync-interval: 20ms}}
`

// TestReload changes dbs over the socket and by SIGHUP while applications
// write: what stays notices nothing, and nobody loses anything.
func TestReload(t *testing.T) {
	dir := testFolder(t)
	for _, name := range []string{"a", "b", "c"} {
		makeDatabase(t, filepath.Join(dir, name+".db"), 3)
	}
	const b = "  - {path: b.db, monitor-interval: 20ms, replica: {path: r/b, sync-interval: 20ms}}\n"
	d := startDaemon(t, dir, reloadBase+b)
	stops := make(map[string]func() int)
	for _, name := range []string{"a", "b", "c"} {
		stops[name] = writer(t, filepath.Join(dir, name+".db"))
	}
	d.sync("a.db")
	d.sync("b.db")
	if diff := cmp.Diff([]string{""}, d.reload()); diff != "" {
		t.Errorf("nothing has changed (-want +got):\n%s", diff)
	}
	d.write(reloadBase + strings.Replace(b, "r/b,", "r/b2,", 1) + "  - {path: c.db, monitor-interval: 20ms, replica: {path: r/c}}\naddr: :1\n")
	want := []string{
		"keep-until-restart|addr||not set → :1",
		"change|dbs[1]|" + dir + "/b.db|replica.path: " + dir + "/r/b → " + dir + "/r/b2",
		"add|dbs[2]|" + dir + "/c.db|replicated to file://" + dir + "/r/c",
	}
	if diff := cmp.Diff(want, d.reload("-dry-run")); diff != "" || strings.Contains(d.out.String(), "configuration change") {
		t.Errorf("dry run (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, d.reload()); diff != "" {
		t.Errorf("reload (-want +got):\n%s", diff)
	}
	d.sync("b.db")
	d.sync("c.db")
	old := d.restored("r/b")
	d.write(reloadBase + strings.Replace(b, "r/b,", "r/b2,", 1))
	d.hangups <- syscall.SIGHUP
	d.await(`msg="configuration change" action=remove what=dbs[2] path=` + dir + "/c.db")
	eventually(t, "c to be gone", func() bool { return !strings.Contains(runCommand(t, "list", "-socket", d.socket()).stdout, "c.db") })
	if got := d.restored("r/c"); got < 3 {
		t.Errorf("the replica of c has %d rows", got)
	}
	rows := make(map[string]int)
	for name, stop := range stops {
		rows[name] = stop()
	}
	d.stop()
	if got := d.restored("r/a"); got != rows["a"] {
		t.Errorf("a: restored %d rows, want %d", got, rows["a"])
	}
	if got := d.restored("r/b2"); got != rows["b"] {
		t.Errorf("b: restored %d rows, want %d", got, rows["b"])
	}
	if got := d.restored("r/b"); got != old || old < 3 {
		t.Errorf("the left replica of b changed from %d to %d rows", old, got)
	}
	if n := d.snapshots("r/a"); n > 1 {
		t.Errorf("%d snapshots of the database that stayed", n)
	}
}

// A file that is broken leaves everything as it was, and the error tells where.
func TestReload_Broken(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, filepath.Join(dir, "a.db"), 1)
	d := startDaemon(t, dir, reloadBase)
	d.sync("a.db")
	for _, tt := range []struct{ config, want string }{
		{"levels: [{interval: soon}]", "levels[0].interval (line 2): must be a duration such as 500ms, 30s or 24h (got soon)"},
		{"dbs: [", "yaml: line 2"},
		{reloadBase + "  - {path: ./a.db, replica: {path: s}}", "dbs[1].path (line 5): duplicate path"},
		{"multi-db: {nonsense: 1}", "multi-db.nonsense (line 2): unknown key"},
		{"", "the file names no database any more"},
		{"addr: x", `must specify port for bind address: "x"`},
	} {
		d.write(tt.config)
		got := runCommand(t, "reload", "-socket", d.socket())
		if got.code != 1 || !strings.HasPrefix(got.stderr, "Error: reload failed: the old configuration stays in force: ") || !strings.Contains(got.stderr, tt.want) {
			t.Errorf("%s: got %+v, want %q", tt.config, got, tt.want)
		}
		if got := runCommand(t, "reload", "-dry-run", "-socket", d.socket()); got.code != 1 || !strings.Contains(got.stderr, tt.want) {
			t.Errorf("%s: dry run: got %+v, want %q", tt.config, got, tt.want)
		}
	}
	d.write("checksums: maybe")
	d.hangups <- syscall.SIGHUP
	d.await("msg=reload error=\"the old configuration stays in force: " + dir + "/c.yml: checksums (line 2): must be true or false (got maybe)\"")
	if err := os.Remove("c.yml"); err != nil {
		t.Fatal(err)
	}
	if got := runCommand(t, "reload", "-socket", d.socket()); got.code != 1 || !strings.Contains(got.stderr, "config file not found") {
		t.Errorf("got %+v", got)
	}
	insertRow(t, filepath.Join(dir, "a.db"))
	d.sync("a.db")
	if got := d.restored("r/a"); got != 2 {
		t.Errorf("restored %d rows, want 2", got)
	}
}

// What the daemon does by the keys at the top changes with them.
func TestReload_Settings(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, filepath.Join(dir, "a.db"), 1)
	d := startDaemon(t, dir, "snapshot: {interval: 24h}\n"+reloadBase)
	d.sync("a.db")
	d.write("snapshot: {interval: 100ms}\nlogging: {level: debug}\nshutdown-timeout: 20s\nlevels: [{interval: 1s}]\n" + reloadBase)
	want := []string{
		"change|levels||[30s, 5m0s, 1h0m0s] → [1s]", "change|snapshot.interval||24h0m0s → 100ms",
		"change|logging.level||info → debug", "change|shutdown-timeout||30s → 20s",
	}
	if diff := cmp.Diff(want, d.reload()); diff != "" {
		t.Errorf("reload (-want +got):\n%s", diff)
	}
	insertRow(t, filepath.Join(dir, "a.db"))
	eventually(t, "a snapshot", func() bool { return d.snapshots("r/a") > 0 })
	d.await("msg=\"compaction complete\"")
	d.await("level=DEBUG")
	if diff := cmp.Diff([]string{""}, d.reload()); diff != "" {
		t.Errorf("again (-want +got):\n%s", diff)
	}
}

// TestReload_Registered holds how a reload goes together with what is done over
// the socket.
func TestReload_Registered(t *testing.T) {
	dir := testFolder(t)
	for _, name := range []string{"a", "b"} {
		makeDatabase(t, filepath.Join(dir, name+".db"), 1)
	}
	d := startDaemon(t, dir, reloadBase)
	run := func(args ...string) result {
		t.Helper()
		return runCommand(t, append([]string{args[0], "-socket", d.socket()}, args[1:]...)...)
	}
	if got := run("register", "-replica", "file://"+dir+"/r/b", "b.db"); got.code != 0 {
		t.Fatalf("register: %+v", got)
	}
	if diff := cmp.Diff([]string{""}, d.reload()); diff != "" {
		t.Errorf("a registered database is not the file's (-want +got):\n%s", diff)
	}
	for config, want := range map[string]string{
		"  - {path: b.db, replica: {path: r/b2}}\n": "dbs[1].path (line 5): the database was registered over the control socket: unregister it first (got " + dir + "/b.db)",
		"  - {path: c.db, replica: {path: r/b}}\n":  "dbs[1].replica (line 5): database " + dir + "/b.db has the same replica destination: they would overwrite each other",
	} {
		d.write(reloadBase + config)
		if got := run("reload"); got.code != 1 || !strings.Contains(got.stderr, want) {
			t.Errorf("got %+v, want %q", got, want)
		}
	}
	d.write(reloadBase)
	if got := run("unregister", "a.db"); got.code != 0 {
		t.Fatalf("unregister: %+v", got)
	}
	if diff := cmp.Diff([]string{"add|dbs[0]|" + dir + "/a.db|replicated to file://" + dir + "/r/a"}, d.reload()); diff != "" {
		t.Errorf("an unregistered database comes back (-want +got):\n%s", diff)
	}
	d.sync("a.db")
	if got := run("stop", "a.db"); got.code != 0 {
		t.Fatalf("stop: %+v", got)
	}
	if diff := cmp.Diff([]string{""}, d.reload()); diff != "" {
		t.Errorf("a stopped database stays so (-want +got):\n%s", diff)
	}
	if got := run("start", "a.db"); !strings.Contains(got.stdout, "started") {
		t.Errorf("start: %+v", got)
	}
}

// TestReload_ReplicaAway holds that a replica which is away keeps nothing
// from being changed, and that a database that goes elsewhere loses nothing.
func TestReload_ReplicaAway(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, filepath.Join(dir, "a.db"), 1)
	writeFile(t, filepath.Join(dir, "blocked"), "a file where a folder has to be")
	d := startDaemon(t, dir, "shutdown-sync-timeout: 100ms\n"+strings.Replace(reloadBase, "r/a,", "blocked/a,", 1))
	d.await("blocked")
	d.write("shutdown-sync-timeout: 100ms\n" + reloadBase)
	got := runCommand(t, "reload", "-socket", d.socket())
	if got.code != 1 || !strings.Contains(got.stderr, "the new configuration is in force, but not all went well: last sync of "+dir+"/a.db") {
		t.Errorf("got %+v", got)
	}
	d.sync("a.db")
	if got := d.restored("r/a"); got != 1 {
		t.Errorf("restored %d rows, want 1", got)
	}
}

// TestReload_MultiDB moves databases between dbs and a pattern.
func TestReload_MultiDB(t *testing.T) {
	dir := testFolder(t)
	for _, name := range []string{"a.db", "p/t1.db", "p/t2.db", "p/t3.db"} {
		makeDatabase(t, filepath.Join(dir, name), 2)
	}
	fleet := func(more string) string {
		return fmt.Sprintf("multi-db:\n  enabled: true\n  patterns: [%s/p/*.db]\n  state-dir: %s/state\n  scan-interval: 50ms\n"+
			"  replica-template: {type: file, path: '%s/f/{{1}}', sync-interval: 20ms}\n%s", dir, dir, dir, more)
	}
	d := startDaemon(t, dir, reloadBase+fleet(""))
	stop := writer(t, filepath.Join(dir, "p/t2.db"))
	for _, name := range []string{"a.db", "p/t1.db", "p/t2.db", "p/t3.db"} {
		d.sync(name)
	}
	t2 := "  - {path: p/t2.db, monitor-interval: 20ms, replica: {path: r/t2}}\n"
	d.write(reloadBase + t2 + fleet("  exclude: ["+dir+"/p/t2.db]\n  max-hot-databases: 7\n"))
	want := []string{
		"add|dbs[1]|" + dir + "/p/t2.db|replicated to file://" + dir + "/r/t2",
		"change|multi-db.exclude||[] → [" + dir + "/p/t2.db]", "change|multi-db.max-hot-databases||1000 → 7",
	}
	if diff := cmp.Diff(want, d.reload()); diff != "" {
		t.Errorf("reload (-want +got):\n%s", diff)
	}
	d.sync("p/t2.db")
	if got := runCommand(t, "list", "-socket", d.socket(), "-filter", "t2.db").stdout; strings.Contains(got, "hot") || !strings.Contains(got, "replicating") {
		t.Errorf("t2 is not one of dbs: %s", got)
	}
	before := d.restored("f/t2")
	insertRow(t, filepath.Join(dir, "p/t1.db"))
	d.write(reloadBase + fleet(""))
	d.reload()
	n := stop()
	d.sync("p/t1.db")
	d.sync("p/t2.db")
	for replica, want := range map[string]int{"f/t1": 3, "f/t2": n, "f/t3": 2, "r/a": 2} {
		if got := d.restored(replica); got != want {
			t.Errorf("%s: restored %d rows, want %d", replica, got, want)
		}
	}
	if before < 2 || before > n {
		t.Errorf("the replica of t2 had %d rows when it left the pattern", before)
	}
	d.write(reloadBase)
	if diff := cmp.Diff([]string{"keep-until-restart|multi-db.enabled||true → false"}, d.reload()); diff != "" {
		t.Errorf("reload (-want +got):\n%s", diff)
	}
}

// TestReload_Service holds what systemd hears, whatever comes of a reload.
func TestReload_Service(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, filepath.Join(dir, "a.db"), 1)
	socket, messages := fakeSystemd(t)
	t.Setenv("NOTIFY_SOCKET", socket)
	d := startDaemon(t, dir, reloadBase)
	if got := hear(t, messages); !strings.HasPrefix(got, "READY=1\n") {
		t.Errorf("got %q", got)
	}
	for range 2 {
		d.hangups <- syscall.SIGHUP
		if got := hear(t, messages); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
			t.Errorf("got %q, want RELOADING=1", got)
		}
		if got := hear(t, messages); got != "READY=1" {
			t.Errorf("got %q, want READY=1", got)
		}
		d.write("nonsense: [")
	}
}

// Requests that come together are done one after the other.
func TestReload_Parallel(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, filepath.Join(dir, "a.db"), 1)
	makeDatabase(t, filepath.Join(dir, "b.db"), 1)
	d := startDaemon(t, dir, reloadBase)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			c := client{socket: d.socket(), timeout: 30}
			var report control.ReloadReport
			if err := c.call(t.Context(), "reload", http.MethodPost, "/reload", control.ReloadRequest{DryRun: i%3 == 0}, &report); err != nil {
				t.Error(err)
			}
		})
		if i%4 == 0 {
			d.hangups <- syscall.SIGHUP
		}
	}
	wg.Wait()
	d.stop()
	if got := runCommand(t, "reload", "-socket", d.socket()); got.code != 1 || !strings.Contains(got.stderr, "failed to connect to control socket") {
		t.Errorf("after the end: %+v", got)
	}
}
