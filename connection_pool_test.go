package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// pooledRequest makes a small database and what a connection to it is asked
// for with.
func pooledRequest(tb testing.TB, path string) litestream.ConnectionRequest {
	tb.Helper()
	app := openApp(tb, path, "_journal_mode=wal")
	mustExec(tb, app, "CREATE TABLE t (x)")
	main, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { main.Close() })
	p, err := sqlitefile.StatFile(main)
	if err != nil {
		tb.Fatal(err)
	}
	return litestream.ConnectionRequest{Path: path, Main: main, Inode: p.ID, BusyTimeout: time.Second}
}

func pooledRequests(tb testing.TB, n int) (reqs []litestream.ConnectionRequest) {
	tb.Helper()
	dir := tb.TempDir()
	for i := range n {
		reqs = append(reqs, pooledRequest(tb, filepath.Join(dir, fmt.Sprint(i))))
	}
	return reqs
}

func acquire(tb testing.TB, p *litestream.ConnectionPool, req litestream.ConnectionRequest) *litestream.PooledConn {
	tb.Helper()
	c, err := p.Acquire(tb.Context(), req)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func release(tb testing.TB, c *litestream.PooledConn, keep bool) {
	tb.Helper()
	if err := c.Release(keep); err != nil {
		tb.Fatal(err)
	}
}

func TestConnectionPool_Limits(t *testing.T) {
	for _, tt := range []struct {
		opt  litestream.ConnectionPoolOptions
		want int
	}{
		{litestream.ConnectionPoolOptions{}, 1000},
		{litestream.ConnectionPoolOptions{MaxConnections: 5000}, 1000},
		{litestream.ConnectionPoolOptions{MaxConnections: 7}, 7},
		{litestream.ConnectionPoolOptions{MaxConnections: 700, MaxDescriptors: 2000}, 500},
		{litestream.ConnectionPoolOptions{MaxBytes: 10 << 20}, 55},
		{litestream.ConnectionPoolOptions{MaxDescriptors: 3, MaxBytes: 1}, 1},
	} {
		p := litestream.NewConnectionPool(tt.opt)
		if got := p.Stats().Capacity; got != tt.want {
			t.Errorf("%+v: capacity %d, want %d", tt.opt, got, tt.want)
		}
	}
}

func TestConnectionPool_Keep(t *testing.T) {
	reqs := pooledRequests(t, 3)
	p := litestream.NewConnectionPool(litestream.ConnectionPoolOptions{MaxConnections: 2, IdleTimeout: time.Minute})
	release(t, acquire(t, p, reqs[0]), false)
	if s := p.Stats(); s.Open != 0 || s.Opened != 1 {
		t.Fatalf("%+v: want the connection closed that nobody wants kept", s)
	}
	release(t, acquire(t, p, reqs[0]), true)
	release(t, acquire(t, p, reqs[0]), true)
	if s := p.Stats(); s.Open != 1 || s.InUse != 0 || s.Opened != 2 {
		t.Fatalf("%+v: want one connection, used again", s)
	}
	release(t, acquire(t, p, reqs[1]), true)
	release(t, acquire(t, p, reqs[0]), true)
	release(t, acquire(t, p, reqs[2]), true) // in place of the second
	release(t, acquire(t, p, reqs[0]), true)
	if s := p.Stats(); s.Open != 2 || s.Opened != 4 || s.Evictions != 1 {
		t.Fatalf("%+v: want the least recently used one evicted", s)
	}
	now := time.Now()
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{50 * time.Second, 2}, {2 * time.Minute, 0}} {
		if err := p.Sweep(now.Add(tt.after)); err != nil {
			t.Fatal(err)
		}
		if got := p.Stats().Open; got != tt.want {
			t.Fatalf("%d open after %s, want %d", got, tt.after, tt.want)
		}
	}
	release(t, acquire(t, p, reqs[0]), true)
	p.Discard(reqs[0].Inode)
	p.Discard(reqs[1].Inode)
	if s := p.Stats(); s.Open != 0 || s.Leftovers != 0 {
		t.Fatalf("%+v: want nothing open", s)
	}
	ro := reqs[1]
	ro.ReadOnly = true
	release(t, acquire(t, p, ro), true)
	if got := p.Stats().Open; got != 0 {
		t.Fatal("a read-only connection was kept")
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Acquire(t.Context(), reqs[0]); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("closed: err=%v, want ErrClosed", err)
	}
}

// Who finds the pool full waits, the oldest first, until its context ends.
func TestConnectionPool_Full(t *testing.T) {
	reqs := pooledRequests(t, 3)
	p := litestream.NewConnectionPool(litestream.ConnectionPoolOptions{MaxConnections: 1})
	first := acquire(t, p, reqs[0])
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := p.Acquire(ctx, reqs[1]); !errors.Is(err, litestream.ErrConnectionWait) {
		t.Fatalf("err=%v, want ErrConnectionWait", err)
	}
	if _, err := p.Acquire(ctx, reqs[0]); !errors.Is(err, litestream.ErrConnectionWait) {
		t.Fatalf("the same inode twice: err=%v, want ErrConnectionWait", err)
	}
	var wg sync.WaitGroup
	order := make(chan int, 2)
	for i := 1; i <= 2; i++ {
		wg.Go(func() {
			c, err := p.Acquire(t.Context(), reqs[i])
			if err != nil {
				t.Error(err)
				return
			}
			order <- i
			if err := c.Release(true); err != nil {
				t.Error(err)
			}
		})
		waitFor(t, "a request that waits", func() bool { return p.Stats().Waiting >= i })
	}
	release(t, first, true) // not kept: somebody waits
	wg.Wait()
	if a, b := <-order, <-order; a != 1 || b != 2 {
		t.Errorf("served %d, %d; want 1, 2", a, b)
	}
	if s := p.Stats(); s.Waiting != 0 || s.InUse != 0 || s.Waits != 4 || s.Timeouts != 2 || s.WaitTime == 0 {
		t.Errorf("%+v", s)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// A connection that cannot be opened gives its place back.
func TestConnectionPool_OpenFails(t *testing.T) {
	reqs := pooledRequests(t, 1)
	p := litestream.NewConnectionPool(litestream.ConnectionPoolOptions{MaxConnections: 1})
	bad := reqs[0]
	bad.Path += "-gone"
	if _, err := p.Acquire(t.Context(), bad); err == nil {
		t.Fatal("no error")
	}
	release(t, acquire(t, p, reqs[0]), false)
	if s := p.Stats(); s.Open != 0 {
		t.Fatalf("%+v", s)
	}
}

// Connections change nothing, and clean up like the application's if they are
// the last to close.
func TestConnectionPool_NeverWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	app := startChild(t, "app", path)
	app.exec("PRAGMA journal_mode=wal", "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
	main, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer main.Close()
	print, err := sqlitefile.StatFile(main)
	if err != nil {
		t.Fatal(err)
	}
	p := litestream.NewConnectionPool(litestream.ConnectionPoolOptions{})
	c := acquire(t, p, litestream.ConnectionRequest{Path: path, Main: main, Inode: print.ID})
	if err := c.Exec("INSERT INTO t VALUES (2)"); err == nil {
		t.Error("the connection wrote")
	}
	app.close()
	release(t, c, false)
	if got := listDir(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("%v lie there, want the database alone", got)
	}
	if got := p.Stats().Leftovers; got != 0 {
		t.Errorf("%d leftovers, want 0", got)
	}
}

// A connection of the pool protects the database while the process dies, too.
func TestConnectionPool_Killed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	app := startChild(t, "app", path)
	app.exec("PRAGMA journal_mode=wal", "CREATE TABLE t (x, y)", "INSERT INTO t VALUES (1, randomblob(5000))")
	main, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer main.Close()
	print, err := sqlitefile.StatFile(main)
	if err != nil {
		t.Fatal(err)
	}
	p := litestream.NewConnectionPool(litestream.ConnectionPoolOptions{})
	c := acquire(t, p, litestream.ConnectionRequest{Path: path, Main: main, Inode: print.ID})
	app.close()
	wantUnharmed(t, path)
	release(t, c, false)
	if got := listDir(t, filepath.Dir(path)); len(got) != 3 {
		t.Errorf("%v lie there, want the database as the last application has it open", got)
	}
}
