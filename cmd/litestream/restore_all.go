package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/registry"
)

// exitPartial is the status when a part of what was asked for is done.
const exitPartial = 2

// partialError ends the command with exitPartial.
type partialError struct{ error }

// missingDB is a database that is known to have been replicated, and whose file
// is not there.
type missingDB struct {
	path   string
	goneAt time.Time // when its deletion was noticed; zero: it was not
	listed *DBConfig // entry of dbs; nil: found by pattern
}

// allMissing is one run of restore -all-missing.
type allMissing struct {
	app    *app
	o      *restoreOptions
	cfg    *Config
	logger *slog.Logger
	line   *progressLine

	known    int    // databases that were asked about
	source   string // where those of multi-db are known from
	unclear  int    // replicas that do not tell their database
	missing  []missingDB
	restored int
	skipped  int // without a backup, where that is allowed
	failures []restoreFailure
}

type restoreFailure struct {
	DBPath string `json:"db_path"`
	Error  string `json:"error"`
}

// checkAllMissing finds flags that do not go together with -all-missing.
func (o *restoreOptions) checkAllMissing(args []string) error {
	var bad string
	switch {
	case len(args) > 0:
		return fmt.Errorf("cannot specify %s with -all-missing", args[0])
	case o.opt.OutputPath != "":
		bad = "-o"
	case o.opt.TXID != 0:
		bad = "-txid"
	case o.opt.Force:
		bad = "-force"
	case o.opt.Follow:
		bad = "-f"
	default:
		return o.check()
	}
	return fmt.Errorf("cannot specify %s with -all-missing", bad)
}

// restoreAllMissing restores every database of the configuration whose file is
// missing: those of dbs, and those of multi-db that the registry knows, or else
// a listing of the replica.
func (a *app) restoreAllMissing(ctx context.Context, o *restoreOptions) error {
	cfg, err := o.conf.read(a)
	if err != nil {
		return err
	}
	if o.hostname != "" && cfg.MultiDB != nil {
		if err := cfg.MultiDB.setHostname(o.hostname); err != nil {
			return err
		}
	}
	r := &allMissing{app: a, o: o, cfg: cfg, line: newProgressLine(a.stderr)}
	defer r.line.clear()
	out := a.stdout
	if o.asJSON || o.dryRun || cfg.Logging.Stderr {
		out = a.stderr
	}
	r.logger = newLogger(r.line.wrap(out), cfg.Logging)
	ctx, stop := a.cancelOnSignal(ctx)
	defer stop()
	if err := r.find(ctx); err != nil {
		return err
	}
	if o.dryRun {
		return r.print()
	}
	start := time.Now()
	r.restoreAll(ctx)
	r.line.clear()
	return r.report(ctx, time.Since(start))
}

// find lists what is missing.
func (r *allMissing) find(ctx context.Context) error {
	for _, db := range r.cfg.DBs {
		if db.Path == "" {
			continue
		}
		if err := r.add(missingDB{path: db.Path, listed: db}); err != nil {
			return err
		}
	}
	if r.cfg.MultiDB == nil {
		return nil
	}
	n, err := r.findRegistered(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || n > 0 {
		return err
	}
	if err := r.findListed(ctx); err != nil {
		return fmt.Errorf("no registry in %s tells which databases there were, and a listing of the replica cannot: %w",
			r.cfg.MultiDB.StateDir, err)
	}
	return nil
}

// add takes note of a database, if its file is missing.
func (r *allMissing) add(m missingDB) error {
	r.known++
	if _, err := os.Lstat(m.path); errors.Is(err, fs.ErrNotExist) {
		r.missing = append(r.missing, m)
	} else if err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	return nil
}

// findRegistered asks the registry.
func (r *allMissing) findRegistered(ctx context.Context) (n int, err error) {
	var records []missingDB
	err = readRegistry(ctx, r.cfg.MultiDB.StateDir, func(reg *registry.Reader) error {
		records = records[:0] // of an attempt that was disturbed
		return reg.Load(ctx, func(rec *registry.Record) error {
			records = append(records, missingDB{path: rec.Path, goneAt: rec.GoneAt})
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	r.source = "registry"
	for _, m := range records {
		if _, err := r.cfg.MultiDB.tenants.Lookup(m.path); err != nil {
			continue // no pattern stands for it any more
		}
		if err := r.add(m); err != nil {
			return 0, err
		}
	}
	return len(records), nil
}

// findListed lists the replica and asks the template which databases the
// replicas in it belong to.
func (r *allMissing) findListed(ctx context.Context) error {
	c := r.cfg.MultiDB
	if err := c.tenants.Invertible(); err != nil {
		return err
	}
	_, root, err := c.manager()
	if err != nil {
		return err
	}
	lister, ok := root.(litestream.ReplicaLister)
	if !ok {
		return fmt.Errorf("replicas of type %s are not listed", root.Type())
	}
	if err := root.Init(ctx); err != nil {
		return err
	}
	folder, err := c.rootFolder()
	if err != nil {
		return err
	}
	r.source = "replica"
	seen := make(map[string]bool)
	return lister.Replicas(ctx, func(rel string) error {
		replicaPath := path.Join(folder, rel)
		if seen[replicaPath] {
			return nil
		}
		seen[replicaPath] = true
		r.line.set(fmt.Sprintf("listing: %d replicas", len(seen)))
		t, err := c.tenants.FindReplica(replicaPath)
		switch {
		case errors.Is(err, litestream.ErrNoTenant):
			return nil // not a replica of multi-db
		case err != nil:
			r.unclear++
			r.logger.Warn("a replica does not tell its database: restore it by the database's path, or with -o by its URL", "error", err)
			return nil
		}
		return r.add(missingDB{path: t.Path})
	})
}

// restoreAll restores what is missing, a few at a time.
func (r *allMissing) restoreAll(ctx context.Context) {
	requests := max(r.o.opt.Parallelism, 1)
	workers := min(requests, len(r.missing))
	if workers == 0 {
		return
	}
	todo := make(chan missingDB)
	done := make(chan struct{})
	var mu sync.Mutex // guards the counts of r
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for m := range todo {
				err := r.restoreOne(ctx, m, max(requests/workers, 1))
				mu.Lock()
				r.note(ctx, m, err)
				mu.Unlock()
			}
		})
	}
	go func() {
		defer close(done)
		wg.Wait()
	}()
	r.feed(ctx, todo, &mu)
	<-done
}

// feed hands out the work and tells how far it is.
func (r *allMissing) feed(ctx context.Context, todo chan<- missingDB, mu *sync.Mutex) {
	defer close(todo)
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for i := 0; i < len(r.missing); {
		select {
		case todo <- r.missing[i]:
			i++
			mu.Lock()
			r.line.set(r.progress())
			mu.Unlock()
		case <-tick.C:
			mu.Lock()
			r.logger.Info("restoring", "databases", len(r.missing), "restored", r.restored, "failed", len(r.failures))
			mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

func (r *allMissing) progress() string {
	text := fmt.Sprintf("restored %d of %d databases", r.restored, len(r.missing))
	if n := len(r.failures); n > 0 {
		text += fmt.Sprintf(", %d failed", n)
	}
	return text
}

// note counts one outcome.
func (r *allMissing) note(ctx context.Context, m missingDB, err error) {
	switch {
	case err == nil:
		r.restored++
		r.logger.Debug("restored", "db", m.path)
	case r.o.ifReplicaExists && isNoBackup(err):
		r.skipped++
	case ctx.Err() != nil: // it is missing still, and so tried again next time
	default:
		r.failures = append(r.failures, restoreFailure{m.path, err.Error()})
		r.logger.Error("restore failed", "db", m.path, "error", err)
	}
}

// restoreOne restores one database to its place.
func (r *allMissing) restoreOne(ctx context.Context, m missingDB, requests int) error {
	opt := r.o.opt
	opt.OutputPath, opt.Parallelism, opt.Logger = m.path, requests, slog.New(slog.DiscardHandler)
	var client litestream.ReplicaClient
	var err error
	if m.listed != nil {
		client, err = newReplicaClient(m.listed.Replica)
	} else {
		client, err = r.cfg.tenantClient(m.path, "")
	}
	if err != nil {
		return err
	}
	if m.listed != nil { // nothing is put beside a file of multi-db
		opt.LedgerPath = litestream.LedgerPath(m.listed.MetaPath)
		opt.LedgerReplica = litestream.ReplicaIdentity(client)
	}
	client.SetLogger(opt.Logger)
	_, err = litestream.Restore(ctx, client, opt)
	return err
}

// report prints the outcome, and returns it as an error unless all is there.
func (r *allMissing) report(ctx context.Context, took time.Duration) error {
	left := len(r.missing) - r.restored - r.skipped
	if r.o.asJSON {
		err := writeJSON(r.app.stdout, struct {
			Source     string           `json:"source,omitempty"`
			Known      int              `json:"known"`
			Missing    int              `json:"missing"`
			Restored   int              `json:"restored"`
			Skipped    int              `json:"skipped"`
			Unclear    int              `json:"unclear"`
			DurationMS int64            `json:"duration_ms"`
			Failed     []restoreFailure `json:"failed"`
		}{r.source, r.known, len(r.missing), r.restored, r.skipped, r.unclear, took.Milliseconds(), append([]restoreFailure{}, r.failures...)})
		if err != nil {
			return err
		}
	} else {
		r.logger.Info("restore of missing databases ended", "known", r.known, "missing", len(r.missing),
			"restored", r.restored, "without_backup", r.skipped, "failed", len(r.failures), "duration", took)
	}
	var why []string
	if n := len(r.failures); n > 0 {
		why = append(why, fmt.Sprintf("%d failed, the first is %s: %s", n, r.failures[0].DBPath, r.failures[0].Error))
	}
	if n := left - len(r.failures); n > 0 {
		why = append(why, fmt.Sprintf("%d %s not tried", n, wasWere(n)))
	}
	if r.unclear > 0 {
		why = append(why, fmt.Sprintf("%d replicas do not tell their database", r.unclear))
	}
	if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) {
		why = append(why, "the restore was "+cause.Error()+" and goes on when it is started again")
	}
	if len(why) == 0 {
		return nil
	}
	err := fmt.Errorf("restored %d of %d missing databases: %s", r.restored, len(r.missing), strings.Join(why, "; "))
	if r.restored > 0 {
		return partialError{err}
	}
	return err
}

// print shows what would be restored.
func (r *allMissing) print() error {
	r.line.clear()
	if r.o.asJSON {
		paths := make([]string, 0, len(r.missing))
		for _, m := range r.missing {
			paths = append(paths, m.path)
		}
		return writeJSON(r.app.stdout, paths)
	}
	rows := make([][]string, 0, len(r.missing))
	for _, m := range r.missing {
		deleted := "-"
		if !m.goneAt.IsZero() {
			deleted = m.goneAt.UTC().Format(time.RFC3339)
		}
		rows = append(rows, []string{m.path, deleted})
	}
	return writeTable(r.app.stdout, []string{"database", "deleted"}, rows)
}
