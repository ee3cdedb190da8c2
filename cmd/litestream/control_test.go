package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/control"
	"github.com/benbjohnson/litestream/tests/servers"
)

// controlDaemon is a replicate command in this process that has a socket.
type controlDaemon struct {
	t       *testing.T
	socket  string
	log     lockedBuffer
	signals chan os.Signal
	done    chan int
}

// startControlDaemon runs replicate with a configuration until the test ends.
func startControlDaemon(t *testing.T, config string) *controlDaemon {
	t.Helper()
	dir := t.TempDir()
	d := &controlDaemon{t: t, socket: filepath.Join(dir, "s"), signals: make(chan os.Signal, 2), done: make(chan int, 1)}
	writeFile(t, filepath.Join(dir, "c.yml"), fmt.Sprintf("socket: {enabled: true, path: %s}\n%s", d.socket, config))
	a := &app{
		stdout: &d.log, stderr: &d.log, newRunner: newStore,
		signals: func() (<-chan os.Signal, func()) { return d.signals, func() {} },
	}
	go func() {
		d.done <- a.main(context.Background(), []string{"replicate", "-config", filepath.Join(dir, "c.yml")})
	}()
	awaitLog(t, &d.log, "control socket listening")
	t.Cleanup(func() { d.stop() })
	return d
}

// stop ends the daemon and returns its status.
func (d *controlDaemon) stop() int {
	if d.done == nil {
		return 0
	}
	d.signals <- syscall.SIGTERM
	code := <-d.done
	d.done = nil
	return code
}

// run runs a client command.
func (d *controlDaemon) run(name string, args ...string) result {
	d.t.Helper()
	return runCommand(d.t, append([]string{name, "-socket", d.socket}, args...)...)
}

// want runs a client command and wants it to print something and succeed, or
// with "Error" in front, to fail.
func (d *controlDaemon) want(want, name string, args ...string) {
	d.t.Helper()
	got := d.run(name, args...)
	code, out := 0, got.stdout+got.stderr
	if strings.HasPrefix(want, "Error") {
		code, out = 1, got.stderr
	}
	if got.code != code || !strings.Contains(out, want) {
		d.t.Errorf("%s %q: got %+v, want status %d and %q", name, args, got, code, want)
	}
}

// TestControl_Fleet gives every command the path of a database of multi-db.
func TestControl_Fleet(t *testing.T) {
	dir := testFolder(t)
	tenant := func(name string) string { return dir + "/data/" + name + ".db" }
	for _, name := range []string{"t1", "t2", "t3"} {
		makeDatabase(t, tenant(name), 3)
	}
	makeDatabase(t, dir+"/one.db", 1)
	d := startControlDaemon(t, fmt.Sprintf(`
dbs: [{path: %[1]s/one.db, replica: {path: %[1]s/r/one}}]
multi-db:
  enabled: true
  patterns: ["%[1]s/data/*.db"]
  state-dir: %[1]s/state
  scan-interval: 1h
  replica-template: {path: "%[1]s/r/fleet/{{tenant}}"}
`, dir))
	d.want("failed: 0\nleft: 0\n", "sync", "-all", "-wait")
	makeDatabase(t, tenant("t9"), 5) // found by no scan
	d.want("txid: 1\nreplica_txid: 1\n", "sync", "-wait", tenant("t9"))
	if got := runCommand(t, "restore", "-o", dir+"/t9", "file://"+dir+"/r/fleet/t9"); got.code != 0 || countRows(t, dir+"/t9") != 5 {
		t.Errorf("restore: %+v", got)
	}
	d.want("Databases:  5\n", "info")
	d.want("/t1.db [replicating] (last sync: 2", "list", "-filter", "t1.db")
	d.want("There are more: -after p"+dir+"/one.db", "list", "-limit", "1")
	var names []string
	for after := []string{}; ; {
		got := d.run("list", append([]string{"-json", "-limit", "2"}, after...)...)
		var page control.ListResponse
		if err := json.Unmarshal([]byte(got.stdout), &page); err != nil || len(page.Databases) > 2 {
			t.Fatalf("%v: %+v", err, got)
		}
		for _, db := range page.Databases {
			names = append(names, filepath.Base(db.Path))
		}
		if page.Next == "" {
			break
		}
		after = []string{"-after", page.Next}
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"one.db", "t1.db", "t2.db", "t3.db", "t9.db"}, names); diff != "" {
		t.Errorf("pages: %s", diff)
	}
	d.want("No databases configured", "list", "-filter", "none")
	d.want("Error: list failed: invalid filter: [", "list", "-filter", "[")
	d.want("Error: list failed: invalid after: \"x\"", "list", "-after", "x")

	d.want("status: stopped\n", "stop", tenant("t1"))
	d.want("status: already_stopped\n", "stop", tenant("t1"))
	d.want("/t1.db [stopped]", "list", "-filter", "t1.db")
	d.want("Error: sync failed: database not open: "+tenant("t1"), "sync", tenant("t1"))
	d.want("status: started\n", "start", tenant("t1"))
	d.want("status: already_running\n", "start", tenant("t1"))
	d.want("txid: ", "sync", "-wait", tenant("t1"))
	d.want("Error: sync failed: database not found: "+tenant("none"), "sync", tenant("none"))
	d.want("Error: stop failed: database not found: "+tenant("none"), "stop", tenant("none"))
	d.want("Error: sync failed: database not found: "+dir+"/x", "sync", "x")

	replica := "file://" + dir + "/r/new"
	d.want("Error: register failed: "+tenant("t1")+" is replicated already, by pattern", "register", "-replica", replica, tenant("t1"))
	d.want("Error: register failed: "+tenant("other")+" is replicated already, by pattern", "register", "-replica", replica, tenant("other"))
	d.want("Error: unregister failed: "+tenant("t1")+" is a database of multi-db", "unregister", tenant("t1"))
	d.want("Error: register failed: replica file://"+dir+"/r/fleet/t2 belongs to database "+tenant("t2"), "register", "-replica", "file://"+dir+"/r/fleet/t2", dir+"/new.db")
	d.want("Error: register failed: replica file://"+dir+"/r/one belongs to database "+dir+"/one.db", "register", "-replica", "file://"+dir+"/r/one", dir+"/new.db")
	if err := os.Symlink(tenant("t2"), dir+"/link.db"); err != nil {
		t.Fatal(err)
	}
	d.want("Error: register failed: "+dir+"/link.db is the same file as "+tenant("t2"), "register", "-replica", replica, dir+"/link.db")
	d.want("Error: register failed: "+dir+"/one.db is replicated to file://"+dir+"/r/one already", "register", "-replica", replica, dir+"/one.db")
	d.want("status: already registered", "register", "-replica", "file://"+dir+"/r/one", dir+"/one.db")
	d.want("Error: register failed: invalid replica url: unsupported replica URL scheme: \"bogus\"", "register", "-replica", "bogus://b/p", dir+"/new.db")
	d.want("Error: cannot specify a database path and the -all flag", "sync", "-all", dir+"/one.db")
	if code := d.stop(); code != 0 {
		t.Errorf("status %d\n%s", code, d.log.String())
	}
	if _, err := os.Lstat(d.socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestControl_Parallel sends a thousand requests at a time to a daemon with
// databases of both kinds.
func TestControl_Parallel(t *testing.T) {
	dir := testFolder(t)
	for i := range 4 {
		makeDatabase(t, fmt.Sprintf("%s/data/t%d.db", dir, i), 1)
	}
	makeDatabase(t, dir+"/one.db", 1)
	d := startControlDaemon(t, fmt.Sprintf(`
dbs: [{path: %[1]s/one.db, replica: {path: %[1]s/r/one}}]
multi-db: {enabled: true, patterns: ["%[1]s/data/*.db"], state-dir: %[1]s/state, replica-template: {path: "%[1]s/r/fleet/{{tenant}}"}}
`, dir))
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.socket)
		},
	}}
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			path := dir + "/one.db"
			if i%2 == 0 {
				path = fmt.Sprintf("%s/data/t%d.db", dir, i%8/2)
			}
			target, body := "/info", ""
			switch i / 2 % 7 {
			case 1:
				target = "/list?filter=*.db"
			case 2:
				target, body = "/sync", fmt.Sprintf(`{"path":%q,"wait":true}`, path)
			case 3:
				target, body = "/stop", fmt.Sprintf(`{"path":%q}`, path)
			case 4:
				target, body = "/start", fmt.Sprintf(`{"path":%q}`, path)
			case 5:
				target = "/debug/sync-status"
			case 6:
				target, body = "/register", fmt.Sprintf(`{"path":"%s/new%d.db","replica_url":"file://%s/r/new%d"}`, dir, i%3, dir, i%3)
			}
			var res *http.Response
			var err error
			if body == "" {
				res, err = client.Get("http://x" + target)
			} else {
				res, err = client.Post("http://x"+target, "application/json", strings.NewReader(body))
			}
			if err != nil {
				t.Errorf("%s: %v", target, err)
				return
			}
			defer res.Body.Close()
			data, err := io.ReadAll(res.Body)
			if stopped := target == "/sync" && res.StatusCode == http.StatusConflict; err != nil || res.StatusCode != http.StatusOK && !stopped {
				t.Errorf("%s %s: %s %s %v", target, body, res.Status, data, err)
			}
		})
	}
	wg.Wait()
	for _, path := range []string{dir + "/one.db", dir + "/data/t0.db", dir + "/data/t3.db"} {
		if got := d.run("start", path); got.code != 0 {
			t.Errorf("start: %+v", got)
		}
		d.want("replica_txid: ", "sync", "-wait", path)
	}
}

// hungServer accepts connections and never answers.
func hungServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	return ln.Addr().String()
}

// TestControl_HungReplica holds that every command answers in its time while the
// storage accepts connections and never answers.
func TestControl_HungReplica(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for eight timeouts of a second; TestStore_HungReplica and internal/control meet the same faster")
	}
	dir := testFolder(t)
	makeDatabase(t, dir+"/one.db", 1)
	makeDatabase(t, dir+"/good.db", 1)
	makeDatabase(t, dir+"/data/t1.db", 1)
	hung := hungServer(t)
	d := startControlDaemon(t, fmt.Sprintf(`
shutdown-timeout: 1s
access-key-id: a
secret-access-key: b
region: us-east-1
dbs:
- {path: %[1]s/one.db, replica: {type: s3, bucket: b, path: one, endpoint: "http://%[2]s"}}
- {path: %[1]s/good.db, replica: {path: %[1]s/r/good}}
multi-db:
  enabled: true
  patterns: ["%[1]s/data/*.db"]
  state-dir: %[1]s/state
  replica-template: {type: s3, bucket: b, path: "fleet/{{tenant}}", endpoint: "http://%[2]s"}
`, dir, hung))
	tenant := dir + "/data/t1.db"
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"Databases:  3", []string{"info", "-timeout", "1"}},
		{"Error: sync failed: sync database: sync " + tenant + ": the replica could not be reached yet", []string{"sync", "-wait", "-timeout", "1", tenant}},
		{"t1.db [replicating] (last sync: never)", []string{"list", "-timeout", "1"}},
		{"Error: stop failed: the database is stopped, but its last changes may not be on the replica", []string{"stop", "-timeout", "1", tenant}},
		{"t1.db [stopped] (last sync: never)", []string{"list", "-timeout", "1"}},
		{"status: started", []string{"start", "-timeout", "1", tenant}},
		{"one.db [replicating] (last sync: never)", []string{"list", "-timeout", "1"}},
		{"Error: sync failed: sync database: ", []string{"sync", "-wait", "-timeout", "1", dir + "/one.db"}},
		{"replica_txid: 1", []string{"sync", "-wait", "-timeout", "10", dir + "/good.db"}},
		{"Error: sync incomplete: 0 databases failed, 2 were left", []string{"sync", "-all", "-wait", "-timeout", "1"}},
		{"Error: stop failed: last sync of " + dir + "/one.db", []string{"stop", "-timeout", "1", dir + "/one.db"}},
		{"status: already_stopped", []string{"stop", "-timeout", "1", dir + "/one.db"}},
		{"one.db [stopped]", []string{"list", "-timeout", "1"}},
		{"status: started", []string{"start", "-timeout", "1", dir + "/one.db"}},
		{"status: registered", []string{"register", "-timeout", "1", "-replica", "s3://b/two", dir + "/two.db"}},
		{"Error: unregister failed: ", []string{"unregister", "-timeout", "1", dir + "/one.db"}},
		{"status: already_unregistered", []string{"unregister", "-timeout", "1", dir + "/one.db"}},
	} {
		start := time.Now()
		d.want(tt.want, tt.args[0], tt.args[1:]...)
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%q took %s", tt.args, took)
		}
	}
	if code := d.stop(); code == 2 {
		t.Errorf("status %d", code)
	}
}

// TestControl_NoSocket holds that a daemon runs where its socket cannot be made,
// and says why.
func TestControl_NoSocket(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, dir+"/a.db", 1)
	writeFile(t, dir+"/file", "hi")
	for path, want := range map[string]string{
		dir:                  "is not a socket: " + dir + " (it is a directory)",
		dir + "/file":        "(it is a file)",
		dir + "/none/s.sock": "no such file or directory",
	} {
		writeFile(t, "c.yml", fmt.Sprintf("socket: {enabled: true, path: %q}\ndbs: [{path: a.db, replica: {path: r}}]\nexec: \"true\"\n", path))
		var out lockedBuffer
		a := &app{stdout: &out, stderr: &out, signals: noSignals, newRunner: newStore}
		if code := a.main(t.Context(), []string{"replicate", "-config", "c.yml"}); code != 0 {
			t.Errorf("%s: status %d", path, code)
		}
		if log := out.String(); !strings.Contains(log, `level=WARN msg="failed to start control server"`) || !strings.Contains(log, want) {
			t.Errorf("%s: the log lacks %q:\n%s", path, want, log)
		}
	}
	if data, err := os.ReadFile(dir + "/file"); err != nil || string(data) != "hi" {
		t.Errorf("the file holds %q, %v", data, err)
	}
}

// childDaemon runs the command in a process of its own.
func childDaemon(t *testing.T, bin, config string) (cmd *exec.Cmd, log *lockedBuffer) {
	t.Helper()
	log = new(lockedBuffer)
	cmd = exec.Command(bin, "replicate", "-config", config)
	cmd.Env = append(os.Environ(), runMainEnv+"=1")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd, log
}

func awaitLog(t *testing.T, log *lockedBuffer, text string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(log.String(), text); {
		if <-tick.C; time.Now().After(end) {
			t.Fatalf("the log lacks %q:\n%s", text, log.String())
		}
	}
}

func interrupt(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestControl_TwoDaemons starts a second daemon on the socket of a first: it
// warns and replicates without one, the first goes on answering, also after the
// second has ended, and a socket that a killed one left is replaced.
func TestControl_TwoDaemons(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := parallelFolder(t)
	socket := t.TempDir() + "/s"
	for _, name := range []string{"a", "b"} {
		makeDatabase(t, dir+"/"+name+".db", 1)
		writeFile(t, dir+"/"+name+".yml", fmt.Sprintf("socket: {enabled: true, path: %[1]s}\ndbs: [{path: %[2]s/%[3]s.db, replica: {path: %[2]s/r/%[3]s}}]\n", socket, dir, name))
	}
	list := func() string { return runCommand(t, "list", "-socket", socket).stdout }
	first, firstLog := childDaemon(t, self, dir+"/a.yml")
	awaitLog(t, firstLog, "control socket listening")
	second, secondLog := childDaemon(t, self, dir+"/b.yml")
	awaitLog(t, secondLog, "another process listens on it")
	if got := list(); !strings.Contains(got, "a.db") || strings.Contains(got, "b.db") {
		t.Errorf("list: %s", got)
	}
	awaitLog(t, secondLog, "snapshot complete") // it replicates
	interrupt(t, second)
	if got := list(); !strings.Contains(got, "a.db") {
		t.Errorf("list after the end of the second: %s", got)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // killed
	if _, err := os.Lstat(socket); err != nil {
		t.Fatalf("a killed daemon left no socket: %v", err)
	}
	third, thirdLog := childDaemon(t, self, dir+"/b.yml")
	awaitLog(t, thirdLog, "control socket listening")
	if got := list(); !strings.Contains(got, "b.db") {
		t.Errorf("list: %s", got)
	}
	interrupt(t, third)
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// varying is what differs between two runs of one and the same program.
var varying = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z|(?i:pid"?: *)\d+|uptime_seconds"?: *\d+|Uptime: .*|duration_ms"?: *\d+|v0\.5\.18|\(development build\)`)

// TestUpstream_Control runs the clients of both programs against the daemons of
// both: all four print the same.
func TestUpstream_Control(t *testing.T) {
	upstream := servers.Upstream(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(runMainEnv, "1") // of no concern to upstream
	calls := []string{
		"sync -wait a.db", "info", "info -json", "info x", "info -timeout 0", "info -timeout x", "list", "list -json", "list x", "list -timeout -1",
		"sync -wait a.db", "sync -wait -json a.db", "sync a.db", "sync -json a.db", "sync none.db", "sync", "sync a b", "sync -timeout 0 a.db",
		"stop a.db", "stop a.db", "stop -json a.db", "sync a.db", "list", "start a.db", "start a.db", "start -json a.db",
		"stop none.db", "start none.db", "stop", "start", "stop a b", "start a b", "sync -wait a.db",
		"register b.db", "register", "register -replica file://$/r/b a b", "register -replica /x c.db", "register -replica bogus://x c.db",
		"register -timeout 0 -replica file:///x a", "register -replica file://$/r/b b.db", "register -replica file://$/r/b b.db",
		"register -json -replica file://$/r/b b.db", "sync -wait b.db", "unregister -dry-run b.db", "unregister b.db", "unregister b.db",
		"unregister -json b.db", "unregister", "unregister a b", "unregister -timeout 0 b.db", "info",
		"info -socket /none", "list -socket /none -json", "sync -socket /none a.db", "start -socket /none a.db", "stop -socket /none a.db",
		"register -socket /none -replica file:///x a.db", "unregister -socket /none a.db", "info -socket $", "unregister -dry-run -json a.db",
	}
	dir := t.TempDir()
	session := func(daemon, client string) (out []string) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		makeDatabase(t, dir+"/a.db", 1)
		makeDatabase(t, dir+"/b.db", 1)
		writeFile(t, dir+"/c.yml", fmt.Sprintf("socket: {enabled: true, path: %[1]s/s}\ndbs: [{path: %[1]s/a.db, replica: {path: %[1]s/r/a}}]\n", dir))
		t.Chdir(dir)
		cmd, log := childDaemon(t, daemon, "c.yml")
		awaitLog(t, log, "control socket listening")
		for _, call := range calls {
			name, rest, _ := strings.Cut(call, " ")
			args := append([]string{name, "-socket", dir + "/s"}, strings.Fields(strings.ReplaceAll(rest, "$", dir))...)
			var res result
			if client == self { // in this process, which is faster
				res = runCommand(t, args...)
			} else {
				res = runUpstream(t, client, args...)
			}
			if strings.Contains(call, "-timeout x") {
				res.stdout = "" // the help, which is in our words
			}
			text := fmt.Sprintf("%s\n%d\n%s\n%s", call, res.code, res.stdout, res.stderr)
			out = append(out, varying.ReplaceAllString(text, "*"))
		}
		interrupt(t, cmd)
		return out
	}
	want := session(upstream, upstream)
	for name, got := range map[string][]string{
		"both ours":         session(self, self),
		"upstream's client": session(self, upstream),
		"upstream's daemon": session(upstream, self),
	} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-upstream +got):\n%s", name, diff)
		}
	}
}
