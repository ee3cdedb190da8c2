package registry_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/benbjohnson/litestream/internal/registry"
)

const benchRows = 100_000

func benchRecord(id uint32) registry.Record {
	rec := full(id, fmt.Sprintf("/data/p%02d/databases/d%d/branches/main/tenants/t%07d.db", id%10, id%7, id))
	rec.Files, rec.Reason = make([]byte, 60), ""
	return rec
}

// benchRegistry holds 100,000 rows with ledgers of 300 bytes.
func benchRegistry(b *testing.B, dir string) *registry.Registry {
	b.Helper()
	r := open(b, dir, registry.Options{})
	for id := range uint32(benchRows) {
		r.Put(benchRecord(id+1), make([]byte, 300))
		if id%4096 == 0 {
			flush(b, r)
		}
	}
	flush(b, r)
	return r
}

// BenchmarkOpen opens a registry, checks it, reads all rows and closes it.
func BenchmarkOpen(b *testing.B) {
	b.Run(fmt.Sprint("rows=", benchRows), func(b *testing.B) {
		dir := b.TempDir()
		shut(b, benchRegistry(b, dir), true)
		b.ReportAllocs()
		for b.Loop() {
			r := open(b, dir, registry.Options{})
			n := 0
			if err := r.Load(b.Context(), func(*registry.Record) error { n++; return nil }); err != nil || n != benchRows {
				b.Fatal(n, err)
			}
			shut(b, r, true)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	b.Run(fmt.Sprint("rows=", benchRows), func(b *testing.B) {
		r := benchRegistry(b, b.TempDir())
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			if err := r.Load(b.Context(), func(*registry.Record) error { n++; return nil }); err != nil || n != benchRows {
				b.Fatal(n, err)
			}
		}
	})
}

// BenchmarkPut queues and flushes rows scattered over 100,000.
func BenchmarkPut(b *testing.B) {
	for _, batch := range []uint32{1, 2000} {
		b.Run(fmt.Sprint("rows=", benchRows, "/batch=", batch), func(b *testing.B) {
			dir := b.TempDir()
			r := benchRegistry(b, dir)
			rec, ledger := benchRecord(1), make([]byte, 300)
			id := uint32(0)
			b.ReportAllocs()
			for b.Loop() {
				for range batch {
					id = (id + 7919) % benchRows
					rec.ID = id + 1
					r.Put(rec, ledger)
				}
				flush(b, r)
			}
			b.ReportMetric(float64(b.N)*float64(batch)/b.Elapsed().Seconds(), "rows/s")
			st, err := os.Stat(dir + "/" + registry.FileName)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(st.Size())/benchRows, "file-B/row")
		})
	}
}

// BenchmarkByPath is what status costs for one tenant.
func BenchmarkByPath(b *testing.B) {
	b.Run(fmt.Sprint("rows=", benchRows), func(b *testing.B) {
		dir := b.TempDir()
		benchRegistry(b, dir)
		r, err := registry.OpenReader(b.Context(), dir)
		if err != nil {
			b.Fatal(err)
		}
		defer r.Close()
		b.ReportAllocs()
		for b.Loop() {
			if _, ok, err := r.ByPath(b.Context(), benchRecord(77).Path); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
}
