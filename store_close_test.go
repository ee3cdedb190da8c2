package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// hungClient is a replica that does not answer some operations.
type hungClient struct {
	*testutil.MemClient
	hang func(op string) bool
}

func (c *hungClient) wait(ctx context.Context, op string) error {
	if !c.hang(op) {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (c *hungClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	if err := c.wait(ctx, testutil.OpList); err != nil {
		return nil, err
	}
	return c.MemClient.LTXFiles(ctx, level, seek, useMetadata)
}

func (c *hungClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	if err := c.wait(ctx, testutil.OpWriteExclusive); err != nil {
		return nil, err
	}
	return c.MemClient.WriteLTXFileExclusive(ctx, level, minTXID, maxTXID, r)
}

// within runs fn and fails the test if it does not end.
func within(t *testing.T, d time.Duration, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		t.Fatalf("%s did not end within %s", what, d)
	}
}

// A replica that hangs keeps neither the capture from going on nor the store
// from being closed, whatever its caller's patience.
func TestStore_HungReplica(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		op      string
		workers int
		dbs     int
		timeout time.Duration // of ctx of Close
	}{
		{name: "upload", op: testutil.OpWriteExclusive, workers: 10, dbs: 3},
		{name: "upload, fewer workers than databases", op: testutil.OpWriteExclusive, workers: 2, dbs: 6},
		{name: "upload, short patience", op: testutil.OpWriteExclusive, workers: 2, dbs: 6, timeout: 300 * time.Millisecond},
		{name: "list", op: testutil.OpList, workers: 10, dbs: 3},
		{name: "list, short patience", op: testutil.OpList, workers: 2, dbs: 6, timeout: 300 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var hang atomic.Bool
			hang.Store(tt.op == testutil.OpWriteExclusive)
			var dbs []*litestream.DB
			var inserts []func(int)
			for i := range tt.dbs {
				path := filepath.Join(t.TempDir(), fmt.Sprint(i))
				inserts = append(inserts, appWith(t, path, 1))
				db := litestream.NewDB(path)
				db.MonitorInterval = 10 * time.Millisecond
				client := &hungClient{testutil.NewMemClient(), func(op string) bool { return hang.Load() && op == tt.op }}
				db.Replica = litestream.NewReplicaWithClient(db, client)
				db.Replica.SyncInterval = 10 * time.Millisecond
				dbs = append(dbs, db)
			}
			store := litestream.NewStore(dbs, nil)
			store.ReplicaWorkers = tt.workers
			store.ShutdownSyncTimeout = 200 * time.Millisecond
			store.ShutdownSyncInterval = 20 * time.Millisecond
			if err := store.Open(context.Background()); err != nil {
				t.Fatal(err)
			}
			for _, db := range dbs {
				waitFor(t, "a first capture", func() bool { return db.Pos().TXID > 0 })
			}
			hang.Store(true)
			for i, db := range dbs {
				pos := db.Pos().TXID
				inserts[i](1)
				waitFor(t, "a capture while the replica hangs", func() bool { return db.Pos().TXID > pos })
			}
			ctx := context.Background()
			if tt.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.timeout)
				defer cancel()
			}
			within(t, 20*time.Second, "Close", func() {
				if err := store.Close(ctx); err == nil && tt.op == testutil.OpWriteExclusive {
					t.Error("want an error that tells what was left behind")
				}
			})
			for _, db := range dbs {
				if s := db.Status(); s.State != litestream.SyncStateClosed || s.Connected {
					t.Errorf("%s is %s, want closed", db.Path(), s.State)
				}
			}
		})
	}
}

// A short-lived child process may end before anything was looked at, while
// the replica hangs: what it wrote is captured all the same.
func TestStore_CloseAtOnceHungReplica(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	appWith(t, path, 1)
	db := litestream.NewDB(path)
	client := &hungClient{testutil.NewMemClient(), func(string) bool { return true }}
	db.Replica = litestream.NewReplicaWithClient(db, client)
	store := litestream.NewStore([]*litestream.DB{db}, nil)
	store.ShutdownSyncTimeout = time.Second
	if err := store.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	within(t, 20*time.Second, "Close", func() {
		if err := store.Close(context.Background()); err == nil {
			t.Error("want an error that tells what was left behind")
		}
	})
	if got := db.Pos().TXID; got != 1 {
		t.Errorf("captured up to %s, want 1", got)
	}
}

// The child ends at once and the replica works: everything is there.
func TestStore_CloseAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	appWith(t, path, 7)
	client := testutil.NewMemClient()
	db := litestream.NewDB(path)
	db.Replica = litestream.NewReplicaWithClient(db, client)
	store := litestream.NewStore([]*litestream.DB{db}, nil)
	if err := store.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantRows(t, client, 7)
}

// Uploads that fail while captures go on; for the race detector.
func TestStore_FailingUploads(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	insert := appWith(t, path, 1)
	client := testutil.NewMemClient()
	var n atomic.Int64
	client.Fail = func(op string, _ int, _, _ ltx.TXID) error {
		if op == testutil.OpWriteExclusive && n.Add(1)%3 != 0 {
			return errors.New("away")
		}
		return nil
	}
	db := litestream.NewDB(path)
	db.MonitorInterval = time.Millisecond
	db.Replica = litestream.NewReplicaWithClient(db, client)
	db.Replica.SyncInterval = time.Millisecond
	store := litestream.NewStore([]*litestream.DB{db}, nil)
	store.ShutdownSyncInterval = time.Millisecond
	if err := store.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		pos := db.Pos().TXID
		insert(1)
		waitFor(t, "a capture", func() bool { return db.Pos().TXID > pos })
	}
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantRows(t, client, 51)
}
