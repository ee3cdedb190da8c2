package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/control"
)

// errShuttingDown refuses a reload at the end of the process.
var errShuttingDown = errors.New("litestream is shutting down: nothing was reloaded")

// errNothingLeft refuses a file that would end all replication: it is empty, or
// somebody is writing it just now.
var errNothingLeft = errors.New("the file names no database any more: to end all replication stop litestream, to end it for one database unregister that")

// hasDatabases reports whether anything is to be replicated.
func (c *Config) hasDatabases() bool {
	return len(c.DBs)+len(c.Dirs) > 0 || c.MultiDB != nil && c.MultiDB.Enabled
}

// reloader changes the configuration of a running daemon to what its file says
// by now. Reloads are done one after the other. Its methods are safe for
// concurrent use.
type reloader struct {
	read    func() (*Config, error) // the file, checked
	logger  *slog.Logger
	level   *slog.LevelVar
	service *service

	store *litestream.Store
	fleet *litestream.MultiDBManager // nil without multi-db

	// heartbeat starts another heartbeat in place of the one that runs.
	heartbeat func(ctx context.Context, cfg *Config)

	turn   chan struct{}   // holds a token while a reload is under way
	base   context.Context // done when the process has no more time for it
	stop   context.CancelFunc
	served chan struct{} // closed when no signal is obeyed any more

	mu      sync.Mutex // guards what follows
	cfg     *Config    // in force
	closing bool
}

// newReloader returns a reloader for what was started with a configuration, or
// nil for a runner that cannot be changed.
func newReloader(ctx context.Context, cfg *Config, r runner, logger *slog.Logger) *reloader {
	l := &reloader{cfg: cfg, logger: logger, turn: make(chan struct{}, 1)}
	l.base, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	switch r := r.(type) {
	case *litestream.Store:
		l.store = r
	case *litestream.MultiDBManager:
		l.store, l.fleet = r.Store(), r
	default:
		return nil
	}
	return l
}

// config returns the configuration in force. It must not be changed.
func (l *reloader) config() *Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cfg
}

// refuse keeps reloads from beginning, because the process is about to end.
func (l *reloader) refuse() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = true
}

// wait returns when no reload is under way. After ctx one is given up.
func (l *reloader) wait(ctx context.Context) {
	if l == nil {
		return
	}
	defer l.stop()
	select {
	case l.turn <- struct{}{}:
		<-l.turn
	case <-ctx.Done():
	}
}

// reload reads the file and, unless it is a dry run, changes what runs. Until
// that begins ctx ends it; then it goes on to its end. An error before it has
// begun leaves everything as it is.
func (l *reloader) reload(ctx context.Context, dryRun bool) (control.ReloadReport, error) {
	select {
	case l.turn <- struct{}{}:
	default:
		select {
		case l.turn <- struct{}{}:
		case <-ctx.Done():
			return control.ReloadReport{}, fmt.Errorf("wait for another reload: %w", context.Cause(ctx))
		}
	}
	defer func() { <-l.turn }()
	if err := l.begin(); err != nil {
		return control.ReloadReport{}, err
	}
	if dryRun {
		plan, _, err := l.plan(ctx)
		if err != nil {
			return control.ReloadReport{}, err
		}
		return plan.report(false), nil
	}
	l.service.reloading(ctx)
	defer l.service.reloaded(context.WithoutCancel(ctx))
	report, err := l.change(ctx)
	if err != nil {
		l.logger.Error("reload", "error", err)
	}
	return report, err
}

func (l *reloader) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return errShuttingDown
	}
	return nil
}

// change carries out what is planned and tells of it in the log.
func (l *reloader) change(ctx context.Context) (control.ReloadReport, error) {
	plan, added, err := l.plan(ctx)
	if err != nil {
		return control.ReloadReport{}, fmt.Errorf("the old configuration stays in force: %w", err)
	}
	for _, c := range plan.changes {
		l.logger.Info("configuration change", "action", c.Action, "what", c.What, "path", c.Path, "detail", c.Detail)
	}
	if err := l.restoreMissing(ctx, plan.added); err != nil {
		return control.ReloadReport{}, fmt.Errorf("the old configuration stays in force: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(l.base, cancel)() //nolint:contextcheck // the end of the process ends it
	err = l.apply(ctx, plan, added)
	l.logger.Info("configuration reloaded", "changes", len(plan.changes))
	if err != nil {
		err = fmt.Errorf("the new configuration is in force, but not all went well: %w", err)
	}
	return plan.report(true), err
}

func (p *reloadPlan) report(applied bool) control.ReloadReport {
	return control.ReloadReport{Changes: append([]control.ReloadChange{}, p.changes...), Applied: applied}
}

// plan reads the file and checks all that can be checked before something is
// changed. It returns the databases that come, too.
func (l *reloader) plan(ctx context.Context) (*reloadPlan, []*litestream.DB, error) {
	to, err := l.read()
	if err != nil {
		return nil, nil, err
	}
	running := l.running()
	if running.hasDatabases() && !to.hasDatabases() {
		return nil, nil, errNothingLeft
	}
	plan, err := planReload(running, to)
	if err != nil {
		return nil, nil, err
	}
	added := make([]*litestream.DB, 0, len(plan.added))
	var errs []error
	for _, dc := range plan.added {
		db, err := newDB(ctx, plan.inForce, dc, l.logger)
		if err == nil {
			err = db.Open(ctx) // checks its settings
		}
		added = append(added, db)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	return plan, added, errors.Join(l.conflicts(plan, added), plan.checkDirs(ctx), l.checkFleet(ctx, plan))
}

// running is the configuration in force without the databases that somebody
// took out of it over the control socket.
func (l *reloader) running() *Config {
	cfg := *l.config()
	var dbs []*DBConfig
	for _, db := range cfg.DBs {
		if l.store.FindReplica(db.Path) != nil {
			dbs = append(dbs, db)
		}
	}
	cfg.DBs = dbs
	return &cfg
}

// conflicts finds databases that were registered over the control socket and
// that the file has by now in its own way.
func (l *reloader) conflicts(plan *reloadPlan, added []*litestream.DB) error {
	stays := make(map[string]string) // by destination
	var errs []error
	for _, info := range l.store.DBInfos() {
		if r := l.store.FindReplica(info.Path); r != nil && !plan.leaves(info.Path) {
			stays[redactedLocation(r.Client)] = info.Path
		}
	}
	for i, db := range added {
		dc := plan.added[i]
		if l.store.FindReplica(db.Path()) != nil && !plan.leaves(db.Path()) {
			errs = append(errs, &configError{
				Field: dc.field("path"), Line: dc.keyLine("path"), Got: db.Path(),
				Reason: "the database was registered over the control socket: unregister it first",
			})
		} else if other, ok := stays[redactedLocation(db.Replica.Client)]; ok {
			errs = append(errs, &configError{
				Field: dc.field("replica"), Line: dc.Replica.line, Got: redactedLocation(db.Replica.Client),
				Reason: fmt.Sprintf("database %s has the same replica destination: they would overwrite each other", other),
			})
		}
	}
	return errors.Join(errs...)
}

// restoreMissing restores the databases that come, are not there, and are to be
// restored then.
func (l *reloader) restoreMissing(ctx context.Context, added []*DBConfig) error {
	for _, dc := range added {
		if !dc.RestoreIfDBNotExists {
			continue
		}
		client, err := newReplicaClient(dc.Replica)
		if err != nil {
			return err
		}
		client.SetLogger(l.logger)
		if err := restoreIfMissing(ctx, dc, client, l.logger); err != nil {
			return err
		}
	}
	return nil
}

// apply changes what runs. All has been checked: what still can go wrong is the
// last sync of a database that leaves. It is let go all the same, nothing is
// taken back, and the error tells.
func (l *reloader) apply(ctx context.Context, plan *reloadPlan, added []*litestream.DB) error {
	errs := append(l.remove(ctx, plan.removed), l.applyDirs(ctx, plan, false))
	// A database may go from dbs to a pattern, or back.
	if err := l.applyFleet(ctx, plan); err != nil {
		errs = append(errs, err)
		if errors.Is(err, litestream.ErrSettingsKept) {
			plan.inForce.MultiDB = l.config().MultiDB
		}
	}
	errs = append(errs, l.applyDirs(ctx, plan, true))
	for i, db := range added {
		if err := l.store.AddDB(ctx, db); err != nil {
			errs = append(errs, err)
			continue
		}
		l.logger.Info("initialized db", "path", db.Path())
		l.logger.Info("replicating to", plan.added[i].Replica.logArgs(db.Replica.Client)...)
	}
	if plan.changesLive(storeKeys...) {
		errs = append(errs, l.store.Reconfigure(plan.inForce.storeSettings()))
	}
	if plan.changesLive("logging.level") {
		l.level.Set(logLevel(plan.inForce.Logging))
	}
	l.mu.Lock()
	l.cfg = plan.inForce
	if plan.changesLive("heartbeat-url", "heartbeat-interval") && !l.closing {
		l.heartbeat(ctx, plan.inForce)
	}
	l.mu.Unlock()
	return errors.Join(errs...)
}

// maxParallelRemovals bounds how many databases are synced a last time at once.
const maxParallelRemovals = 32

// remove lets go of databases, each after a last sync.
func (l *reloader) remove(ctx context.Context, dbs []*DBConfig) []error {
	errs := make([]error, len(dbs))
	places := make(chan struct{}, maxParallelRemovals)
	var wg sync.WaitGroup
	for i, db := range dbs {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			errs[i] = l.store.RemoveDB(ctx, db.Path)
		})
	}
	wg.Wait()
	return errs
}
