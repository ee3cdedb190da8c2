package litestream

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// FleetRestoreSample is what a few databases took to read.
type FleetRestoreSample struct {
	Databases int
	Failed    int           // of these
	Fetched   int64         // bytes of their files
	Size      int64         // bytes of the databases, as far as they are known
	Elapsed   time.Duration // with FleetRestoreOptions.Parallelism of them at a time
}

// Sample reads the files of up to n databases, spread over the order, for at
// most a time, and writes nothing: it is how long a restore may take that is
// asked for, before there is one. It comes after Load.
func (r *FleetRestore) Sample(ctx context.Context, n int, limit time.Duration) FleetRestoreSample {
	n = min(n, len(r.items))
	runCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	var next, done, failed, fetched, size atomic.Int64
	var wg sync.WaitGroup
	for range min(r.opt.Parallelism, n) {
		wg.Go(func() {
			for runCtx.Err() == nil {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				e, err := r.entry(r.items[i*int64(len(r.items))/int64(n)])
				if err != nil {
					return
				}
				bytes, err := r.read(runCtx, e)
				if runCtx.Err() != nil {
					return // half of a database tells nothing
				}
				done.Add(1)
				fetched.Add(bytes)
				size.Add(e.Size)
				if err != nil {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return FleetRestoreSample{
		Databases: int(done.Load()), Failed: int(failed.Load()), Fetched: fetched.Load(), Size: size.Load(), Elapsed: time.Since(begin),
	}
}

// read fetches the files of one database.
func (r *FleetRestore) read(ctx context.Context, e *FleetRestoreEntry) (n int64, err error) {
	if e.Problem != "" {
		return 0, fmt.Errorf("%s", e.Problem)
	}
	rs, err := r.plan(ctx, e, &FleetRestoreRow{}, nil)
	if err != nil {
		return 0, err
	}
	for _, info := range rs.files {
		rc, err := rs.client.OpenLTXFile(ctx, info.Level, info.MinTXID, info.MaxTXID, 0, 0)
		if err != nil {
			return n, err
		}
		m, err := io.Copy(io.Discard, rc)
		n += m
		if closeErr := rc.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
