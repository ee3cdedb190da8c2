// Package faults_test replicates over bad networks to real servers: through
// proxies that delay, cut, swallow, refuse and lie. After each fault nothing is
// lost, and replication has gone on by itself.
package faults_test

import (
	"flag"
	"fmt"
	"os"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	soakFor   = flag.Duration("soak", 0, "how long TestFaultsSoak goes on; its silence lasts longer than a minute")
	seedFlag  = flag.Uint64("seed", 0, "what is random follows from it; 0: another one in each run")
	heapLimit = int64(256 << 20) // of the whole process, which runs two daemons per backend
)

// TestMain fails the run if a test leaves a goroutine behind, or if the heap
// grew above its limit.
func TestMain(m *testing.M) {
	flag.Parse()
	// The daemons wait most of the time.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	dir := inMemory()
	heap := watchHeap()
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent(), goleak.Cleanup(func(code int) {
		if most := heap(); most > heapLimit {
			fmt.Fprintf(os.Stderr, "the heap grew to %d MB, want at most %d\n", most>>20, heapLimit>>20)
			code = 1
		} else if testing.Verbose() {
			fmt.Printf("the heap grew to %d MB\n", most>>20)
		}
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// inMemory lets everything lie in memory, where that is possible: how fast a
// disk is says nothing here.
func inMemory() (dir string) {
	root := "/dev/shm"
	if st, err := os.Stat(root); err != nil || !st.IsDir() {
		root = ""
	}
	dir, err := os.MkdirTemp(root, "litestream-faults-")
	if err == nil {
		err = os.Setenv("TMPDIR", dir)
	}
	check(err)
	return dir
}

// watchHeap samples the heap until the returned function is called, which
// returns the most that lived, with what was not collected yet, in bytes.
func watchHeap() (stop func() int64) {
	var wg sync.WaitGroup
	done, most := make(chan struct{}), int64(0)
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(sample)
			most = max(most, int64(sample[0].Value.Uint64()))
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() int64 {
		close(done)
		wg.Wait()
		return most
	}
}
