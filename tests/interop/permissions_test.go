//go:build linux

package interop_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/benbjohnson/litestream"
)

const nobody = 65534

// startAsNobody starts our program on a fleet as a user to whom nothing belongs
// but the folders of the replica and the state.
func (f *fleet) startAsNobody() *daemon {
	f.t.Helper()
	if os.Getuid() != 0 {
		f.t.Skip("only root can start a program as another user")
	}
	// The program and the folders of the test are its user's alone.
	for _, dir := range []string{filepath.Dir(ourProgram(f.t)), filepath.Dir(f.root), f.root} {
		if err := os.Chmod(dir, 0o755); err != nil {
			f.t.Fatal(err)
		}
	}
	for _, name := range []string{"replica", "state"} {
		dir := filepath.Join(f.root, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			f.t.Fatal(err)
		}
		if err := os.Chown(dir, nobody, nobody); err != nil {
			f.t.Fatal(err)
		}
	}
	return f.main.start(ourProgram(f.t), f.config(), func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	})
}

// summary asks status for what the daemon wrote last; nil if nothing yet.
func (f *fleet) summary() *litestream.FleetSummary {
	f.t.Helper()
	conf := filepath.Join(f.root, "status.yml")
	if err := os.WriteFile(conf, []byte(f.config()), 0o600); err != nil {
		f.t.Fatal(err)
	}
	out, err := exec.CommandContext(f.t.Context(), ourProgram(f.t), "status", "-json", "-config", conf).Output()
	if err != nil {
		return nil
	}
	var s struct {
		MultiDB struct{ Summary *litestream.FleetSummary } `json:"multi_db"`
	}
	if err := json.Unmarshal(out, &s); err != nil {
		f.t.Fatalf("%v in\n%s", err, out)
	}
	return s.MultiDB.Summary
}

// failed returns how many databases failed for a reason, and one of the errors.
func failed(s *litestream.FleetSummary, reason string) (int, string) {
	for _, failure := range s.Failures {
		if failure.Reason == reason {
			return failure.Count, failure.Examples[0].Error
		}
	}
	return 0, ""
}

// facts tells of every file in a folder whose it is, how it may be used and
// what it holds.
func facts(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		all = append(all, fmt.Sprintf("%s %s %d:%d %d bytes", path, info.Mode(), st.Uid, st.Gid, info.Size()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestMultiDB_NotAllowed runs our program as a user who may not read some
// databases and directories, and may write none: what it may read is
// replicated, what not is counted and told, and nothing is touched.
func TestMultiDB_NotAllowed(t *testing.T) {
	t.Parallel()
	const secrets = 120
	f := newFleet(t)
	good := f.add("p1", "good.db", 4096, "wal")
	journal := f.add("p1", "journal.db", 4096, "delete")
	good.closeApp()
	journal.closeApp()
	image, err := os.ReadFile(good.path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range secrets {
		if err := os.WriteFile(filepath.Join(f.root, "data/p1/tenants", fmt.Sprintf("secret%03d.db", i)), image, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	closed := filepath.Join(f.root, "data/p2/tenants")
	if err := os.MkdirAll(closed, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(closed, "unseen.db"), image, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]fs.FileMode{closed: 0, filepath.Join(f.root, "data/p1/tenants"): 0o555, good.path: 0o444, journal.path: 0o444} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	before := facts(t, filepath.Join(f.root, "data"))

	d := f.startAsNobody()
	var s *litestream.FleetSummary
	waitFor(t, "a verdict on each database", func() bool {
		s = f.summary()
		if s == nil {
			return false
		}
		n, _ := failed(s, "permission")
		return n == secrets && s.States["clean"] == 2
	})
	if s.Scan.Errors != 1 || !strings.Contains(s.Scan.Examples[0], closed) {
		t.Errorf("errors of the scan: %d, %q; want the directory that may not be read", s.Scan.Errors, s.Scan.Examples)
	}
	if _, msg := failed(s, "permission"); !strings.Contains(msg, "permission denied") {
		t.Errorf("reason %q", msg)
	}
	if got := facts(t, filepath.Join(f.root, "data")); !slices.Equal(got, before) {
		t.Errorf("the tenants' folders hold\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
	}

	// One that may be read from now on is looked at again, and what its owner
	// writes is replicated.
	if err := os.Chmod(closed, 0o755); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the database in the directory that may be read now", func() bool {
		s := f.summary()
		return s != nil && s.States["clean"] == 3 && s.Scan.Errors == 0
	})
	good.openApp()
	good.exec("INSERT INTO ledger VALUES (1)")
	waitFor(t, "the commit", func() bool { return good.newest() > 1 })
	d.stop()
	good.wantLedger(1)
	// Lines must not grow with the number of databases that cannot be read.
	if n := bytes.Count(d.output(), []byte("\n")); n > 60 {
		t.Errorf("%d lines in the log for %d databases:\n%s", n, secrets, d.output())
	}
}

// TestMultiDB_StateDirNotWritable holds that a state directory that cannot be
// written is an error at the start that says which, why and what to do.
func TestMultiDB_StateDirNotWritable(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.add("p1", "t.db", 4096, "wal").closeApp()
	if err := os.MkdirAll(filepath.Join(f.root, "own"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.state = filepath.Join(f.root, "own", "state")
	d := f.startAsNobody()
	if err := d.wait(); err == nil {
		t.Error("the program ended without an error")
	}
	if out := string(d.output()); !strings.Contains(out, f.state) || !strings.Contains(out, "permission denied") {
		t.Errorf("output:\n%s\nwant the directory and the cause", out)
	}
}

// TestMultiDB_ExclusiveLock holds that a database that an application holds for
// itself fails with that reason, keeps nobody waiting, and is replicated when
// it is let go.
func TestMultiDB_ExclusiveLock(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	good := f.add("p1", "good.db", 4096, "wal")
	held := f.add("p1", "held.db", 4096, "delete")
	held.closeApp()
	db, err := sql.Open("sqlite3", held.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, query := range []string{"PRAGMA locking_mode=exclusive", "INSERT INTO ledger VALUES (1)"} {
		if _, err := db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	d := f.start()
	var s *litestream.FleetSummary
	waitFor(t, "a reason for the one that is held", func() bool {
		if s = f.summary(); s == nil {
			return false
		}
		n, _ := failed(s, "locked")
		return n == 1
	})
	_, msg := failed(s, "locked")
	t.Log(msg)
	if held.newest() != 0 {
		t.Error("it was read while its application held it")
	}
	good.exec("INSERT INTO ledger VALUES (1)")
	waitFor(t, "the commit to the other one", func() bool { return good.newest() > 1 })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the one that was let go", func() bool { return held.newest() > 0 })
	d.stop()
	for _, s := range f.tenants {
		s.wantLedger(1)
	}
}

// TestMultiDB_ReadOnlyMount holds that databases on a file system that nobody
// can write are replicated like others.
func TestMultiDB_ReadOnlyMount(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := f.add("p1", "t.db", 4096, "wal")
	s.exec("INSERT INTO ledger VALUES (1)")
	s.closeApp()
	dir := filepath.Join(f.root, "data")
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("no permission to mount: %v", err)
	}
	mounted := true
	unmount := func() {
		if !mounted {
			return
		}
		mounted = false
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(unmount)
	if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("no permission to mount read-only: %v", err)
	}
	d := f.start()
	waitFor(t, "the first copy", func() bool { return s.newest() > 0 })
	d.stop()
	unmount()
	s.wantLedger(1)
}
