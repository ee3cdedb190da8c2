package litestream_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

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

// A listing of a folder that is written to, or one of several pages, may miss a
// file and have a newer one. That each misses another one is no damage; what
// two in a row miss is.
func TestVerify_FalseGap(t *testing.T) {
	for _, tt := range []struct {
		name   string
		hidden []ltx.TXID // by the first listing, the second and so on
		lists  int
		state  litestream.VerifyState
	}{
		{name: "seen at once", lists: 1, state: litestream.VerifyOK},
		{name: "seen by the second", hidden: []ltx.TXID{3}, lists: 2, state: litestream.VerifyOK},
		{name: "another one unseen", hidden: []ltx.TXID{3, 4, 2}, lists: 4, state: litestream.VerifyOK},
		{name: "missing", hidden: []ltx.TXID{3, 3, 3, 3}, lists: 2, state: litestream.VerifyMissingLost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := newMemReplica()
			newSource(t, client, 1024, false).fill(5)
			client.onList = func(info *ltx.FileInfo) bool {
				listing := (client.lists - 1) / 10 // one request per level
				return info.Level != 0 || listing >= len(tt.hidden) || info.MinTXID != tt.hidden[listing]
			}
			var opt litestream.VerifyOptions
			opt.SetKnobs(time.Nanosecond, litestream.RestoreKnobs{ChunkBytes: 1 << 20, Stall: time.Minute})
			res, err := litestream.Verify(t.Context(), client, opt)
			if err != nil || res.State != tt.state || client.lists != 10*tt.lists {
				t.Errorf("%s: %s after %d lists, err=%v; want %s after %d of each level", res.State, res.Summary(), client.lists, err, tt.state, tt.lists)
			}
		})
	}
}
