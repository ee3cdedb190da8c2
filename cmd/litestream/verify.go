package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

var verifyHelp = help{
	about: "verify looks for damage of replicas, and says up to where they are good and what to do. It changes nothing.",
	forms: []string{"verify [arguments] DB_PATH", "verify [arguments] REPLICA_URL", "verify -all [arguments]", "verify -sample N% [arguments]"},
	flags: [][2]string{
		configFlag, expandEnvFlag,
		{"-level LEVEL", "How deep to look; see below. The default is list."},
		{"-all", "Verify every database of the configuration: those of dbs, and those of\nmulti-db that the catalog in the replica, the registry in state-dir or a\nlisting of the replica tells."},
		{"-sample N%", "Verify that share of them, chosen at random."},
		{"-grace DURATION", "How long a file may take to be listed, and the catalog to follow.\nThe default is 5m."},
		{"-parallelism N", "Databases to verify at a time. The default is 8."},
		{"-scratch DIR", "Where to restore to at level restore. The default is state-dir, or the\nsystem's directory for temporary files."},
		{"-hostname NAME", "Value of {{hostname}} in the replica template of multi-db."},
		jsonFlag,
	},
	notes: `Each level finds what it says and what those above it find:

	list       missing files, gaps and restore points that no files lead to; files too short to be any; an empty replica;
	           a catalog, a registry or local files that know another position. One listing.
	checksum   damaged, cut and exchanged files. Reads every file.
	read       files of another or an older database, and pages that a compaction lost, by the checksums of all pages at
	           every position, of files and of the page ledger on this host.
	restore    all else that keeps the newest position from being restored: it is restored and SQLite checks it.

States are ok, missing-delayed (it is not there yet), missing-lost, corrupt, and diverged (the catalog, the registry
or the page ledger disagrees with the replica); error, if a replica could not be looked at.

Exit status: 0 if all are ok; 2 if some are missing-delayed, and the others ok; 1 otherwise.`,
	examples: []string{
		"verify /path/to/db",
		"verify -level read s3://bucket/db",
		"verify -all",
		"verify -sample 1% -level restore -json",
	},
}

// stateError is the state of a database that could not be looked at.
const stateError = "error"

// verifyOptions is the parsed command line of verify.
type verifyOptions struct {
	conf        configFlags
	level       litestream.VerifyLevel
	all         bool
	sample      float64 // share; 0: not given
	grace       time.Duration
	parallelism int
	scratch     string
	hostname    string
	asJSON      bool
	arg         string
}

// sampleFlag is the value of -sample.
type sampleFlag struct{ share *float64 }

// String returns the value as it is written on the command line.
func (f sampleFlag) String() string {
	if f.share == nil || *f.share == 0 {
		return ""
	}
	return strconv.FormatFloat(*f.share*100, 'g', -1, 64) + "%"
}

// Set reads a percentage.
func (f sampleFlag) Set(s string) error {
	n, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !strings.HasSuffix(s, "%") || n <= 0 || n > 100 {
		return errors.New("must be a percentage such as 1%, above 0% and up to 100%")
	}
	*f.share = n / 100
	return nil
}

// verifyLevelFlag is the value of -level.
type verifyLevelFlag struct{ level *litestream.VerifyLevel }

// String returns the value as it is written on the command line.
func (f verifyLevelFlag) String() string {
	if f.level == nil {
		return ""
	}
	return f.level.String()
}

// Set reads the value.
func (f verifyLevelFlag) Set(s string) (err error) {
	*f.level, err = litestream.ParseVerifyLevel(s)
	return err
}

func (a *app) parseVerify(args []string) (*verifyOptions, error) {
	var o verifyOptions
	flags := a.newFlagSet("litestream-verify", &verifyHelp)
	o.conf.register(flags)
	flags.Var(verifyLevelFlag{&o.level}, "level", "level")
	flags.BoolVar(&o.all, "all", false, "all databases")
	flags.Var(sampleFlag{&o.sample}, "sample", "share of all databases")
	flags.DurationVar(&o.grace, "grace", litestream.DefaultVerifyGrace, "grace period")
	flags.IntVar(&o.parallelism, "parallelism", 8, "databases at a time")
	flags.StringVar(&o.scratch, "scratch", "", "scratch directory")
	flags.StringVar(&o.hostname, "hostname", "", "hostname")
	flags.BoolVar(&o.asJSON, "json", false, "print json")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	many := o.all || o.sample > 0
	switch {
	case o.all && o.sample > 0:
		return nil, errors.New("cannot specify -sample with -all")
	case many && flags.NArg() > 0:
		return nil, fmt.Errorf("cannot specify %s with -all or -sample", flags.Arg(0))
	case !many && flags.NArg() == 0:
		return nil, &tryError{errors.New("database path or replica URL required"), "litestream verify /path/to/db"}
	case flags.NArg() > 1:
		return nil, errTooManyArguments
	case o.parallelism < 1:
		return nil, errors.New("-parallelism must be at least 1")
	case o.grace <= 0:
		return nil, errors.New("-grace must be longer than 0s")
	}
	o.arg = flags.Arg(0)
	return &o, nil
}

// verifyTarget is one replica that is verified.
type verifyTarget struct {
	name    string // path of the database, or the URL
	client  func() (litestream.ReplicaClient, error)
	promise *litestream.VerifyPromise
	expect  func(ctx context.Context, client litestream.ReplicaClient) ([]litestream.VerifyExpectation, error)
}

// verifyRow is what the command prints of one replica.
type verifyRow struct {
	Database  string          `json:"database"`
	Replica   string          `json:"replica,omitempty"`
	State     string          `json:"state"`
	TXID      string          `json:"txid,omitempty"` // newest
	Timestamp time.Time       `json:"timestamp,omitzero"`
	Good      string          `json:"good_txid,omitempty"` // newest that is restorable
	GoodAt    time.Time       `json:"good_timestamp,omitzero"`
	Avoid     []string        `json:"avoid,omitempty"`
	Files     int             `json:"files"`
	Points    int             `json:"restore_points"`
	FilesRead int             `json:"files_read"`
	BytesRead int64           `json:"bytes_read"`
	Summed    int             `json:"files_with_database_checksum"`
	Findings  []verifyFinding `json:"findings,omitempty"`
	Summary   string          `json:"summary,omitempty"`
	Error     string          `json:"error,omitempty"`
}

type verifyFinding struct {
	State   string `json:"state"`
	Level   string `json:"level"`
	Object  string `json:"object"`
	Problem string `json:"problem"`
}

// verifyReport is what the command prints.
type verifyReport struct {
	Level      string         `json:"level"`
	Source     string         `json:"source,omitempty"` // who told of the databases of multi-db
	Databases  int            `json:"databases"`
	States     map[string]int `json:"states"`
	DurationMS int64          `json:"duration_ms"`
	Rows       []verifyRow    `json:"rows"`
}

func (a *app) runVerify(ctx context.Context, args []string) error {
	o, err := a.parseVerify(args)
	if err != nil {
		return err
	}
	ctx, stop := a.cancelOnSignal(ctx)
	defer stop()
	v := &verifier{app: a, o: o, line: newProgressLine(a.stderr), report: verifyReport{Level: o.level.String(), States: map[string]int{}, Rows: []verifyRow{}}}
	defer v.line.clear()
	if err := v.find(ctx); err != nil {
		return err
	}
	defer v.close()
	start := time.Now()
	v.verifyAll(ctx)
	v.line.clear()
	v.report.DurationMS = time.Since(start).Milliseconds()
	if err := v.print(); err != nil {
		return err
	}
	if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) {
		return fmt.Errorf("verify %w: %d of %d databases were verified", cause, v.report.Databases, len(v.targets))
	}
	return v.verdict()
}

// verifier is one run of verify.
type verifier struct {
	app     *app
	o       *verifyOptions
	line    *progressLine
	logger  *slog.Logger
	scratch string // directory of the run; empty: nothing is restored
	targets []verifyTarget

	mu     sync.Mutex
	report verifyReport
}

// find lists what is verified.
func (v *verifier) find(ctx context.Context) error {
	var cfg *Config
	var err error
	switch {
	case litestream.IsURL(v.o.arg):
		src, err := v.app.findReplica(&v.o.conf, v.o.arg, "")
		if err != nil {
			return err
		}
		v.logger = newLogger(v.line.wrap(v.app.stderr), src.logging)
		v.targets = []verifyTarget{{name: v.o.arg, client: func() (litestream.ReplicaClient, error) { return src.client, nil }}}
		return v.makeScratch(nil)
	default:
		if cfg, err = v.o.conf.read(v.app); err != nil {
			return err
		}
	}
	v.logger = newLogger(v.line.wrap(v.app.stderr), cfg.Logging)
	if v.o.hostname != "" && cfg.MultiDB != nil {
		if err := cfg.MultiDB.setHostname(v.o.hostname); err != nil {
			return err
		}
	}
	if v.o.arg != "" {
		err = v.findOne(ctx, cfg)
	} else {
		err = v.findAll(ctx, cfg)
	}
	if err != nil {
		return err
	}
	return v.makeScratch(cfg)
}

// findOne finds the database of a path.
func (v *verifier) findOne(ctx context.Context, cfg *Config) error {
	path, err := expandPath(v.o.arg)
	if err != nil {
		return err
	}
	if db := cfg.db(path); db != nil {
		v.targets = []verifyTarget{cfg.verifyTarget(db)}
		return nil
	}
	if _, err := cfg.tenantClient(path, ""); err != nil {
		return err
	}
	fleet := &verifyFleet{cfg: cfg, logger: v.logger, sums: v.o.level >= litestream.VerifyRead}
	t, err := fleet.one(ctx, path)
	v.targets = []verifyTarget{t}
	return err
}

// findAll finds all databases, or a share of them.
func (v *verifier) findAll(ctx context.Context, cfg *Config) error {
	for _, db := range cfg.DBs {
		if db.Path != "" {
			v.targets = append(v.targets, cfg.verifyTarget(db))
		}
	}
	for _, dir := range cfg.Dirs {
		if err := dir.eachFile(ctx, func(db *DBConfig) error {
			v.targets = append(v.targets, cfg.verifyTarget(db))
			return ctx.Err()
		}); err != nil {
			return err
		}
	}
	if cfg.MultiDB != nil {
		fleet := &verifyFleet{cfg: cfg, logger: v.logger, sums: v.o.level >= litestream.VerifyRead}
		targets, err := fleet.all(ctx)
		if err != nil {
			return err
		}
		v.report.Source = fleet.source
		v.targets = append(v.targets, targets...)
	}
	if n := len(v.targets); v.o.sample > 0 && n > 0 {
		rand.Shuffle(n, func(i, j int) { v.targets[i], v.targets[j] = v.targets[j], v.targets[i] })
		v.targets = v.targets[:max(1, int(v.o.sample*float64(n)+0.5))]
	}
	return nil
}

// verifyTarget returns a database of dbs.
func (c *Config) verifyTarget(db *DBConfig) verifyTarget {
	set := c.storeSettings()
	promise := &litestream.VerifyPromise{Levels: set.Levels, SnapshotRetention: set.SnapshotRetention, L0Retention: set.L0Retention}
	if !set.RetentionEnabled {
		promise.SnapshotRetention, promise.L0Retention = 0, 0
	}
	return verifyTarget{
		name: db.Path, promise: promise,
		client: func() (litestream.ReplicaClient, error) { return newReplicaClient(db.Replica) },
		expect: func(_ context.Context, client litestream.ReplicaClient) ([]litestream.VerifyExpectation, error) {
			txid, at := newestLocalFile(db.MetaPath)
			return []litestream.VerifyExpectation{{
				Source: "local state", TXID: txid, At: at,
				Sums: litestream.LedgerSums(litestream.LedgerPath(db.MetaPath), litestream.ReplicaIdentity(client)),
			}}, nil
		},
	}
}

// newestLocalFile returns the newest transaction that was captured on this host,
// and when. What cannot be read is not known.
func newestLocalFile(metaPath string) (ltx.TXID, time.Time) {
	txid, err := newestLocalTXID(metaPath)
	if err != nil || txid == 0 {
		return 0, time.Time{}
	}
	st, err := os.Stat(filepath.Join(metaPath, "ltx", "0", ltx.FormatFilename(txid, txid)))
	if err != nil {
		return 0, time.Time{}
	}
	return txid, st.ModTime()
}

// makeScratch makes a directory to restore to.
func (v *verifier) makeScratch(cfg *Config) (err error) {
	if v.o.level < litestream.VerifyRestore {
		return nil
	}
	dir := v.o.scratch
	if dir == "" && cfg != nil && cfg.MultiDB != nil {
		if st, err := os.Stat(cfg.MultiDB.StateDir); err == nil && st.IsDir() {
			dir = cfg.MultiDB.StateDir
		}
	}
	if v.scratch, err = os.MkdirTemp(dir, "verify-"); err != nil {
		return fmt.Errorf("make scratch directory: %w; set another one with -scratch", err)
	}
	return nil
}

// close removes what the run left on the disk.
func (v *verifier) close() {
	if v.scratch == "" {
		return
	}
	if err := os.RemoveAll(v.scratch); err != nil {
		v.logger.Warn("remove scratch directory", "error", err)
	}
}

// verifyAll verifies the targets, some at a time.
func (v *verifier) verifyAll(ctx context.Context) {
	var wg sync.WaitGroup
	todo := make(chan int)
	for range min(v.o.parallelism, len(v.targets)) {
		wg.Go(func() {
			for i := range todo {
				v.note(ctx, v.verifyOne(ctx, i))
			}
		})
	}
	for i := range v.targets {
		select {
		case todo <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(todo)
	wg.Wait()
}

// verifyOne verifies one target.
func (v *verifier) verifyOne(ctx context.Context, i int) verifyRow {
	t := &v.targets[i]
	row := verifyRow{Database: t.name}
	client, err := t.client()
	if err != nil {
		row.State, row.Error = stateError, err.Error()
		return row
	}
	row.Replica = redactedLocation(client)
	opt := litestream.VerifyOptions{Level: v.o.level, Grace: v.o.grace, Promise: t.promise, Logger: v.logger, Parallelism: max(1, litestream.DefaultRestoreParallelism/len(v.targets))}
	if t.expect != nil {
		opt.Expect = func(ctx context.Context) ([]litestream.VerifyExpectation, error) { return t.expect(ctx, client) }
	}
	if v.scratch != "" {
		opt.ScratchPath = filepath.Join(v.scratch, strconv.Itoa(i)+".db")
	}
	res, err := litestream.Verify(ctx, client, opt)
	if err != nil {
		row.State, row.Error = stateError, err.Error()
		return row
	}
	row.fill(&res)
	return row
}

// fill takes over what was found.
func (r *verifyRow) fill(res *litestream.VerifyResult) {
	r.State, r.Summary, r.Avoid = string(res.State), res.Summary(), res.Avoid
	if res.TXID > 0 {
		r.TXID, r.Timestamp = res.TXID.String(), res.At.UTC()
	}
	if res.Good > 0 {
		r.Good, r.GoodAt = res.Good.String(), res.GoodAt.UTC()
	}
	r.Files, r.Points, r.FilesRead, r.BytesRead, r.Summed = res.Files, res.Points, res.FilesRead, res.BytesRead, res.Checksummed
	for _, f := range res.Findings {
		r.Findings = append(r.Findings, verifyFinding{string(f.State), f.Level.String(), f.Object, f.Problem})
	}
}

// note counts one outcome.
func (v *verifier) note(ctx context.Context, row verifyRow) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if row.State == stateError && ctx.Err() != nil {
		return // it was not verified
	}
	v.report.Databases++
	v.report.States[row.State]++
	v.report.Rows = append(v.report.Rows, row)
	v.line.set(fmt.Sprintf("verified %d of %d databases: %s", v.report.Databases, len(v.targets), countsText(v.report.States)))
}

// print prints the report: as JSON a row for each database, else those that are
// not ok.
func (v *verifier) print() error {
	slices.SortFunc(v.report.Rows, func(a, b verifyRow) int { return cmp.Compare(a.Database, b.Database) })
	if v.o.asJSON {
		return writeJSON(v.app.stdout, v.report)
	}
	for _, row := range v.report.Rows {
		if row.State != string(litestream.VerifyOK) {
			printf(v.app.stdout, "%s: %s: %s\n", printable(row.Database), row.State, reasonText(cmp.Or(row.Summary, row.Error)))
		} else if len(v.targets) == 1 {
			printf(v.app.stdout, "%s: ok up to txid %s of %s: %d files, %d restore points, %d files read\n",
				printable(row.Database), row.TXID, row.Timestamp.Format(time.RFC3339), row.Files, row.Points, row.FilesRead)
		}
	}
	if len(v.targets) != 1 {
		printf(v.app.stdout, "verified %d databases at level %s: %s\n", v.report.Databases, v.report.Level, countsText(v.report.States))
	}
	return nil
}

// verdict returns what the exit status is to tell.
func (v *verifier) verdict() error {
	bad := v.report.Databases - v.report.States[string(litestream.VerifyOK)]
	err := fmt.Errorf("%d of %d replicas are not ok: %s", bad, v.report.Databases, countsText(v.report.States))
	switch bad {
	case 0:
		return nil
	case v.report.States[string(litestream.VerifyMissingDelayed)]:
		return partialError{err}
	default:
		return err
	}
}
