package interop_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/tests/servers"
)

// v03Scene is a scene whose replica Litestream v0.3 writes.
func v03Scene(t *testing.T, srv *servers.S3Server) (*scene, string) {
	t.Helper()
	s := newScene(t)
	yaml := "- " + s.yaml
	if srv != nil {
		srv.CreateBucket(bucket)
		s.onS3(srv, nil)
		yaml = "- " + strings.ReplaceAll(s.yaml, "\n", "\n        ") + "\n        force-path-style: true"
	}
	return s, fmt.Sprintf(`dbs:
  - path: %s
    min-checkpoint-page-count: 20
    monitor-interval: 50ms
    replicas:
      %s
        sync-interval: 50ms
        snapshot-interval: 1s
        retention: 1h
`, s.path, yaml)
}

// writes commits numbers to the ledger until v0.3 has stored some more files,
// and returns the last one.
func (s *scene) writes(from, files int) (last int) {
	s.t.Helper()
	have := len(s.v03Files())
	next := from
	waitFor(s.t, "files of v0.3", func() bool {
		for range 5 {
			s.exec(fmt.Sprintf("BEGIN; INSERT INTO ledger VALUES (%d); INSERT INTO t (v) VALUES (randomblob(3000)); COMMIT", next))
			next++
		}
		if next%40 == 0 {
			s.exec("DELETE FROM t WHERE id % 3 = 0")
		}
		return len(s.v03Files()) >= have+files
	})
	return next - 1
}

func (s *scene) v03Files() []litestream.V03File {
	s.t.Helper()
	files, err := litestream.ListV03(s.t.Context(), s.client())
	if err != nil {
		s.t.Fatal(err)
	}
	return files
}

// theirsV03 restores with v0.3.
func (s *scene) theirsV03(tg target) ([]byte, error) {
	s.t.Helper()
	bin, out := servers.UpstreamV03(s.t), s.output()
	args := []string{"restore", "-o", out}
	if !tg.timestamp.IsZero() {
		args = append(args, "-timestamp", tg.timestamp.Format(time.RFC3339Nano))
	}
	url, _, _ := strings.Cut(s.url, "?")
	if s.s3 { // v0.3 takes no endpoint in a URL
		args = append(args, "-config", filepath.Join(s.dir, "v03.yml"))
		url = s.path
	}
	cmd := exec.CommandContext(s.t.Context(), bin, append(args, url)...)
	cmd.Env = s.env
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, msg)
	}
	return s.take(out), nil
}

// TestV03 restores real backups of v0.3, made under load: the newest state and
// moments of all generations, as v0.3 and v0.5 restore them, byte by byte.
func TestV03(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		s3   bool
	}{{"file", false}, {"versitygw", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bin := servers.UpstreamV03(t)
			var srv *servers.S3Server
			if tt.s3 {
				srv = servers.Versitygw(t, false)
			}
			s, config := v03Scene(t, srv)
			if err := os.WriteFile(filepath.Join(s.dir, "v03.yml"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			s.create(4096, "wal")
			last := 0
			for generation := range 2 {
				d := s.start(bin, config)
				waitFor(t, "a snapshot", func() bool { return generations(s.v03Files()) > generation })
				last = s.writes(last+1, 25)
				d.signal()
				_ = d.wait() // v0.3 fails now and then while it closes, and has stored what it had
				// S3 tells times in whole seconds: which of two generations that
				// begin in the same one is newer, nobody knows.
				stopped := time.Now().Unix()
				waitFor(t, "the next second", func() bool { return time.Now().Unix() > stopped })
				// Commits that v0.3 does not see begin a generation.
				s.exec("INSERT INTO t (v) VALUES (randomblob(9000)); PRAGMA wal_checkpoint(TRUNCATE)")
				s.exec("INSERT INTO t (v) VALUES (randomblob(90))")
			}
			files := s.v03Files()
			if n := generations(files); n < 2 {
				t.Fatalf("%d generations, want 2 at least", n)
			}
			s.checkV03(target{})
			image, err := s.ours(target{})
			if err != nil {
				t.Fatal(err)
			}
			if got := s.ledger(image); got < last-50 || got > last { // v0.3 drops what it had no time for
				t.Errorf("newest state has %d commits of %d", got, last)
			}
			for i, f := range files {
				if f.Snapshot || i%4 == 0 {
					s.checkV03(target{timestamp: f.CreatedAt})
				}
			}
		})
	}
}

// checkV03 restores with three programs and compares.
func (s *scene) checkV03(tg target) {
	s.t.Helper()
	ours, err := s.ours(tg)
	if err != nil {
		s.t.Fatalf("%s: ours: %v", tg, err)
	}
	v03, err := s.theirsV03(tg)
	if err != nil {
		s.t.Fatalf("%s: v0.3: %v", tg, err)
	}
	if !bytes.Equal(ours, v03) {
		s.t.Errorf("%s: restore differs from v0.3's: %s", tg, difference(ours, v03))
	}
	if v05, err := s.theirs(tg); err != nil && !strings.Contains(err.Error(), "timestamp does not exist") {
		s.t.Errorf("%s: v0.5: %v", tg, err)
	} else if err == nil && !bytes.Equal(ours, v05) {
		s.t.Errorf("%s: restore differs from v0.5's: %s", tg, difference(ours, v05))
	}
	s.ledger(ours) // without a hole
}

func generations(files []litestream.V03File) int {
	var names []string
	for _, f := range files {
		names = append(names, f.Generation)
	}
	slices.Sort(names)
	return len(slices.Compact(names))
}

// TestV03_MovedToOurs goes on in the new format on the path of a v0.3 backup:
// moments before the move are restored from the old files, later ones from
// the new.
func TestV03_MovedToOurs(t *testing.T) {
	t.Parallel()
	bin := servers.UpstreamV03(t)
	s, config := v03Scene(t, nil)
	s.create(4096, "wal")
	d := s.start(bin, config)
	waitFor(t, "a snapshot", func() bool { return len(s.v03Files()) > 0 })
	last := s.writes(1, 5)
	d.signal()
	_ = d.wait() // v0.3 fails now and then while it closes, and has stored what it had
	files := s.v03Files()
	newest := slices.MaxFunc(files, func(a, b litestream.V03File) int { return a.CreatedAt.Compare(b.CreatedAt) })
	before, err := s.ours(target{})
	if err != nil {
		t.Fatal(err)
	}

	e := s.oursRun()
	s.exec(fmt.Sprintf("INSERT INTO ledger VALUES (%d)", last+1))
	e.sync()
	e.stop()
	after, err := s.ours(target{})
	if err != nil {
		t.Fatal(err)
	}
	if n := s.ledger(after); n != last+1 {
		t.Errorf("newest state has %d commits, want %d", n, last+1)
	}
	// No snapshot on level 9 yet: v0.5 would go back to v0.3 here.
	soon, err := s.ours(target{timestamp: time.Now().Add(time.Hour)})
	if err != nil || !bytes.Equal(soon, after) {
		t.Errorf("a moment behind the move: err=%v, %s", err, difference(soon, after))
	}
	old, err := s.ours(target{timestamp: newest.CreatedAt})
	if err != nil || !bytes.Equal(old, before) {
		t.Errorf("a moment before the move: err=%v, %s", err, difference(old, before))
	}
}

// TestV03_LostEnd removes the last stretch of an index, which shows in no name.
// v0.3 and v0.5 restore a malformed database from it and exit with 0.
func TestV03_LostEnd(t *testing.T) {
	t.Parallel()
	bin := servers.UpstreamV03(t)
	s, config := v03Scene(t, nil)
	config = strings.Replace(config, "snapshot-interval: 1s", "snapshot-interval: 1h", 1)
	s.create(4096, "wal")
	d := s.start(bin, config)
	waitFor(t, "a snapshot", func() bool { return len(s.v03Files()) > 0 })
	s.writes(1, 20)
	d.signal()
	_ = d.wait() // v0.3 fails now and then while it closes, and has stored what it had
	var wal []litestream.V03File
	for _, f := range s.v03Files() {
		if !f.Snapshot {
			wal = append(wal, f)
		}
	}
	lost := -1
	for i := 1; i+1 < len(wal); i++ {
		if wal[i+1].Index == wal[i].Index+1 && wal[i].Offset > 0 {
			lost = i
		}
	}
	if lost < 0 {
		t.Fatalf("no index of several stretches in front of another: %v", wal)
	}
	if err := os.Remove(filepath.Join(s.dir, "replica", filepath.FromSlash(wal[lost].Name))); err != nil {
		t.Fatal(err)
	}
	_, err := s.ours(target{})
	if err == nil {
		t.Fatal("restored without an error")
	}
	_, text, ok := strings.Cut(err.Error(), "-timestamp ")
	at, perr := time.Parse(time.RFC3339Nano, strings.TrimSuffix(text, ")"))
	if !ok || perr != nil {
		t.Fatalf("err=%v, want one that names a timestamp", err)
	}
	image, err := s.ours(target{timestamp: at})
	if err != nil {
		t.Fatal(err)
	}
	s.ledger(image)
	s.query(image, func(db *sql.DB) {
		var msg string
		if err := db.QueryRowContext(context.WithoutCancel(t.Context()), "PRAGMA integrity_check").Scan(&msg); err != nil || msg != "ok" {
			t.Errorf("integrity check: %s, err=%v", msg, err)
		}
	})
}
