package backends_test

import (
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/internal/testutil"
	"github.com/benbjohnson/litestream/tests/backends"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8))) }

// Of all tenants, underLoad are looked at while applications write.
const (
	tenantN   = 12
	underLoad = 3
)

// A host is one directory of tenants that the program replicates by pattern.
type host struct {
	t       *testing.T
	dir     string
	program string
	config  string
	env     []string
	tenants []*tenant
}

// A tenant is one database, and a ledger of what its application committed.
type tenant struct {
	path string
	db   *sql.DB

	mu        sync.Mutex // guards the rest
	committed int        // rows 1 to n were acknowledged
}

// TestMultiDB replicates tenants found by pattern under load, killed once and
// told through the control socket to send everything, and restores each by its
// path: what was committed when the answer came is there, and in the end the
// restored file is the source.
func TestMultiDB(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "litestream")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/benbjohnson/litestream/cmd/litestream").CombinedOutput()
	if err != nil {
		t.Fatalf("build litestream: %v\n%s", err, out)
	}
	for _, name := range backends.Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && name != "s3" {
				t.Skip("the tests of each replica type and one storage here are enough with -short")
			}
			h := newHost(t, program, backends.Start(t, name))
			h.run()
		})
	}
}

func newHost(t *testing.T, program string, p backends.Place) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t, dir: dir, program: program, env: p.Env, config: filepath.Join(dir, "litestream.yml")}
	yaml := fmt.Sprintf(`socket: {enabled: true, path: %[1]s/socket}
levels: [{interval: 1s}]
multi-db:
  enabled: true
  patterns: ["%[1]s/data/*/tenants/*.db"]
  state-dir: %[1]s/state
  scan-interval: 200ms
  max-hot-databases: 5
  write-detection: {hot-duration: 1s}
  replica-template:
    sync-interval: 20ms
    %[2]s
`, dir, strings.Join(p.Section("fleet/{{project}}/{{tenant}}"), "\n    "))
	if err := os.WriteFile(h.config, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range tenantN {
		h.addTenant(filepath.Join(dir, "data", fmt.Sprintf("p%d", i%3), "tenants", fmt.Sprintf("t%02d.db", i)), i%4 == 0)
	}
	return h
}

func (h *host) addTenant(path string, journal bool) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	mode := "wal"
	if journal {
		mode = "delete"
	}
	db, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=5000&_journal_mode="+mode)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { db.Close() })
	if _, err := db.ExecContext(h.t.Context(), "CREATE TABLE ledger (n INTEGER PRIMARY KEY, body BLOB)"); err != nil {
		h.t.Fatal(err)
	}
	h.tenants = append(h.tenants, &tenant{path: path, db: db})
}

// commit adds the next row, and puts down that it is there.
func (tn *tenant) commit(rng *rand.Rand) error {
	tn.mu.Lock()
	defer tn.mu.Unlock()
	n := tn.committed + 1
	if _, err := tn.db.Exec("INSERT INTO ledger VALUES (?, ?)", n, body(tn.path, n, rng.IntN(3000))); err != nil {
		return fmt.Errorf("commit %d to %s: %w", n, tn.path, err)
	}
	tn.committed = n
	return nil
}

func (tn *tenant) acked() int {
	tn.mu.Lock()
	defer tn.mu.Unlock()
	return tn.committed
}

// body returns the content of a row, of which the tail tells what it must be.
func body(path string, n, size int) []byte {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", path, n)
	b := make([]byte, size, size+8)
	return h.Sum(b)
}

func (h *host) run() {
	seed := uint64(time.Now().UnixNano())
	h.t.Logf("seed %d", seed)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for errs[i] == nil {
				select {
				case <-stop:
					return
				case <-tick.C:
					errs[i] = h.tenants[rng.IntN(tenantN)].commit(rng)
				}
			}
		})
	}
	daemon := h.start()
	h.checkUnderLoad()
	daemon.kill()
	daemon = h.start()
	h.checkUnderLoad()
	close(stop)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		h.t.Fatal(err)
	}
	h.litestream("sync", "-socket", filepath.Join(h.dir, "socket"), "-all", "-wait", "-timeout", "60")
	for _, tn := range h.tenants {
		if got, want := h.restore(tn, true), tn.acked(); got != want {
			h.t.Errorf("%s: restored %d rows, want %d", tn.path, got, want)
		}
	}
	daemon.stop()
}

// checkUnderLoad has a few tenants synced through the control socket, and holds
// the program to its answer.
func (h *host) checkUnderLoad() {
	h.t.Helper()
	for _, tn := range h.tenants[:underLoad] {
		before := tn.acked()
		h.litestream("sync", "-socket", filepath.Join(h.dir, "socket"), "-wait", "-timeout", "60", tn.path)
		if got := h.restore(tn, false); got < before {
			h.t.Errorf("%s: restored %d rows, %d were there when it was synced", tn.path, got, before)
		}
	}
}

// restore restores a tenant by its path and returns the number of its rows,
// after a look at each. At rest the file must be that of the source.
func (h *host) restore(tn *tenant, atRest bool) int {
	h.t.Helper()
	out := filepath.Join(h.dir, "restored.db")
	defer os.Remove(out)
	h.litestream("restore", "-config", h.config, "-integrity-check", "full", "-o", out, tn.path)
	db, err := sql.Open("sqlite3", "file:"+out+"?mode=ro&immutable=1")
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	n := h.checkRows(db, tn)
	if !atRest {
		return n
	}
	if _, err := tn.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		h.t.Fatal(err)
	}
	want, err := os.ReadFile(tn.path)
	got, gerr := os.ReadFile(out)
	if err := errors.Join(err, gerr); err != nil {
		h.t.Fatal(err)
	}
	if string(got) != string(want) {
		h.t.Errorf("%s: the restored file is not the source", tn.path)
	}
	return n
}

func (h *host) checkRows(db *sql.DB, tn *tenant) (n int) {
	h.t.Helper()
	rows, err := db.QueryContext(h.t.Context(), "SELECT n, body FROM ledger ORDER BY n")
	if err != nil {
		h.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int
		var b []byte
		if err := rows.Scan(&id, &b); err != nil {
			h.t.Fatal(err)
		}
		if n++; id != n || string(b) != string(body(tn.path, n, len(b)-8)) {
			h.t.Fatalf("%s: row %d has number %d or another content", tn.path, n, id)
		}
	}
	if err := rows.Err(); err != nil {
		h.t.Fatal(err)
	}
	return n
}

// litestream runs a command that ends by itself.
func (h *host) litestream(args ...string) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), h.program, args...)
	cmd.Env = h.env
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("litestream %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// A daemon is the program that replicates.
type daemon struct {
	h   *host
	cmd *exec.Cmd // nil once it has ended
	log string
}

// start starts the program and waits until its control socket answers.
func (h *host) start() *daemon {
	h.t.Helper()
	d := &daemon{h: h, cmd: exec.Command(h.program, "replicate", "-config", h.config), log: filepath.Join(h.dir, "log")}
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = h.env, log, log
	if err := d.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(d.end)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		info := exec.CommandContext(h.t.Context(), h.program, "info", "-socket", filepath.Join(h.dir, "socket"))
		if out, err := info.CombinedOutput(); err == nil {
			return d
		} else if time.Now().After(deadline) {
			h.t.Fatalf("the control socket does not answer: %v\n%s", err, out)
		}
	}
}

// end kills a program that a failed test left, and shows its log.
func (d *daemon) end() {
	if d.cmd != nil {
		d.kill()
	}
	if !d.h.t.Failed() {
		return
	}
	f, err := os.Open(d.log)
	if err != nil {
		d.h.t.Error(err)
		return
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	d.h.t.Logf("log of litestream (%v):\n%s", err, b[max(0, len(b)-8<<10):])
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // Wait reports it
	_ = d.cmd.Wait()         // killed
	d.cmd = nil
}

// stop ends the program as a service manager does.
func (d *daemon) stop() {
	d.h.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.h.t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = d.cmd.Process.Kill() }) // Wait reports it
	defer timer.Stop()
	err := d.cmd.Wait()
	d.cmd = nil
	if err != nil {
		d.h.t.Errorf("litestream ended with %v", err)
	}
}
