package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/control"
)

// runner is what replicate keeps running: the store of all databases.
type runner interface {
	// Open starts it. On error nothing is left running.
	Open(ctx context.Context) error

	// Close syncs every database a last time and stops. It returns soon after
	// ctx ends, with an error if something was not synced.
	Close(ctx context.Context) error

	// SyncOnce, in place of Open, syncs every database and its replica once.
	SyncOnce(ctx context.Context, opts litestream.SyncOnceOptions) error

	// CheckHealth returns why not everything counts as replicated.
	CheckHealth(maxAge time.Duration) error
}

// closeGrace is how long a runner may take to return after its context ended.
const closeGrace = 2 * time.Second

// replication is one run of the replicate command.
type replication struct {
	app    *app
	cfg    *Config
	opts   *replicateOptions
	child  []string // words of the exec command; empty for none
	logger *slog.Logger
	level  *slog.LevelVar // of logger

	fromFile bool // the databases are those of a configuration file

	runner    runner
	service   *service
	reloader  *reloader       // nil where there is nothing to read again
	control   *control.Server // nil without a control socket
	heartbeat *litestream.Heartbeat
	signals   <-chan os.Signal
	stopped   bool // a signal asked for the end
}

// run replicates until a signal, the end of the child or, with -once, the end
// of the pass.
func (r *replication) run(ctx context.Context) error {
	signals, stop := r.app.signals()
	defer stop()
	r.signals = signals
	hangups, stopHangups := r.listenHangups()
	defer stopHangups()
	r.service = newService(r.logger)
	defer r.service.close()

	registry := newMetricsRegistry()
	if err := r.open(ctx, registry); r.stopped && !r.opts.once && errors.Is(err, errInterrupted) {
		r.logger.Info("litestream shut down")
		return nil
	} else if err != nil {
		return err
	}
	metrics := newMetricsServer(r.cfg.Addr, registry, r.logger)
	metrics.open(ctx)
	r.startHeartbeat(ctx, r.cfg)
	r.startReloader(ctx, hangups)
	defer r.reloader.end()
	r.openControl(ctx)
	mcp := r.startMCP(ctx)
	r.service.ready(ctx, r.runner)

	err := r.work(ctx)
	r.service.stopping(ctx)
	r.reloader.refuse()
	r.heartbeat.Close()
	r.closeControl(ctx, errors.Is(err, errAborted))
	closeMCP(mcp, r.logger)
	switch {
	case errors.Is(err, errAborted):
	case err != nil && r.opts.once:
		r.release(ctx)
	default:
		err = errors.Join(err, r.shutdown(ctx))
	}
	metrics.close()
	if err == nil {
		r.logger.Info("litestream shut down")
	}
	return err
}

// startHeartbeat begins to tell a monitoring service that all is well, if one
// is configured. A single pass does not: it ends before anything is due.
func (r *replication) startHeartbeat(ctx context.Context, cfg *Config) {
	h := &litestream.Heartbeat{
		URL:      cfg.HeartbeatURL,
		Interval: orDefault(cfg.HeartbeatInterval, litestream.DefaultHeartbeatInterval),
		Check:    r.runner.CheckHealth,
		Logger:   r.logger.With("system", "store"),
	}
	if h.URL != "" && !r.opts.once {
		h.Open(ctx)
	}
	r.heartbeat = h
}

// open restores what is missing and starts the runner. A signal cancels it.
func (r *replication) open(ctx context.Context, registry prometheus.Registerer) error {
	return r.interruptible(ctx, func(ctx context.Context) error {
		if err := r.restoreMissing(ctx); err != nil {
			return err
		}
		runner, err := r.app.newRunner(ctx, r.cfg, registry, r.logger)
		if err != nil {
			return err
		}
		r.runner = runner
		if r.opts.once {
			return nil
		}
		return runner.Open(ctx)
	})
}

// interruptible runs f and cancels it at the first signal. If f ends because
// of that, the error is errInterrupted.
func (r *replication) interruptible(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		return err
	case sig := <-r.signals:
		r.stop(sig)
		cancel(fmt.Errorf("%w by %s", errInterrupted, sig))
	}
	select {
	case err := <-done:
		if errors.Is(err, context.Canceled) {
			return context.Cause(ctx)
		}
		return err
	case sig := <-r.signals:
		return fmt.Errorf("%w: second signal, %s", errAborted, sig)
	}
}

// stop notes the first signal.
func (r *replication) stop(sig os.Signal) {
	r.stopped = true
	r.logger.Info("signal received, litestream shutting down", "signal", sig)
}

// errAborted ends the program without a shutdown.
var errAborted = errors.New("shutdown interrupted")

// work waits for what ends the run.
func (r *replication) work(ctx context.Context) error {
	switch {
	case r.stopped && r.opts.once: // the signal came while the runner was opening
		return errInterrupted
	case r.stopped:
		return nil
	case r.opts.once:
		err := r.interruptible(ctx, func(ctx context.Context) error {
			return r.runner.SyncOnce(ctx, r.opts.onceOptions)
		})
		if err == nil {
			r.logger.Info("one-shot replication complete")
		}
		return err
	case len(r.child) > 0:
		return r.runChild(ctx)
	default:
		r.stop(<-r.signals)
		return nil
	}
}

// runChild starts the child, hands signals on to it and returns when it ended.
// Its status is an error, unless it died from the signal that was handed on.
func (r *replication) runChild(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, r.child[0], r.child[1:]...)
	cmd.Env = os.Environ()
	cmd.Stdout, cmd.Stderr = r.app.stdout, r.app.stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start exec command: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		r.logger.Info("subprocess exited, litestream shutting down")
		return err
	case sig := <-r.signals:
		r.stop(sig)
		if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			r.logger.Error("cannot signal exec process", "error", err)
		}
	}
	select {
	case err := <-done:
		if exit := new(exec.ExitError); errors.As(err, &exit) && !exit.Exited() {
			return nil
		} else if err != nil {
			return fmt.Errorf("cannot wait for exec process: %w", err)
		}
		return nil
	case sig := <-r.signals:
		_ = cmd.Process.Kill() // it may have ended by itself meanwhile
		<-done                 //nolint:errcheck // it says that the child was killed
		return fmt.Errorf("%w: second signal, %s, while the exec process was stopping", errAborted, sig)
	}
}

// release closes the runner after a pass that failed. What could not be synced
// is named already, and is not tried for another time.
func (r *replication) release(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if err := r.runner.Close(ctx); err != nil {
		r.logger.Debug("close after a failed pass", "error", err)
	}
}

// shutdown closes the runner within the limit of the configuration. A signal
// aborts it.
func (r *replication) shutdown(ctx context.Context) error {
	limit := r.config().shutdownTimeout
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		r.reloader.wait(ctx)
		done <- r.runner.Close(ctx)
	}()
	select {
	case err := <-done:
		return err
	case sig := <-r.signals:
		return fmt.Errorf("%w by %s", errAborted, sig)
	case <-ctx.Done():
	}
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		return fmt.Errorf("shutdown did not finish within %s: %w", limit, err)
	case <-grace.C:
		return fmt.Errorf("shutdown did not finish within %s", limit)
	}
}

// restoreMissing restores the databases that do not exist, where the
// configuration asks for it, before anything is opened.
func (r *replication) restoreMissing(ctx context.Context) error {
	for _, db := range r.cfg.DBs {
		if !db.RestoreIfDBNotExists {
			continue
		}
		client, err := newReplicaClient(db.Replica)
		if err != nil {
			return err
		}
		client.SetLogger(r.logger)
		if err := restoreIfMissing(ctx, db, client, r.logger); err != nil {
			return err
		}
	}
	return nil
}

// restoreIfMissing restores a database that does not exist from its replica. A
// replica without backups is no error: replication then starts afresh.
func restoreIfMissing(ctx context.Context, db *DBConfig, client litestream.ReplicaClient, logger *slog.Logger) error {
	if _, err := os.Stat(db.Path); err == nil {
		logger.Info("database exists, skipping restore", "path", db.Path)
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("check database: %w", err)
	}
	logger.Info("attempting restore before replication", "path", db.Path)
	opt := litestream.NewRestoreOptions()
	opt.OutputPath = db.Path
	opt.LedgerPath = litestream.LedgerPath(db.MetaPath)
	opt.LedgerReplica = litestream.ReplicaIdentity(client)
	opt.Logger = logger
	_, err := litestream.Restore(ctx, client, opt)
	if errors.Is(err, litestream.ErrNoBackups) {
		logger.Info("no backup found, starting fresh", "path", db.Path)
		return nil
	} else if err != nil {
		return fmt.Errorf("restore %s: %w", db.Path, err)
	}
	logger.Info("restore completed", "path", db.Path)
	return nil
}
