package sftp_test

import (
	"bytes"
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
)

// BenchmarkWrite stores small files, one writer in each folder.
func BenchmarkWrite(b *testing.B) {
	for _, writers := range []int{1, 32} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			srv := servers.SSHD(b)
			base := newClient(b, configOf(srv, ""))
			data := replicatest.File(b, 1, 1, 4000, 0)
			store := func(c, i int) error {
				_, err := base.WithPrefix(path.Join(srv.Dir, fmt.Sprint(c))).(interface {
					litestream.ExclusiveWriter
				}).WriteLTXFileExclusive(b.Context(), 0, ltx.TXID(i), ltx.TXID(i), bytes.NewReader(data))
				return err
			}
			var wg sync.WaitGroup
			var next atomic.Int64
			b.ResetTimer()
			for c := range writers {
				wg.Go(func() {
					for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
						if err := store(c, i); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "files/s")
		})
	}
}
