package scan_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream/internal/scan"
)

const permissionRoot = "LITESTREAM_TEST_PERMISSION_ROOT"

// TestScan_Permission scans as a user who may not read everything: a run of
// this test in a child process without root's rights.
func TestScan_Permission(t *testing.T) {
	if root := os.Getenv(permissionRoot); root != "" {
		scanUnreadable(t, root)
		return
	}
	// Not below t.TempDir, whose parent other users may not enter.
	root, err := os.MkdirTemp("/tmp", "litestream-scan-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	tree(t, root, "d/ok/a.db", "d/closed/b.db", "d/names/c.db", "d/enter/x/d.db")
	for name, mode := range map[string]os.FileMode{"": 0o755, "/d": 0o755, "/d/ok": 0o755, "/d/closed": 0, "/d/names": 0o444, "/d/enter": 0o111, "/d/enter/x": 0o755} {
		if err := os.Chmod(root+name, mode); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() != 0 {
		scanUnreadable(t, root)
		return
	}
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/test", exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), root+"/test", "-test.run=^TestScan_Permission$")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), permissionRoot+"="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func scanUnreadable(t *testing.T, root string) {
	t.Helper()
	got, res := found(t, newScanner(t, scan.Config{}, root+"/d/*/*.db"), root)
	check(t, got, "0 d/ok/a.db")
	paths := []string{}
	for _, e := range res.Errors {
		if !errors.Is(e, unix.EACCES) {
			t.Errorf("error %v, want EACCES", e)
		}
		paths = append(paths, strings.TrimPrefix(e.Path, root+"/"))
	}
	if res.ErrorN != 3 {
		t.Errorf("%d errors %v, want 3", res.ErrorN, paths)
	}
	// A directory that may be entered and not read is no obstacle to a pattern
	// that spells out what lies in it.
	got, _ = found(t, newScanner(t, scan.Config{}, root+"/d/enter/x/*.db"), root)
	check(t, got, "0 d/enter/x/d.db")
}
