package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// notifySignals delivers the signals that stop a command.
func notifySignals() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	return c, func() { signal.Stop(c) }
}

// notifyHangups delivers SIGHUP, which asks a daemon to read its configuration
// again. One that comes while another one waits is the same request.
func notifyHangups() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}

// cancelOnSignal returns a context that the first signal cancels, with a cause
// that is errInterrupted. After that signals have their default effect again,
// so a second one ends a command that hangs. stop must be called.
func (a *app) cancelOnSignal(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	c, stopSignals := a.signals()
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case sig := <-c:
			cancel(fmt.Errorf("%w by %s", errInterrupted, sig))
		case <-ctx.Done():
		}
		stopSignals()
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}
