package testutil

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// SmallDisk returns a folder on a file system of its own, of a size such as
// "2m". The test is skipped where none can be mounted.
func SmallDisk(tb testing.TB, size string) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		tb.Skipf("cannot mount a tmpfs here: %v", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// ResizeDisk gives a folder of SmallDisk another size.
func ResizeDisk(tb testing.TB, dir, size string) {
	tb.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size="+size); err != nil {
		tb.Fatal(err)
	}
}

// LockDisk makes a folder of SmallDisk one that cannot be written to.
func LockDisk(tb testing.TB, dir string) {
	tb.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		tb.Fatal(err)
	}
}

// WatchOpens returns a function that tells which files of a folder were opened
// since it was asked last.
func WatchOpens(tb testing.TB, dir string) func() []string {
	tb.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Close(fd); err != nil {
			tb.Error(err)
		}
	})
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN); err != nil {
		tb.Fatal(err)
	}
	return func() (names []string) {
		buf := make([]byte, 64<<10)
		for {
			n, err := unix.Read(fd, buf)
			if errors.Is(err, unix.EAGAIN) || n <= 0 {
				return names
			}
			for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
				size := int(b[12]) | int(b[13])<<8
				mask := uint32(b[4]) | uint32(b[5])<<8 | uint32(b[6])<<16 | uint32(b[7])<<24
				if name := b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+size]; mask&unix.IN_ISDIR == 0 {
					names = append(names, strings.TrimRight(string(name), "\x00"))
				}
				b = b[unix.SizeofInotifyEvent+size:]
			}
		}
	}
}

// memoryRoom is how many bytes must be free in memory for the files of tests.
const memoryRoom = 4 << 30

// memoryFolder returns a folder whose files lie in memory, if it has room and
// programs can be run from it; empty otherwise.
func memoryFolder() string {
	const dir = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC || st.Flags&(unix.ST_NOEXEC|unix.ST_RDONLY) != 0 ||
		st.Bavail < memoryRoom/uint64(st.Bsize) {
		return ""
	}
	return dir
}
