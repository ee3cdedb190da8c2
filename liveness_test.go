package litestream_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
)

// alive asks once, for so long.
func alive(t *testing.T, ask func(context.Context) error, timeout time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return ask(ctx)
}

// An idle store is alive at once, whatever it waits for.
func TestStore_Alive(t *testing.T) {
	store := litestream.NewStore(nil, nil)
	store.Logger = slog.New(slog.DiscardHandler)
	if err := store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := alive(t, store.Alive, 10*time.Second); err != nil {
			t.Error(err)
		}
	}
	if got, want := store.StatusText(), "replicating 0 databases"; got != want {
		t.Errorf("StatusText()=%q, want %q", got, want)
	}
	if err := store.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := alive(t, store.Alive, 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), "has not got on") {
		t.Errorf("closed store: error=%v, want one", err)
	}
}

// A manager is alive while its replicas hang, and not while its loop does.
func TestMultiDBManager_Alive(t *testing.T) {
	f := newMemFleet(t)
	appWith(t, f.path("a.db"), 1)
	stuck, release := make(chan struct{}), make(chan struct{})
	f.setup = func(m *litestream.MultiDBManager) {
		m.SetNow(func() time.Time { // asked in each round of the loop
			select {
			case <-stuck:
				<-release
			default:
			}
			return time.Now()
		})
	}
	f.hang.Store(true)
	f.open()
	if err := alive(t, f.m.Alive, 10*time.Second); err != nil {
		t.Error(err)
	}
	if got, want := f.m.StatusText(), "replicating 0 databases; 1 found by pattern:"; !strings.Contains(got, want) {
		t.Errorf("StatusText()=%q, want %q", got, want)
	}
	close(stuck)
	// The loop may come round once more before it asks for the time.
	waitFor(t, "the loop to be found stuck", func() bool {
		err := alive(t, f.m.Alive, 200*time.Millisecond)
		return err != nil && strings.Contains(err.Error(), "loop that scans for databases has not got on")
	})
	close(release)
	if err := alive(t, f.m.Alive, 10*time.Second); err != nil {
		t.Error(err)
	}
	f.hang.Store(false)
	f.close()
}
