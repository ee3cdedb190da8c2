package litestream_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/file"
)

// harmless is a folder with one tenant, which another process replicates.
type harmless struct {
	tb   testing.TB
	base string
	path string
}

// newHarmless makes a folder that every user may enter.
func newHarmless(tb testing.TB, dirMode, fileMode os.FileMode) *harmless {
	tb.Helper()
	base := tb.TempDir()
	if err := os.Chmod(filepath.Dir(base), 0o755); err != nil {
		tb.Fatal(err)
	}
	h := &harmless{tb: tb, base: base, path: filepath.Join(base, "data", "t.db")}
	for _, dir := range []string{"", "data", "state", "replica"} {
		dir = filepath.Join(base, dir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			tb.Fatal(err)
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(h.path), dirMode); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(h.path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(h.path, fileMode); err != nil {
		tb.Fatal(err)
	}
	return h
}

// content returns the bytes of every file of the tenant but the log's index,
// whose read marks every reader writes.
func (h *harmless) content() map[string][]byte {
	h.tb.Helper()
	files := make(map[string][]byte)
	for _, fact := range listDir(h.tb, filepath.Dir(h.path)) {
		if strings.HasSuffix(fact.name, "-shm") {
			continue
		}
		// Another process reads: closing a descriptor here drops no locks.
		b, err := exec.Command("cat", filepath.Join(filepath.Dir(h.path), fact.name)).Output()
		if err != nil {
			h.tb.Fatal(err)
		}
		files[fact.name] = b
	}
	return files
}

// unharmed lets another process replicate the tenant and compares what lies
// there before and after.
func (h *harmless) unharmed(replicator *child, what string) {
	h.tb.Helper()
	before, bytesBefore := listDir(h.tb, filepath.Dir(h.path)), h.content()
	replicator.exec("sync", "sync")
	after, bytesAfter := listDir(h.tb, filepath.Dir(h.path)), h.content()
	if !slices.Equal(before, after) {
		h.tb.Errorf("%s: the folder holds\n%v, want\n%v", what, after, before)
	}
	for name, b := range bytesBefore {
		if !bytes.Equal(b, bytesAfter[name]) {
			h.tb.Errorf("%s: the bytes of %s differ", what, name)
		}
	}
}

func (h *harmless) wantRows(want int) {
	h.tb.Helper()
	wantRows(h.tb, file.NewReplicaClient(filepath.Join(h.base, "replica")), want)
}

func asNobody(cmd *exec.Cmd) {
	// The folder of the test's binary is its owner's alone.
	cmd.Path = "/proc/self/exe"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// Whoever runs the replicator: resting, busy and just closed databases in any
// journal mode stay as their application left them, and so does what lies
// beside them.
func TestTenant_NothingHarmed(t *testing.T) {
	t.Parallel()
	same := func(*exec.Cmd) {}
	for _, tt := range []struct {
		name      string
		user      func(*exec.Cmd)
		dir, file os.FileMode
	}{
		{"SameUser", same, 0o755, 0o644},
		{"OtherUser/ReadOnly", asNobody, 0o755, 0o644},
		{"OtherUser/FolderWritable", asNobody, 0o777, 0o644},
		{"OtherUser/AllWritable", asNobody, 0o777, 0o666},
	} {
		modes := []string{"wal", "delete"}
		if tt.name == "SameUser" {
			modes = append(modes, "truncate", "persist")
		}
		for _, mode := range modes {
			t.Run(tt.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				if os.Getuid() != 0 && tt.name != "SameUser" {
					t.Skip("only root can run as another user")
				}
				h := newHarmless(t, tt.dir, tt.file)
				app := startChild(t, "app", h.path)
				app.exec("PRAGMA journal_mode="+mode, "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
				replicator := startChild(t, "tenant", h.path, tt.user)
				h.unharmed(replicator, "open")
				app.exec("INSERT INTO t VALUES (2)")
				h.unharmed(replicator, "changed")
				app.exec("PRAGMA wal_checkpoint", "INSERT INTO t VALUES (3)")
				h.unharmed(replicator, "checkpointed")
				app.exec("BEGIN IMMEDIATE", "INSERT INTO t VALUES (4)")
				h.unharmed(replicator, "writing")
				app.exec("COMMIT")
				app.close()
				h.unharmed(replicator, "just closed")
				h.wantRows(4)
				h.unharmed(replicator, "resting")
			})
		}
	}
}

// The application closes while it is read: nothing is left beside the database
// that would not lie there otherwise.
func TestTenant_ClosedWhileRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		user      func(*exec.Cmd)
		dir, file os.FileMode
	}{
		{"SameUser", func(*exec.Cmd) {}, 0o755, 0o644},
		{"OtherUser/ReadOnly", asNobody, 0o755, 0o644},
		{"OtherUser/AllWritable", asNobody, 0o777, 0o666},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if os.Getuid() != 0 && tt.name != "SameUser" {
				t.Skip("only root can run as another user")
			}
			h := newHarmless(t, tt.dir, tt.file)
			replicator := startChild(t, "tenant", h.path, tt.user)
			rows := 0
			for stop := time.Now().Add(time.Second); time.Now().Before(stop); rows += 2 {
				h.openAndClose(replicator)
				if got := listDir(t, filepath.Dir(h.path)); len(got) != 1 {
					t.Fatalf("%v lie there with nobody using them, want the database alone", got)
				}
			}
			replicator.exec("sync", "sync")
			h.wantRows(rows)
		})
	}
}

// openAndClose lets an application open the database, commit twice and close
// it, while the replicator looks at it.
func (h *harmless) openAndClose(replicator *child) {
	app := startChild(h.tb, "app", h.path)
	app.exec("PRAGMA journal_mode=wal", "CREATE TABLE IF NOT EXISTS t (x)", "INSERT INTO t VALUES (1)")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3 {
			if got := replicator.do("sync"); got != "ok" && !strings.Contains(got, "changed while it was read") {
				h.tb.Error(got)
			}
		}
	}()
	app.exec("PRAGMA wal_checkpoint(RESTART)", "INSERT INTO t VALUES (1)")
	app.close()
	<-done
}

// traceLine is a finished system call in the output of strace -f -y.
var traceLine = regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (-?\d+)`)

// traced runs fn with a replicator under strace and returns its calls, those
// of each sync by themselves.
func (h *harmless) traced(fn func(replicator *child)) (syncs [][]call) {
	h.tb.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		h.tb.Skip("strace is not installed")
	}
	out := filepath.Join(h.base, "trace")
	replicator := startChild(h.tb, "tenant", h.path, func(cmd *exec.Cmd) {
		cmd.Args = []string{strace, "-f", "-y", "-s", "64", "-e", "trace=open,openat,openat2,close,unlink,unlinkat,write", "-o", out, cmd.Path}
		cmd.Path = strace
	})
	if got := replicator.do("sync"); got != "ok" {
		h.tb.Skipf("the system does not let strace trace: %s", got)
	}
	fn(replicator)
	replicator.close()
	f, err := os.Open(out)
	if err != nil {
		h.tb.Fatal(err)
	}
	defer f.Close()
	begun := make(map[string]string) // calls that another one interrupted, by thread
	var calls []call
	for in := bufio.NewScanner(f); in.Scan(); {
		line := in.Text()
		pid, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		if head, ok := strings.CutSuffix(rest, " <unfinished ...>"); ok {
			begun[pid] = head
			continue
		}
		if _, tail, ok := strings.Cut(rest, " resumed>"); ok {
			line = pid + " " + begun[pid] + tail
		}
		m := traceLine.FindStringSubmatch(line)
		switch {
		case m == nil:
		case m[2] == "write" && strings.HasPrefix(m[3], "1<") && strings.Contains(m[3], `"ok\n"`):
			syncs = append(syncs, calls)
			calls = nil
		case strings.Contains(line, h.path) && m[4] != "-1":
			calls = append(calls, call{name: m[2], args: m[3], result: m[4]})
		}
	}
	return syncs
}

// call is a system call that did not fail.
type call struct{ name, args, result string }

// opens reports whether a call opens a file.
func (c call) opens(path string) bool {
	return strings.HasPrefix(c.name, "open") && strings.Contains(c.args, `"`+path+`"`)
}

// raw reports whether our own code opens a file, not SQLite: os.Open has no
// other flags.
func (c call) raw() bool { return strings.HasSuffix(c.args, "O_RDONLY|O_CLOEXEC") }

// What the kernel sees: with nothing changing no file of a tenant is opened;
// our own code never opens the log's index; and no descriptor of the database
// is closed while a connection has it open.
func TestTenant_SystemCalls(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := newHarmless(t, 0o755, 0o644)
			app := startChild(t, "app", h.path)
			app.exec("PRAGMA journal_mode="+mode, "PRAGMA wal_autocheckpoint=3", "CREATE TABLE t (x)")
			const changes, idle = 15, 5
			syncs := h.traced(func(replicator *child) {
				for i := range changes {
					app.exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
					if i%7 == 0 {
						app.exec("PRAGMA wal_checkpoint(TRUNCATE)")
					}
					replicator.exec("sync")
				}
				replicator.exec("settle")
				for range idle {
					replicator.exec("look")
				}
			})
			if len(syncs) != 1+changes+1+idle {
				t.Fatalf("%d syncs in the trace, want %d", len(syncs), 1+changes+1+idle)
			}
			for i, calls := range syncs[len(syncs)-idle:] {
				if len(calls) != 0 {
					t.Errorf("idle look %d: %v, want no call on the tenant's files", i, calls)
				}
			}
			opened, connections := 0, 0
			for i, calls := range syncs {
				for _, c := range calls {
					switch {
					case c.opens(h.path+"-shm") && c.raw():
						t.Errorf("sync %d: our own code opens the index: %v", i, c)
					case strings.HasPrefix(c.name, "unlink"), strings.Contains(c.args, "O_TRUNC"):
						t.Errorf("sync %d: %v", i, c)
					case c.opens(h.path) && c.raw():
						opened++
					case c.opens(h.path):
						connections++
					}
				}
				if msg := closesUnderConnection(calls, h.path); msg != "" {
					t.Errorf("sync %d: %s in %v", i, msg, calls)
				}
			}
			t.Logf("%d syncs opened the main file %d times, and %d connections", len(syncs), opened, connections)
			if connections > 0 {
				t.Errorf("%d connections in mode %s, want none", connections, mode)
			}
			h.wantRows(changes)
		})
	}
}

// closesUnderConnection finds a descriptor of ours on the database that is
// closed while a connection has the file open.
func closesUnderConnection(calls []call, path string) string {
	open := make(map[string]bool) // by number: it is ours
	for _, c := range calls {
		switch {
		case c.opens(path):
			open[c.result] = c.raw()
		case c.name == "close" && strings.HasSuffix(c.args, "<"+path+">"):
			fd, _, _ := strings.Cut(c.args, "<")
			ours, ok := open[fd]
			if !ok {
				return fmt.Sprintf("descriptor %s is closed that was opened earlier", fd)
			}
			delete(open, fd)
			for _, other := range open {
				if ours && !other {
					return fmt.Sprintf("descriptor %s is closed under a connection", fd)
				}
			}
		}
	}
	if len(open) > 0 {
		return fmt.Sprintf("%d descriptors stay open", len(open))
	}
	return ""
}
