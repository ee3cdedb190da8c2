//go:build !linux

package servers

import (
	"os"
	"syscall"
)

func dieWithParent() *syscall.SysProcAttr { return nil }

func hasUserXattrs(string) bool { return true }

func descendants(int) []*os.Process { return nil }
