package litestream_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// wantEqual restores and compares with the database byte for byte, once
// everything of its log is in the main file. The header of a restored database
// may say so differently, so that the bytes that commits leave alone decide.
func wantEqual(tb testing.TB, client litestream.ReplicaClient, path string) {
	tb.Helper()
	app := openApp(tb, path, "")
	mustExec(tb, app, "PRAGMA wal_checkpoint(TRUNCATE)")
	want, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	got, err := os.ReadFile(restoredFrom(tb, client))
	if err != nil {
		tb.Fatal(err)
	}
	if len(got) != len(want) {
		tb.Fatalf("restored %d bytes, want %d", len(got), len(want))
	}
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				tb.Fatalf("restored bytes differ at offset %d", i)
			}
		}
	}
}

// Every page size, growth, shrink, VACUUM and auto-vacuum, with and without
// checksums, tailed and diffed.
func TestDB_PageSizes(t *testing.T) {
	t.Parallel()
	for pageSize := 512; pageSize <= 65536; pageSize *= 2 {
		for _, vacuum := range []string{"NONE", "FULL", "INCREMENTAL"} {
			for _, checksums := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d/%s/%t", pageSize, vacuum, checksums), func(t *testing.T) {
					pageSizes(t, pageSize, vacuum, checksums)
				})
			}
		}
	}
}

func pageSizes(t *testing.T, pageSize int, vacuum string, checksums bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	app := openApp(t, path, "")
	mustExec(t, app, fmt.Sprintf("PRAGMA page_size=%d", pageSize))
	mustExec(t, app, "PRAGMA auto_vacuum="+vacuum)
	mustExec(t, app, "PRAGMA journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	client := testutil.NewMemClient()
	db := inMemory(t, path, client)
	db.Checksums = checksums
	db.MinCheckpointPageN = 20
	syncAll(t, db)
	for _, step := range []string{
		fmt.Sprintf("INSERT INTO t VALUES (randomblob(%d))", 40*pageSize),
		"INSERT INTO t VALUES (1)",
		fmt.Sprintf("INSERT INTO t VALUES (randomblob(%d))", 10*pageSize),
		"DELETE FROM t WHERE length(x) > 1",
		"PRAGMA incremental_vacuum",
		"INSERT INTO t VALUES (2)",
		"VACUUM",
		fmt.Sprintf("INSERT INTO t VALUES (randomblob(%d))", 5*pageSize),
	} {
		mustExec(t, app, step)
		mustSync(t, db)
		mustUpload(t, db)
	}
	snap, err := db.StageSnapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	if pageSize == 4096 { // and by a diff
		app.Close()
		db.ForgetPin()
		mustExec(t, openApp(t, path, ""), "INSERT INTO t VALUES (3)")
	}
	syncAll(t, db)
	db.ForgetPin()
	wantEqual(t, client, path)
}

// A database beyond 1 GiB has one page that is never stored. The file is
// sparse: the pages around the lock page are real.
func TestDB_LockPage(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("reads and writes a sparse file of 1 GiB")
	}
	const pageSize = 65536
	path := filepath.Join(t.TempDir(), "db")
	app := openApp(t, path, "")
	mustExec(t, app, fmt.Sprintf("PRAGMA page_size=%d", pageSize))
	mustExec(t, app, "CREATE TABLE t (x)")
	app.Close()
	growSparse(t, path, 1<<30/pageSize-10, pageSize)
	app = openApp(t, path, "_journal_mode=wal")
	client := testutil.NewMemClient()
	db := inMemory(t, path, client)
	db.Checksums = true
	syncAll(t, db)
	mustExec(t, app, fmt.Sprintf("INSERT INTO t VALUES (randomblob(%d))", 60*pageSize)) // across the lock page
	mustSync(t, db)
	mustUpload(t, db)
	if n := len(client.Files(0)); n != 2 {
		t.Fatalf("%d files, want a full copy and a tail", n)
	}
	mustExec(t, app, "INSERT INTO t VALUES (1)")
	mustExec(t, app, "PRAGMA wal_checkpoint(PASSIVE)")
	app.Close()
	db.ForgetPin()
	mustExec(t, openApp(t, path, ""), "DELETE FROM t WHERE x = 1")
	syncAll(t, db)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	files := client.Files(0)
	if last := files[len(files)-1]; last.Size > 20*pageSize {
		t.Errorf("the last file has %d bytes of %d, want the changed pages only", last.Size, info.Size())
	}
	snap, err := db.StageSnapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	opt := litestream.NewRestoreOptions()
	opt.OutputPath = filepath.Join(t.TempDir(), "restored.db")
	if _, err := litestream.Restore(context.Background(), client, opt); err != nil {
		t.Fatal(err)
	}
	if got := count(t, opt.OutputPath, "SELECT sum(length(x)) FROM t"); got != 60*pageSize {
		t.Errorf("restored %d bytes of content", got)
	}
}

// growSparse makes a closed database pageN pages long without writing them.
func growSparse(tb testing.TB, path string, pageN, pageSize int) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	size := binary.BigEndian.AppendUint32(nil, uint32(pageN))
	_, err = f.WriteAt(size, 28) // the header's size in pages
	if err = errors.Join(err, f.Truncate(int64(pageN)*int64(pageSize)), f.Close()); err != nil {
		tb.Fatal(err)
	}
}

// An application whose connection reads for long does not make us checkpoint
// again and again, and one that never waits for locks is not disturbed.
func TestDB_LongReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	insert := appWith(t, path, 50)
	client := testutil.NewMemClient()
	db := inMemory(t, path, client)
	db.MinCheckpointPageN = 10
	now := time.Now()
	db.SetClock(func() time.Time { return now })
	syncAll(t, db)
	reader := openApp(t, path, "")
	mustExec(t, reader, "BEGIN")
	if err := reader.QueryRow("SELECT count(*) FROM t").Scan(new(int)); err != nil {
		t.Fatal(err)
	}
	insert(30)
	mustSync(t, db)
	at := db.CheckpointedAt()
	for range 5 {
		insert(1)
		now = now.Add(time.Second)
		mustSync(t, db)
	}
	if n := db.CheckpointedAt(); !n.Equal(at) {
		t.Errorf("checkpoints go on every second behind a reader")
	}
	mustExec(t, reader, "ROLLBACK")
	mustUpload(t, db)
	wantRows(t, client, 85)
}
