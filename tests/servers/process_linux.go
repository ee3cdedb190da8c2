package servers

import (
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
