package litestream_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/knob"
)

// A fleet that is written to, merged and pruned all the time is verified again
// and again, at each level: there is no false alarm.
func TestVerify_NoFalseAlarm(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	levels := litestream.CompactionLevels{{Level: 0}, {Level: 1, Interval: 50 * time.Millisecond}, {Level: 2, Interval: 400 * time.Millisecond}}
	const l0Retention, snapshotRetention = 300 * time.Millisecond, 2 * time.Second
	f.setup = func(m *litestream.MultiDBManager) {
		m.Levels, m.L0Retention, m.SnapshotRetention, m.SnapshotInterval = levels, l0Retention, snapshotRetention, time.Second
		m.Tune(knob.Fleet{Grace: 300 * time.Millisecond})
	}
	f.rested(3)
	f.open()
	defer f.close()
	f.replicated()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	names := []string{"t000", "t001", "t002"}
	for _, name := range names {
		app := openApp(t, f.path(name+".db"), "_journal_mode=wal")
		wg.Go(func() {
			pause := time.NewTicker(15 * time.Millisecond)
			defer pause.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := app.ExecContext(ctx, "INSERT INTO t VALUES (?)", i); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
			}
		})
	}
	dir := t.TempDir()
	read, looks := 0, 0
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end) && !t.Failed(); looks++ {
		name := names[looks%len(names)]
		opt := litestream.VerifyOptions{
			Level:       litestream.VerifyLevel(looks / len(names) % 4),
			Promise:     &litestream.VerifyPromise{Levels: levels, SnapshotRetention: snapshotRetention, L0Retention: l0Retention, Tenant: true},
			ScratchPath: filepath.Join(dir, fmt.Sprint(looks, ".db")),
			Expect: func(context.Context) ([]litestream.VerifyExpectation, error) {
				info, err := f.m.Tenant(f.path(name + ".db"))
				return []litestream.VerifyExpectation{{Source: "registry", TXID: info.TXID, At: info.SyncedAt}}, err
			},
		}
		opt.SetKnobs(5*time.Millisecond, litestream.RestoreKnobs{ChunkBytes: 1 << 20, RetryDelays: []time.Duration{1}, Stall: time.Minute})
		res, err := litestream.Verify(t.Context(), f.client(name), opt)
		if err != nil {
			t.Logf("%s at %s: %v", name, opt.Level, err) // it moves too fast; that is no alarm
			continue
		}
		if diff := cmp.Diff(litestream.VerifyOK, res.State); diff != "" {
			t.Errorf("%s at %s: %s", name, opt.Level, res.Summary())
		}
		read += res.FilesRead
	}
	t.Logf("%d looks, %d files read", looks, read)
	if read == 0 {
		t.Error("no file was read")
	}
}
