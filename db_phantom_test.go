package litestream_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// appendPhantom writes a commit behind the end of a log that SQLite's index
// does not count, as a writer leaves it that dies before its commit counts. It
// changes every "original" in the newest page that holds one to "phantoms".
func appendPhantom(tb testing.TB, path string) {
	tb.Helper()
	f, err := os.OpenFile(path+"-wal", os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	log, err := os.ReadFile(path + "-wal")
	if err != nil {
		tb.Fatal(err)
	}
	size := 24 + int(binary.BigEndian.Uint32(log[8:]))
	last := log[len(log)-size:]
	if len(log)%size != 32 || !bytes.Equal(last[8:16], log[16:24]) {
		tb.Fatal("the log does not end with a frame of its lineage")
	}
	frame := bytes.Clone(last)
	for at := len(log) - size; !bytes.Contains(frame[24:], []byte("original")); at -= size {
		copy(frame[24:], log[at+24:at+size])
		copy(frame[0:4], log[at:])
	}
	copy(frame[24:], bytes.ReplaceAll(frame[24:], []byte("original"), []byte("phantoms")))
	s0, s1 := binary.BigEndian.Uint32(last[16:]), binary.BigEndian.Uint32(last[20:])
	for _, part := range [][]byte{frame[:8], frame[24:]} {
		for i := 0; i < len(part); i += 8 {
			s0 += binary.LittleEndian.Uint32(part[i:]) + s1
			s1 += binary.LittleEndian.Uint32(part[i+4:]) + s0
		}
	}
	binary.BigEndian.PutUint32(frame[16:], s0)
	binary.BigEndian.PutUint32(frame[20:], s1)
	if _, err := f.WriteAt(frame, int64(len(log))); err != nil {
		tb.Fatal(err)
	}
}

// A phantom that was captured under the write lock of our own checkpoint is
// found out when the log restarts: SQLite did not count it.
func TestDB_PhantomAtCheckpoint(t *testing.T) {
	dir := t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	mustExec(t, app, "CREATE TABLE u (x)")
	mustExec(t, app, "INSERT INTO t VALUES ('original')")
	db := replicated(t, path, replica)
	syncAll(t, db)
	mustExec(t, app, "UPDATE t SET x = 'original'")
	appendPhantom(t, path)
	if err := db.Checkpoint(context.Background()); err != nil {
		t.Fatal(err)
	}
	syncAll(t, db)
	if got := count(t, restored(t, replica), "SELECT count(*) FROM t WHERE x = 'phantoms'"); got != 1 {
		t.Fatal("the phantom was not captured: the test shows nothing")
	}
	mustExec(t, app, "INSERT INTO u VALUES (1)")
	syncAll(t, db)
	out := restored(t, replica)
	if got := count(t, out, "SELECT count(*) FROM t WHERE x = 'original'"); got != 1 {
		t.Error("the phantom is still on the replica")
	}
	if got := count(t, out, "SELECT count(*) FROM u"); got != 1 {
		t.Error("the commit behind the phantom is not on the replica")
	}
}
