package litestream_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
)

// Another database is moved over the one that is replicated, whose log stays
// beside it for a moment. Our connection that met both must not move the old
// log into the new file when it closes.
func TestDB_StaleLogBesideReplacedFile(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "db"), filepath.Join(dir, "other")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	mustExec(t, app, "INSERT INTO t VALUES (randomblob(9000))")
	db := replicated(t, path, filepath.Join(dir, "replica"))
	syncAll(t, db)
	mustExec(t, app, "INSERT INTO t VALUES (randomblob(9000))")
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
	fresh := openApp(t, other, "_journal_mode=wal")
	mustExec(t, fresh, "CREATE TABLE u (y)")
	mustExec(t, fresh, "INSERT INTO u VALUES (randomblob(30000))")
	if err := fresh.Close(); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := db.Sync(context.Background()); err == nil {
			t.Error("sync beside the stale log succeeded")
		}
	}
	if db.Status().Connected {
		t.Error("connected to the new file with the old log")
	}
	for _, name := range []string{path + "-wal", path + "-shm"} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.SyncFully(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the new database was written to")
	}
}

// A connection whose log was removed under it writes nothing when it closes.
func TestDB_LogRemovedUnderConnection(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	db := replicated(t, path, filepath.Join(dir, "replica"))
	syncAll(t, db)
	mustExec(t, app, "INSERT INTO t VALUES (randomblob(9000))")
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path + "-wal", path + "-shm"} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the database was written to")
	}
}
