package interop_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/tests/servers"
)

// acknowledged returns how many writes of the load are in the database.
func (s *scene) acknowledged() (n int) {
	s.t.Helper()
	if err := s.app.QueryRowContext(s.t.Context(), "SELECT count(*) FROM ledger").Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// load writes to the ledger of a scene until it is stopped, and says how many
// writes were acknowledged.
func (s *scene) load() (stop func() int) { return s.loadWith() }

// loadWith is load with more statements in each transaction.
func (s *scene) loadWith(statements ...string) (stop func() int) {
	query := strings.Join(append([]string{"BEGIN IMMEDIATE", "INSERT INTO ledger SELECT coalesce(max(n), 0) + 1 FROM ledger"}, append(statements, "COMMIT")...), ";")

	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan int)
	go func() {
		n := 0
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				done <- n
				return
			case <-tick.C:
			}
			if _, err := s.app.Exec(query); err != nil {
				s.t.Errorf("write %d: %v", n+1, err)
				done <- n
				return
			}
			n++
		}
	}()
	return func() int {
		cancel()
		return <-done
	}
}

// wantReplicated restores with both programs and checks that the ledger is
// complete up to n writes or more.
func (s *scene) wantReplicated(n int) {
	s.t.Helper()
	tg := target{txid: s.newest()}
	theirs, err := s.theirs(tg)
	if err != nil {
		s.t.Fatalf("upstream: %v", err)
	}
	ours, err := s.ours(tg)
	if err != nil {
		s.t.Fatalf("ours: %v", err)
	}
	if string(ours) != string(theirs) {
		s.t.Fatalf("restores of %s differ: %s", tg, difference(ours, theirs))
	}
	if got := s.ledger(ours); got < n {
		s.t.Fatalf("restored %d writes at %s, want at least %d", got, tg, n)
	}
}

// advance waits until so many more positions are on the replica, under load.
func (s *scene) advance(n ltx.TXID) {
	s.t.Helper()
	before := s.newest()
	waitFor(s.t, fmt.Sprintf("position %s", before+n), func() bool { return s.newest() >= before+n })
}

// TestCommand_TakeTurns runs our program and upstream's in turns, with one
// configuration file, while the application writes all the time.
func TestCommand_TakeTurns(t *testing.T) {
	t.Parallel()
	t.Run("small writes", func(t *testing.T) {
		t.Parallel()
		if theirs := newScene(t).takeTurns(5); theirs.full > 0 {
			t.Errorf("upstream made %d full copies, want none", theirs.full)
		}
	})
	// Either program checkpoints several times in its turn. If the last thing
	// before a stop was a complete checkpoint, the log restarts while nobody
	// looks, and upstream then makes a full copy. The application does not
	// checkpoint: upstream misses what is checkpointed while it does not run.
	t.Run("large writes", func(t *testing.T) {
		t.Parallel()
		s := newScene(t)
		s.exec("PRAGMA wal_autocheckpoint=0")
		s.takeTurns(12, "INSERT INTO t (v) VALUES (randomblob(60000))", "DELETE FROM t WHERE id < (SELECT max(id) FROM t) - 40")
	})
}

// takeTurns makes so many positions in each turn, and returns how upstream's
// turns began.
func (s *scene) takeTurns(positions ltx.TXID, statements ...string) (theirs switches) {
	s.t.Helper()
	t, bin := s.t, ourProgram(s.t)
	s.create(4096, "wal")
	s.exec(workload[1].query)
	stopLoad := s.loadWith(statements...)
	var ours switches
	const rounds = 3
	n := 0
	for i := range 2 * rounds {
		before := s.newest()
		c, name := &theirs, s.bin
		if i%2 == 0 {
			c, name = &ours, bin
		}
		d := s.run(name, []string{"1s", "5s"}, "")
		s.advance(positions)
		if i == 2*rounds-1 {
			n = stopLoad()
		} else {
			n = s.acknowledged()
		}
		d.stop()
		if i > 0 {
			c.add(s.isFull(before + 1))
		}
		s.wantReplicated(n)
	}
	s.wantLedger(n)
	s.wantContiguous()
	t.Logf("ours went on %d times incrementally, %d times with a full copy; upstream %d and %d; %d writes, newest position %s",
		ours.incremental, ours.full, theirs.incremental, theirs.full, n, s.newest())
	if ours.full > 0 {
		t.Errorf("ours made %d full copies, want none", ours.full)
	}
	return theirs
}

// TestCommand_Kill kills our program under load again and again.
func TestCommand_Kill(t *testing.T) {
	t.Parallel()
	bin := ourProgram(t)
	s := newScene(t)
	s.create(1024, "wal")
	stopLoad := s.load()
	for range 5 {
		d := s.run(bin, []string{"200ms", "1s"}, "")
		s.advance(4)
		d.kill()
		s.wantReplicated(0)
	}
	d := s.run(bin, []string{"200ms", "1s"}, "")
	s.advance(1)
	n := stopLoad()
	d.stop()
	s.remember()
	s.wantLedger(n)
	s.wantContiguous()
	s.wantLevels(2)
	t.Logf("%d writes, newest position %s", n, s.newest())
}

// TestCommand_SecondSignal stops our program while the server is away: the
// first signal makes it try on, the second ends it at once. The next start
// sends what was left.
func TestCommand_SecondSignal(t *testing.T) {
	t.Parallel()
	bin := ourProgram(t)
	s := newScene(t)
	srv := servers.Versitygw(t, true)
	srv.CreateBucket(bucket)
	s.onS3(srv, func(cfg *s3.Config) { cfg.SkipVerify = true })
	s.create(4096, "wal")
	s.exec("INSERT INTO ledger VALUES (1)")
	d := s.run(bin, nil, "")
	waitFor(t, "first upload", func() bool { return s.newest() == 1 })
	srv.Stop()
	s.exec("INSERT INTO ledger VALUES (2)")
	d.signal()
	waitFor(t, "end of the replication", func() bool { return d.logged("shutting down") })
	d.signal()
	if err := d.wait(); err == nil || err.Error() != "exit status 1" {
		t.Errorf("after the second signal: %v, want exit status 1", err)
	}
	if !d.logged("Error: shutdown interrupted") {
		t.Errorf("no word about the second signal:\n%s", d.output())
	}

	srv.Restart()
	d = s.run(bin, nil, "")
	waitFor(t, "upload of what was left", func() bool { return s.newest() > 1 })
	s.exec("INSERT INTO ledger VALUES (3)")
	d.stop()
	s.remember()
	s.wantLedger(3)
	s.wantContiguous()
}

// TestCommand_BrokenNeighbours has one configuration with a good database and
// ones that cannot be replicated. Each of those is named once, the good one is
// replicated, and one that is repaired is too.
func TestCommand_BrokenNeighbours(t *testing.T) {
	t.Parallel()
	bin := ourProgram(t)
	s := newScene(t)
	s.create(4096, "wal")
	extra := ""
	for name, prepare := range map[string]func(path string) error{
		"folder.db":  func(path string) error { return os.Mkdir(path, 0o755) },
		"text.db":    func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("no database "), 1000), 0o600) },
		"empty.db":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"missing.db": func(string) error { return nil },
	} {
		path := filepath.Join(s.dir, name)
		if err := prepare(path); err != nil {
			t.Fatal(err)
		}
		extra += fmt.Sprintf("  - path: %[1]s\n    monitor-interval: 50ms\n    replica: {path: %[1]s.replica}\n", path)
	}
	stopLoad := s.load()
	d := s.run(bin, nil, extra)
	s.advance(10)
	for _, name := range []string{"folder.db", "text.db"} {
		waitFor(t, "error about "+name, func() bool { return len(d.lines("level=ERROR", name)) > 0 })
	}

	// The missing one appears.
	late := newScene(t)
	late.path, late.dir = filepath.Join(s.dir, "missing.db"), s.dir
	late.create(4096, "wal")
	matches := func() int {
		a, err := filepath.Glob(filepath.Join(s.dir, "missing.db.replica", "ltx", "0", "*.ltx"))
		if err != nil {
			t.Fatal(err)
		}
		return len(a)
	}
	waitFor(t, "replication of the late database", func() bool { return matches() > 0 })
	n := stopLoad()
	d.signal()
	err := d.wait()
	for _, name := range []string{"folder.db", "text.db"} {
		lines := d.lines("level=ERROR", name)
		if len(lines) > 2 {
			t.Errorf("%d lines about %s, want one, and one at the end:\n%s", len(lines), name, strings.Join(lines, "\n"))
		}
		t.Log(lines[0])
	}
	for _, name := range []string{"empty.db", "missing.db", "app.db"} {
		if lines := d.lines("level=ERROR", name); len(lines) > 0 {
			t.Errorf("errors about %s: %q", name, lines)
		}
	}
	// As upstream, which takes thirty seconds to say so.
	if err == nil || err.Error() != "exit status 1" || len(d.lines("folder.db: not a regular file")) == 0 {
		t.Errorf("end: %v, want exit status 1", err)
	}
	s.remember()
	s.wantLedger(n)
}
