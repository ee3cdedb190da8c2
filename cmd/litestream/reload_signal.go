package main

import (
	"context"
	"os"
	"time"
)

// listenHangups begins to take SIGHUP for a request to reload, unless there is
// nothing to read again: then the signal ends the process, as it always has.
func (r *replication) listenHangups() (c <-chan os.Signal, stop func()) {
	if !r.fromFile || r.opts.once || r.app.hangups == nil {
		return nil, func() {}
	}
	return r.app.hangups()
}

// startReloader lets the configuration be changed from now on. A signal that
// came before is obeyed now.
func (r *replication) startReloader(ctx context.Context, hangups <-chan os.Signal) {
	if !r.fromFile || r.opts.once {
		return
	}
	l := newReloader(ctx, r.cfg, r.runner, r.logger)
	if l == nil {
		return
	}
	l.read = func() (*Config, error) { return r.opts.config(r.app, nil) }
	l.level, l.service = r.level, r.service
	l.heartbeat = func(ctx context.Context, cfg *Config) {
		r.heartbeat.Close()
		r.startHeartbeat(ctx, cfg)
	}
	r.reloader = l
	l.served = make(chan struct{})
	go func() {
		defer close(l.served)
		l.serve(hangups)
	}()
}

// end gives a reload up that is under way, and waits until no signal is obeyed
// any more.
func (l *reloader) end() {
	if l == nil {
		return
	}
	l.stop()
	select {
	case <-l.served:
	case <-time.After(closeGrace):
	}
}

// config returns the configuration in force. It must not be changed.
func (r *replication) config() *Config {
	if r.reloader != nil {
		return r.reloader.config()
	}
	return r.cfg
}

// serve reloads at each signal until the process has ended its work.
func (l *reloader) serve(hangups <-chan os.Signal) {
	for {
		select {
		case <-hangups:
			l.logger.Info("SIGHUP received, reading the configuration again")
			_, _ = l.reload(l.base, false) // the log has told of it
		case <-l.base.Done():
			return
		}
	}
}
