//go:build !linux

package sdnotify

// Monotonic returns nothing where there is no systemd.
func Monotonic() string { return "" }
