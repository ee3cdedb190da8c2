package main

import (
	"context"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/sdnotify"
)

// liveRunner is a runner that can say whether it still works.
type liveRunner interface {
	// Alive returns an error if the runner has not got on until ctx is done.
	Alive(ctx context.Context) error

	// StatusText says in one line what it does.
	StatusText() string
}

var (
	_ liveRunner = (*litestream.Store)(nil)
	_ liveRunner = (*litestream.MultiDBManager)(nil)
)

// service tells systemd how the process is, if systemd has started it. Once it
// runs, the watchdog of systemd hears of it as long as the runner gets on, and
// no longer: a daemon that hangs is killed and started again.
type service struct {
	notifier *sdnotify.Notifier // nil without systemd
	logger   *slog.Logger
	ending   atomic.Bool // the runner is being closed
	cancel   context.CancelFunc
	done     chan struct{} // closed when the watchdog's goroutine has ended
}

// newService reads what systemd asks for. The variables stay as they are: a
// program that -exec starts may have its own things to tell.
func newService(logger *slog.Logger) *service {
	n, err := sdnotify.FromEnvironment(os.Getenv, os.Getpid())
	if err != nil {
		logger.Warn("systemd is told nothing", "error", err)
	}
	return &service{notifier: n, logger: logger}
}

// ready tells that replication has begun, and starts to answer the watchdog.
func (s *service) ready(ctx context.Context, r runner) {
	if s.notifier == nil {
		return
	}
	live, ok := r.(liveRunner)
	states := []string{sdnotify.Ready}
	if ok {
		states = append(states, sdnotify.Status+live.StatusText())
	}
	s.send(ctx, states...)
	timeout := s.notifier.Watchdog()
	if timeout == 0 || !ok {
		return
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		s.answerWatchdog(ctx, live, timeout)
	}()
}

// answerWatchdog speaks up twice in each period of the watchdog, if the runner
// gets on.
func (s *service) answerWatchdog(ctx context.Context, r liveRunner, timeout time.Duration) {
	tick := time.NewTicker(timeout / 2)
	defer tick.Stop()
	for {
		if states := s.look(ctx, r, timeout/2); len(states) > 0 {
			s.send(ctx, states...)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look returns what the watchdog is to hear. While the runner is being closed
// it is told without a look: shutdown-timeout and systemd's TimeoutStopSec
// bound that.
func (s *service) look(ctx context.Context, r liveRunner, patience time.Duration) []string {
	if s.ending.Load() {
		return []string{sdnotify.Alive}
	}
	look, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := r.Alive(look)
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil || s.ending.Load(): // closing stops what was asked
		return []string{sdnotify.Alive, sdnotify.Status + r.StatusText()}
	}
	s.logger.Error("replication hangs: systemd's watchdog is not answered", "error", err)
	return nil
}

// reloading tells that the configuration is being read again. reloaded follows,
// whatever comes of it.
func (s *service) reloading(ctx context.Context) {
	if s.notifier != nil {
		s.send(ctx, sdnotify.Reloading, sdnotify.Monotonic())
	}
}

// reloaded tells that what runs is in order again.
func (s *service) reloaded(ctx context.Context) {
	if s.notifier != nil {
		s.send(ctx, sdnotify.Ready)
	}
}

// stopping tells that the process is about to end.
func (s *service) stopping(ctx context.Context) {
	if s.notifier != nil && !s.ending.Swap(true) {
		s.send(ctx, sdnotify.Stopping, sdnotify.Status+"syncing a last time")
	}
}

// close ends the answers to the watchdog.
func (s *service) close() {
	if s.cancel != nil {
		s.cancel()
		<-s.done
	}
}

// send tells systemd. That it cannot be told is no reason to stop.
func (s *service) send(ctx context.Context, states ...string) {
	if err := s.notifier.Send(ctx, states...); err != nil && ctx.Err() == nil {
		s.logger.Warn("systemd cannot be told", "states", states, "error", err)
	}
}
