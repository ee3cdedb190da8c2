//go:build !linux

package servers

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }

func hasUserXattrs(string) bool { return true }
