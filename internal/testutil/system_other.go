//go:build !linux

package testutil

import "testing"

// SmallDisk skips the test: it mounts a tmpfs on Linux.
func SmallDisk(tb testing.TB, _ string) string {
	tb.Helper()
	tb.Skip("mounts a tmpfs: Linux only")
	return ""
}

// ResizeDisk follows SmallDisk, on Linux.
func ResizeDisk(tb testing.TB, _, _ string) { SmallDisk(tb, "") }

// LockDisk follows SmallDisk, on Linux.
func LockDisk(tb testing.TB, _ string) { SmallDisk(tb, "") }

// WatchOpens skips the test: it uses inotify on Linux.
func WatchOpens(tb testing.TB, _ string) func() []string {
	tb.Helper()
	tb.Skip("uses inotify: Linux only")
	return nil
}

// memoryFolder knows none outside of Linux.
func memoryFolder() string { return "" }
