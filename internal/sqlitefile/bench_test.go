package sqlitefile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// BenchmarkInUse asks about a database that another process has open, in a
// process with so many descriptors.
func BenchmarkInUse(b *testing.B) {
	for _, n := range []int{10, 300, 2000} {
		b.Run(fmt.Sprintf("descriptors=%d", n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "db")
			c := startChild(b, path)
			c.exec("PRAGMA journal_mode=wal", "CREATE TABLE t(b)")
			f, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			for i := range n {
				other, err := os.Create(filepath.Join(b.TempDir(), fmt.Sprint(i)))
				if err != nil {
					b.Fatal(err)
				}
				defer other.Close()
			}
			for b.Loop() {
				if used, err := sqlitefile.InUse(f); used || err != nil {
					b.Fatalf("used=%v err=%v", used, err)
				}
			}
		})
	}
}
