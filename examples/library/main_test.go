package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/s3"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// until cancels a context once a line was written.
type until struct {
	line   string
	cancel context.CancelFunc
}

func (u *until) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), u.line+"\n") {
		u.cancel()
	}
	return len(p), nil
}

// runUntil runs the application until it has written so many events.
func runUntil(t *testing.T, path, replica string, events int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a := application{
		path: path, replica: replica, pause: time.Millisecond,
		out: &until{fmt.Sprintf("event %d", events), cancel},
	}
	if err := a.run(ctx); err != nil {
		t.Fatal(err)
	}
}

// countEvents restores the replica and counts what the application wrote.
func countEvents(t *testing.T, folder string) (n int) {
	t.Helper()
	opt := litestream.NewRestoreOptions()
	opt.OutputPath = filepath.Join(t.TempDir(), "restored.db")
	if _, err := litestream.Restore(t.Context(), file.NewReplicaClient(folder), opt); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", opt.OutputPath)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FROM events").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestApplication(t *testing.T) {
	dir := t.TempDir()
	path, folder := filepath.Join(dir, "app.db"), filepath.Join(dir, "replica")
	runUntil(t, path, "file://"+folder, 20)
	if got := countEvents(t, folder); got < 20 {
		t.Errorf("the replica holds %d events, want 20", got)
	}
	before := countEvents(t, folder)

	names, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names { // a new machine
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	runUntil(t, path, "file://"+folder, before+5)
	if got := countEvents(t, folder); got < before+5 {
		t.Errorf("after the restore the replica holds %d events, want %d", got, before+5)
	}
}

func TestNewClient(t *testing.T) {
	t.Setenv("S3_ENDPOINT", "http://127.0.0.1:9000")
	client, err := newClient("s3://bucket/a/b")
	if err != nil {
		t.Fatal(err)
	}
	c, ok := client.(*s3.ReplicaClient)
	if !ok || c.Bucket != "bucket" || c.Path != "a/b" || !c.ForcePathStyle {
		t.Errorf("client %+v", client)
	}
	for _, bad := range []string{"/backup", "ftp://x/y", "s3://%zz"} {
		if _, err := newClient(bad); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}
