package litestream_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// catalogFleet returns a manager that knows n databases with paths as hosting
// platforms have them, 100 in a directory, and the root of their replicas.
func catalogFleet(tb testing.TB, n int, client func(*file.ReplicaClient) litestream.ReplicaClient) (*litestream.MultiDBManager, litestream.ReplicaClient) {
	tb.Helper()
	root := client(file.NewReplicaClient(tb.TempDir()))
	cfg := litestream.NewMultiDBConfig()
	cfg.Patterns = []string{"/data/*/databases/*/branches/*/tenants/*.db"}
	cfg.ReplicaPath = "{{project}}/{{database}}/{{branch}}/{{tenant}}"
	cfg.StateDir = tb.TempDir()
	m, err := litestream.NewMultiDBManager(cfg, litestream.NewStore(nil, nil), litestream.TenantClients{Root: root})
	if err != nil {
		tb.Fatal(err)
	}
	err = m.FillTable(context.Background(), func(yield func(dir, name string) bool) {
		for i := range n {
			dir := fmt.Sprintf("/data/customer-%04d/databases/app%d/branches/main/tenants", i/1000, i/100%10)
			if !yield(dir, fmt.Sprintf("tenant-%06d.db", i*7919%1_000_000)) {
				return
			}
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := m.CloseTable(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return m, root
}

func fileRoot(c *file.ReplicaClient) litestream.ReplicaClient { return c }

// heapClient notes how much of the heap is in use while an object is written.
type heapClient struct {
	*file.ReplicaClient
	peak uint64
}

func (c *heapClient) WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error {
	c.peak = max(c.peak, liveHeap())
	return c.ReplicaClient.WriteObject(ctx, name, data, exclusive)
}

func liveHeap() uint64 {
	runtime.GC()
	var st runtime.MemStats
	runtime.ReadMemStats(&st)
	return st.HeapAlloc
}

// TestMultiDBCatalog_Large holds what a catalog of 100,000 databases costs. It
// does not run beside other tests, whose memory it would count.
func TestMultiDBCatalog_Large(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 40_000
	}
	var client *heapClient
	m, root := catalogFleet(t, n, func(c *file.ReplicaClient) litestream.ReplicaClient {
		client = &heapClient{ReplicaClient: c}
		return client
	})
	before := liveHeap()
	_, base, err := m.WriteCatalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	each := float64(base) / float64(n)
	if each > 40 {
		t.Errorf("%.1f bytes a database, want at most 40", each)
	}
	if peak := int64(client.peak) - int64(before); peak > 8<<20 {
		t.Errorf("%d KiB in memory while it is written, want at most 8 MiB", peak>>10)
	} else {
		t.Logf("%.1f bytes a database, %d KiB in memory", each, peak>>10)
	}
	m.TouchAll(uint32(n / 10))
	requests, delta, err := m.WriteCatalog(t.Context())
	if err != nil || requests != 3 || delta > 5000 {
		t.Errorf("delta of 10: %d requests, %d bytes, err=%v; want 3 (the index is read) and a few hundred", requests, delta, err)
	}

	// A new process finds that nothing differs.
	m.ForgetCatalog()
	if _, size, err := m.WriteCatalog(t.Context()); err != nil || size != 0 {
		t.Errorf("compared: %d bytes written, err=%v", size, err)
	}
	if dirty, _ := m.CatalogState(); dirty != 0 {
		t.Errorf("%d entries differ from what was written", dirty)
	}
	at := time.Unix(1_800_000_000, 0).UTC()
	const proven = "/data/customer-0000/databases/app0/branches/main/tenants/tenant-000000.db"
	m.SetProven(proven, at)
	if _, _, err := m.WriteCatalog(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := catalogOf(t, root)
	if e := got[proven]; len(got) != n || !e.ProvenAt.Equal(at) || e.Replica != "customer-0000/app0/main/tenant-000000" || e.Mode != 0o640 {
		t.Errorf("%d entries, the proven one: %+v", len(got), e)
	}
}

// BenchmarkMultiDBCatalog is what 100,000 databases cost with a file replica:
// to write all of them, one in a hundred, and to read all.
func BenchmarkMultiDBCatalog(b *testing.B) {
	const n = 100_000
	m, root := catalogFleet(b, n, fileRoot)
	for _, bb := range []struct {
		name  string
		every uint32
	}{{"base", 1}, {"delta=1k", 100}, {"delta=10", 10_000}} {
		b.Run("dbs=100k/write/"+bb.name, func(b *testing.B) {
			b.ReportAllocs()
			var bytes int64
			for b.Loop() {
				m.TouchAll(bb.every)
				_, n, err := m.WriteCatalog(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				bytes += n
			}
			b.ReportMetric(float64(bytes)/float64(b.N)/float64(n/int(bb.every)), "bytes/database")
		})
	}
	b.Run("dbs=100k/compare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.ForgetCatalog()
			if _, _, err := m.WriteCatalog(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("dbs=100k/read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c, err := litestream.OpenCatalog(b.Context(), root, litestream.CatalogOptions{})
			if err != nil || c.Len() != n || c.Rebuilt() {
				b.Fatal(c.Len(), err)
			}
			sum := 0
			for e := range c.Entries() {
				sum += len(e.Path)
			}
			if sum == 0 {
				b.Fatal("no paths")
			}
		}
	})
}
