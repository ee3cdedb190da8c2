package litestream_test

import (
	"fmt"
	"os"
	"syscall"
)

// ownerOf says who owns a file, and which inode it is.
func ownerOf(info os.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("uid %d gid %d inode %d", st.Uid, st.Gid, st.Ino)
}
