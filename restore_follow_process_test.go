package litestream_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/tests/servers"
)

// childFollow follows a file replica in this process until its input ends. The
// argument is the output and the replica, with a bar between them.
func childFollow(arg string) error {
	output, replica, _ := strings.Cut(arg, "|")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	opt := litestream.NewRestoreOptions()
	opt.OutputPath, opt.Follow, opt.FollowInterval = output, true, time.Millisecond
	_, err := litestream.Restore(ctx, file.NewReplicaClient(replica), opt)
	return err
}

// TestFollow_Killed kills a follower again and again while its source is
// written to. SQLite finds a sound database after each kill, and in the end it
// equals its source.
func TestFollow_Killed(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	replica, output := filepath.Join(dir, "replica"), filepath.Join(dir, "out.db")
	app := openApp(t, filepath.Join(dir, "source.db"), "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
	mustExec(t, app, "CREATE INDEX t_v ON t (substr(v, 1, 8))")
	db := replicated(t, filepath.Join(dir, "source.db"), replica)
	write := func() {
		switch rng.IntN(6) {
		case 0, 1:
			mustExec(t, app, "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < ?) INSERT INTO t (v) SELECT randomblob(700) FROM n", 1+rng.IntN(500))
		case 2:
			mustExec(t, app, "UPDATE t SET v = randomblob(400) WHERE id % 7 = ?", rng.IntN(7))
		case 3:
			mustExec(t, app, "DELETE FROM t WHERE id % 3 = ?", rng.IntN(3))
		case 4:
			mustExec(t, app, "UPDATE t SET v = randomblob(600) WHERE id = ?", rng.IntN(500))
		case 5:
			mustExec(t, app, "VACUUM")
		}
		syncAll(t, db)
	}
	write()
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		c := startChild(t, "follower", output+"|"+replica)
		kill := time.NewTimer(time.Duration(rng.IntN(300)) * time.Millisecond)
		for running := true; running; {
			select {
			case <-kill.C:
				running = false
			default:
				write()
			}
		}
		c.cmd.Process.Kill()
		if err := c.cmd.Wait(); c.cmd.ProcessState.Exited() {
			t.Fatalf("follower ended by itself: %v", err)
		}
		if _, err := os.Stat(output); err == nil && rng.IntN(2) == 0 {
			sqliteCheck(t, output, "SELECT count(*) FROM t")
		}
	}
	opt := litestream.NewRestoreOptions()
	opt.OutputPath = filepath.Join(dir, "want.db")
	res, err := litestream.Restore(t.Context(), file.NewReplicaClient(replica), opt)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(opt.OutputPath)
	if err != nil {
		t.Fatal(err)
	}
	opt = followOptions(t, nil)
	opt.OutputPath = output
	f := startFollow(t, file.NewReplicaClient(replica), opt)
	f.await("follow", "txid="+res.TXID.String())
	f.stop()
	wantFollowed(t, output, want, res.TXID)
	sqliteCheck(t, output, "SELECT count(*) FROM t")
}

// A ledger keeps its sum in every transaction of writeLedger.
const ledgerSum = 400 * 1000

// writeLedger changes many pages of a ledger in one transaction.
func writeLedger(s *source, i int) {
	s.tb.Helper()
	if i == 0 {
		s.exec("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, filler BLOB)")
		s.exec("CREATE TABLE entry (id INTEGER PRIMARY KEY, v BLOB)")
		s.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 400) INSERT INTO account SELECT i, 1000, zeroblob(300) FROM n")
	}
	s.exec("BEGIN")
	s.exec("UPDATE account SET balance = balance + CASE id % 2 WHEN 0 THEN ? ELSE -? END", i, i)
	s.exec("INSERT INTO entry (v) VALUES (randomblob(?))", 1+i*100%3000)
	if i%10 == 9 {
		s.exec("DELETE FROM entry WHERE id % 3 = 0 AND id < ?", i-2)
	}
	s.exec("COMMIT")
	s.capture()
}

// ledgerReader reads a ledger again and again with one connection, so that its
// page cache has to notice every update.
type ledgerReader struct {
	c    *sqlite3.SQLiteConn
	last int64
	n    int
}

func (r *ledgerReader) value(query string) (driver.Value, error) {
	rows, err := r.c.Query(query, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	defer rows.Close()
	vals := make([]driver.Value, 1)
	if err := rows.Next(vals); err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	return vals[0], nil
}

func (r *ledgerReader) read() (err error) {
	for range 20 {
		if _, err := r.c.Exec("BEGIN", nil); err != nil {
			return err
		}
		sum, err1 := r.value("SELECT sum(balance) FROM account")
		last, err2 := r.value("SELECT max(id) FROM entry")
		spread, err3 := r.value("SELECT max(balance) - 1000 FROM account")
		if r.n++; r.n%10 == 0 {
			var ok driver.Value
			if ok, err = r.value("PRAGMA integrity_check"); err == nil && ok != "ok" {
				err = fmt.Errorf("integrity check: %v", ok)
			}
		}
		_, err4 := r.c.Exec("COMMIT", nil)
		if err := errors.Join(err, err1, err2, err3, err4); err != nil {
			return err
		}
		// After i transactions the entry is i+1, the balances went by 0+1+…+i.
		i := last.(int64) - 1
		if sum != int64(ledgerSum) || spread != i*(i+1)/2 || i < r.last {
			return fmt.Errorf("sum %v, entry %d, spread %v, the read before had entry %d: not one transaction", sum, i+1, spread, r.last+1)
		}
		r.last = i
	}
	return nil
}

// TestFollow_Readers reads a followed database from other processes while it
// is updated.
func TestFollow_Readers(t *testing.T) {
	client := newMemReplica()
	s := newSource(t, client, 1024, true)
	writeLedger(s, 0)
	opt := followOptions(t, nil)
	f := startFollow(t, client, opt)
	f.await("entering follow mode")
	done := make(chan string, 2)
	stop := make(chan struct{})
	for range 2 {
		c := startChild(t, "reader", opt.OutputPath)
		go func() {
			reads := 0
			for {
				select {
				case <-stop:
					done <- fmt.Sprintf("ok after %d", reads)
					return
				default:
				}
				if answer := c.do("read"); answer != "ok" {
					done <- answer
					return
				}
				reads++
			}
		}()
	}
	n := 120
	if testing.Short() {
		n = 30
	}
	for i := 1; i <= n; i++ {
		writeLedger(s, i)
		if i%3 == 0 {
			f.awaitOrAt(s.txid)
		}
	}
	f.awaitOrAt(s.txid)
	close(stop)
	for range 2 {
		if answer := <-done; !strings.HasPrefix(answer, "ok after ") || answer == "ok after 0" {
			t.Errorf("reader: %s", answer)
		} else {
			t.Log(answer)
		}
	}
	f.stop()
	wantFollowed(t, opt.OutputPath, s.images[s.txid], s.txid)
}

// upstreamFollow runs Litestream v0.5.18 as a follower until it reaches a
// position.
func upstreamFollow(t *testing.T, bin, output, replica string, until ltx.TXID) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin, "restore", "-f", "-follow-interval", "20ms", "-o", output, "file://"+replica)
	lines := make(logChan, 1<<16)
	cmd.Stdout, cmd.Stderr = lines, lines
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	var seen strings.Builder
	for found := false; !found; {
		select {
		case line := <-lines:
			seen.WriteString(line)
			found = strings.Contains(line, "txid="+until.String())
		case <-timeout.C:
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("v0.5.18 did not reach %s:\n%s", until, seen.String())
		}
	}
	if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
		t.Fatalf("v0.5.18: %v\n%s", err, seen.String())
	}
}

// TestFollow_Upstream holds that this program and Litestream v0.5.18 follow
// each other's replicas and go on from each other's positions.
func TestFollow_Upstream(t *testing.T) {
	bin := servers.Upstream(t)
	for _, writer := range []string{"ours", "v0.5.18"} {
		t.Run("replica of "+writer, func(t *testing.T) {
			dir := t.TempDir()
			path, replica, output := filepath.Join(dir, "source.db"), filepath.Join(dir, "replica"), filepath.Join(dir, "out.db")
			app := openApp(t, path, "_journal_mode=wal")
			mustExec(t, app, "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
			var db *litestream.DB
			if writer == "ours" {
				db = replicated(t, path, replica)
			}
			write := func(query string) (ltx.TXID, []byte) {
				t.Helper()
				mustExec(t, app, query)
				if db != nil {
					syncAll(t, db)
				} else if out, err := exec.CommandContext(t.Context(), bin, "replicate", "-once", path, "file://"+replica).CombinedOutput(); err != nil {
					t.Fatalf("replicate: %v\n%s", err, out)
				}
				opt := litestream.NewRestoreOptions()
				opt.OutputPath, opt.Force = filepath.Join(dir, "want.db"), true
				res, err := litestream.Restore(t.Context(), file.NewReplicaClient(replica), opt)
				if err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(opt.OutputPath)
				if err != nil {
					t.Fatal(err)
				}
				return res.TXID, b
			}
			ours := func(txid ltx.TXID) {
				t.Helper()
				opt := followOptions(t, nil)
				opt.OutputPath = output
				f := startFollow(t, file.NewReplicaClient(replica), opt)
				f.await("follow", "txid="+txid.String())
				f.stop()
			}
			theirs := func(txid ltx.TXID) {
				t.Helper()
				upstreamFollow(t, bin, output, replica, txid)
			}
			for i, follow := range []func(ltx.TXID){theirs, ours, theirs, theirs, ours, ours, theirs, ours} {
				query := "INSERT INTO t (v) SELECT randomblob(900) FROM (VALUES (1),(2),(3),(4),(5),(6),(7),(8),(9))"
				if i == 4 || i == 6 {
					query = "DELETE FROM t; VACUUM"
				}
				txid, image := write(query)
				follow(txid)
				wantFollowed(t, output, image, txid)
				sqliteCheck(t, output, "SELECT count(*) FROM t")
			}
		})
	}
}
