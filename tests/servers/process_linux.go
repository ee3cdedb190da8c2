package servers

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent makes the kernel kill a server whose test binary was killed or
// ran into its timeout, when no cleanup runs.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// hasUserXattrs reports whether the file system of dir keeps the extended
// attributes in which versitygw stores metadata; some tmpfs do not.
func hasUserXattrs(dir string) bool {
	return unix.Setxattr(dir, "user.litestream-test", []byte("1"), 0) == nil
}

// descendants returns the children of a process, and theirs. Each is held by a
// descriptor where the kernel has such, so that its number is not mistaken for
// another one's later.
func descendants(pid int) (all []*os.Process) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil // it has ended
	}
	for field := range strings.FieldsSeq(string(b)) {
		n, err := strconv.Atoi(field)
		if err != nil {
			continue
		}
		if child, err := os.FindProcess(n); err == nil {
			all = append(append(all, child), descendants(n)...)
		}
	}
	return all
}
