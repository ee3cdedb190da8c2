package litestream_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// rivals returns two fleets, each with a state and databases of its own, whose
// replicas lie in the same place. The second one's files are copies.
func rivals(t *testing.T, n int) (a, b *memFleet, names []string) {
	t.Helper()
	a, b = newMemFleet(t), newMemFleet(t)
	names = a.rested(n)
	b.root = a.root
	for _, name := range names {
		b.clients[replicaOf(name)] = a.client(replicaOf(name))
		copyResting(t, b.path(name), a.path(name))
	}
	return a, b, names
}

func replicaOf(name string) string { return name[:len(name)-len(".db")] }

func copyResting(t *testing.T, to, from string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Whoever finds that another one went on stops, says so, and stays stopped over
// a restart without a request; a takeover turns it round.
func TestMultiDBManager_SecondWriter(t *testing.T) {
	t.Parallel()
	a, b, names := rivals(t, 1)
	name := names[0]
	a.open()
	a.replicated()
	b.open() // as on another host: what lies there is adopted
	b.replicated()
	insertClosed(t, b.path(name))
	b.replicated()

	insertClosed(t, a.path(name))
	a.awaitFailed(name, "second-writer")
	_, reason := a.m.TenantState(a.path(name))
	if !errors.Is(reason, litestream.ErrSecondWriter) {
		t.Errorf("reason %v, want ErrSecondWriter", reason)
	}
	t.Log(reason)
	a.failing = 1
	a.close()
	a.resetCounts()
	a.open()
	insertClosed(t, a.path(name))
	a.scans(2)
	a.awaitFailed(name, "second-writer")
	if n := a.requests(); n != 0 {
		t.Errorf("%d requests for a replica that is another's", n)
	}
	if _, got := a.m.TenantState(a.path(name)); got == nil || got.Error() != reason.Error() {
		t.Errorf("after a restart: %v, want %v", got, reason)
	}

	insertClosed(t, b.path(name))
	b.replicated()
	b.rows(replicaOf(name), 3)

	res, err := a.m.TakeOverTenant(context.Background(), a.path(name))
	if err != nil {
		t.Fatal(err)
	}
	if res.TXID == 0 || res.Snapshot < res.TXID || !errors.Is(res.Was, litestream.ErrSecondWriter) {
		t.Errorf("takeover: %+v", res)
	}
	a.failing = 0
	a.replicated()
	a.rows(replicaOf(name), 3)
	insertClosed(t, b.path(name))
	b.awaitFailed(name, "second-writer")
	insertClosed(t, a.path(name))
	a.replicated()
	a.rows(replicaOf(name), 4)
	a.close()
	b.close()
}

// A process that slept for so long that the other's file in the place of its own
// next one was merged and deleted is not refused. It finds out all the same.
func TestMultiDBManager_SecondWriterBehindRetention(t *testing.T) {
	t.Parallel()
	a, b, names := rivals(t, 1)
	name := names[0]
	asleep := func(m *litestream.MultiDBManager) { m.L0Retention = time.Nanosecond } // every pause is a long one
	a.setup = asleep
	a.open()
	a.replicated()
	b.open()
	b.replicated()
	for range 3 {
		insertClosed(t, b.path(name))
		b.replicated()
	}
	c := a.client(replicaOf(name))
	files := c.Files(0)
	for _, f := range files[:len(files)-1] {
		c.Delete(0, f.MinTXID, f.MaxTXID)
	}
	insertClosed(t, a.path(name))
	a.awaitFailed(name, "second-writer")
	a.close()
	b.close()
}

// A busy database costs no request for the proof that nobody else is there.
func TestMultiDBManager_SecondWriterCost(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	name := f.rested(1)[0]
	f.open()
	f.replicated()
	c := f.client(replicaOf(name))
	insertClosed(t, f.path(name))
	f.replicated()
	c.ResetCounts()
	for range 3 {
		insertClosed(t, f.path(name))
		f.replicated()
	}
	if got := c.Count(testutil.OpOpen) + c.Count(testutil.OpList); got != 0 {
		t.Errorf("requests of a busy database: %v, want no GET and no LIST", c.Counts())
	}
	f.close()
}
