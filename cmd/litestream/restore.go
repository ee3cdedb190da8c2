package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

var restoreHelp = help{
	about: "restore writes a database as its replica holds it: the newest state, or the one of a moment or transaction.",
	forms: []string{"restore [arguments] DB_PATH", "restore [arguments] REPLICA_URL", "restore -all|-glob|-tenant|-from [arguments]", "restore -all-missing [arguments]"},
	flags: append([][2]string{
		configFlag, expandEnvFlag,
		{"-o PATH", "File to write. The default is DB_PATH; with a REPLICA_URL it is\nrequired. With -all, -glob or -tenant: folder below which the\ndatabases get their paths."},
		{"-txid TXID", "Restore up to and including this transaction (16 hex digits)."},
		{"-timestamp TIMESTAMP", "Restore what had been captured before this time, such as\n2000-01-01T00:00:00Z."},
		{"-if-db-not-exists", "Do nothing and exit with 0 if the file exists."},
		{"-if-replica-exists", "Exit with 0 if the replica holds no backup."},
		{"-dry-run", "Print what would be read and write nothing."},
		{"-force", "Replace an existing database and remove the -wal, -shm and -journal\nfiles beside it."},
		{"-json", "Print a summary as JSON; log lines go to stderr."},
		{"-parallelism N", "Requests to have in flight. The default is 8, and 32 with -all, -glob\nor -tenant."},
		{"-integrity-check MODE", "Let SQLite check the restored database: none, quick or full.\nThe default is none, and quick for a backup of Litestream v0.3."},
		{"-all-missing", "Restore every database of the configuration whose file is missing:\nthose of dbs, and those of multi-db that the registry in state-dir\nknows, or else a listing of the replica. Exit with 0 if all are\nthere now, 2 if some are, 1 if none."},
		{"-hostname NAME", "Value of {{hostname}} in the replica template of multi-db. Without\nit: the key hostname, else this host's name."},
		{"-f", "Follow the replica: restore, then keep applying what arrives until\ninterrupted. An output that was followed before goes on where it was.\nPrograms may read it with SQLite meanwhile, but not write."},
		{"-follow-interval DURATION", "How often to look at the replica with -f. The default is 1s."},
	}, fleetHelp...),
	examples: []string{
		"restore /path/to/db",
		"restore -o /tmp/db s3://bucket/db",
		"restore -timestamp 2026-01-31T12:00:00Z -o /tmp/db /path/to/db",
		"restore -all -o /restored -dry-run",
		"restore -tenant project=p1,tenant=t42",
		"restore -from s3://bucket/prefix -o /restored",
		"restore -all-missing -dry-run",
		"restore -dry-run -o /tmp/db s3://bucket/db",
		"restore -f -o /tmp/db s3://bucket/db",
	},
}

// txidFlag is the value of -txid.
type txidFlag struct{ txid *ltx.TXID }

// String returns the value as it is written on the command line.
func (f txidFlag) String() string {
	if f.txid == nil || *f.txid == 0 {
		return ""
	}
	return f.txid.String()
}

// Set reads 16 hexadecimal digits.
func (f txidFlag) Set(s string) error {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 {
		return errors.New("invalid txid format")
	}
	*f.txid = ltx.TXID(v)
	return nil
}

// restoreOptions is the parsed command line of restore.
type restoreOptions struct {
	conf            configFlags
	opt             litestream.RestoreOptions
	timestamp       string
	integrityCheck  string
	ifDBNotExists   bool
	ifReplicaExists bool
	dryRun          bool
	asJSON          bool
	hostname        string
	allMissing      bool
	fleet           fleetFlags
	arg             string
}

func (a *app) parseRestore(args []string) (*restoreOptions, error) {
	o := restoreOptions{opt: litestream.NewRestoreOptions()}
	flags := a.newFlagSet("litestream-restore", &restoreHelp)
	o.conf.register(flags)
	flags.StringVar(&o.opt.OutputPath, "o", "", "output path")
	flags.Var(txidFlag{&o.opt.TXID}, "txid", "transaction id")
	flags.StringVar(&o.timestamp, "timestamp", "", "timestamp")
	flags.IntVar(&o.opt.Parallelism, "parallelism", o.opt.Parallelism, "requests in flight")
	flags.BoolVar(&o.ifDBNotExists, "if-db-not-exists", false, "")
	flags.BoolVar(&o.ifReplicaExists, "if-replica-exists", false, "")
	flags.BoolVar(&o.dryRun, "dry-run", false, "")
	flags.BoolVar(&o.opt.Force, "force", false, "")
	flags.BoolVar(&o.asJSON, "json", false, "")
	flags.StringVar(&o.hostname, "hostname", "", "")
	flags.BoolVar(&o.allMissing, "all-missing", false, "")
	o.fleet.register(flags)
	flags.BoolVar(&o.opt.Follow, "f", false, "")
	flags.DurationVar(&o.opt.FollowInterval, "follow-interval", litestream.DefaultFollowInterval, "")
	flags.StringVar(&o.integrityCheck, "integrity-check", "none", "")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	flags.Visit(func(f *flag.Flag) {
		o.opt.SkipV03Check = o.opt.SkipV03Check || f.Name == "integrity-check"
		if f.Name == "parallelism" {
			o.fleet.parallelism = o.opt.Parallelism
		}
		o.fleet.nowhere = o.fleet.nowhere || f.Name == "o" && o.opt.OutputPath == ""
		if isFleetFlag(f.Name) {
			o.fleet.only = f.Name
		}
	})
	switch {
	case o.fleet.given():
		return &o, o.checkFleet(flags.Args())
	case o.fleet.only != "":
		return nil, fmt.Errorf("cannot specify -%s without -all, -glob, -tenant or -from", o.fleet.only)
	case o.allMissing:
		return &o, o.checkAllMissing(flags.Args())
	case flags.NArg() == 0:
		return nil, &tryError{errors.New("database path or replica URL required"), "litestream restore -o /path/to/db s3://bucket/prefix"}
	case flags.NArg() > 1:
		return nil, errTooManyArguments
	}
	o.arg = flags.Arg(0)
	return &o, o.check()
}

// check finds flags that do not go together or cannot be read.
func (o *restoreOptions) check() error {
	var err error
	if o.opt.IntegrityCheck, err = litestream.ParseIntegrityCheckMode(o.integrityCheck); err != nil {
		return fmt.Errorf("invalid -integrity-check value: %s", o.integrityCheck)
	}
	if o.timestamp != "" {
		if o.opt.Timestamp, err = time.Parse(time.RFC3339, o.timestamp); err != nil {
			return errors.New("invalid -timestamp, must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z)")
		}
	}
	isURL := litestream.IsURL(o.arg)
	switch {
	case o.opt.TXID != 0 && o.timestamp != "":
		return errors.New("cannot specify both -txid and -timestamp")
	case o.opt.Follow && o.dryRun:
		return errors.New("cannot use -dry-run with -f")
	case o.opt.Follow && o.opt.TXID != 0:
		return errors.New("cannot use follow mode with -txid")
	case o.opt.Follow && o.timestamp != "":
		return errors.New("cannot use follow mode with -timestamp")
	case isURL && o.opt.OutputPath == "":
		return &tryError{errors.New("-o is required when restoring from a replica URL"), "litestream restore -o /path/to/db " + o.arg}
	}
	return nil
}

func (a *app) runRestore(ctx context.Context, args []string) error {
	o, err := a.parseRestore(args)
	if err != nil {
		return err
	}
	if o.fleet.given() {
		return a.restoreFleet(ctx, o)
	}
	if o.allMissing {
		return a.restoreAllMissing(ctx, o)
	}
	src, err := a.findReplica(&o.conf, o.arg, o.hostname)
	if err != nil {
		return err
	}
	if o.opt.OutputPath == "" {
		o.opt.OutputPath = src.path
		if src.db != nil { // nothing is put beside a file of multi-db
			o.opt.LedgerPath = litestream.LedgerPath(src.db.MetaPath)
			o.opt.LedgerReplica = litestream.ReplicaIdentity(src.client)
		}
	}
	line := newProgressLine(a.stderr)
	defer line.clear()
	out := a.stdout
	if o.asJSON || src.logging.Stderr {
		out = a.stderr
	}
	logger := newLogger(line.wrap(out), src.logging)

	if _, err := os.Stat(o.opt.OutputPath); err == nil && o.ifDBNotExists {
		logger.Info("database already exists, skipping")
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("check output: %w", err)
	}
	o.opt.Logger = logger
	o.opt.Progress = line.update
	src.client.SetLogger(logger)

	ctx, stop := a.cancelOnSignal(ctx)
	defer stop()
	if err := a.restore(ctx, o, src); err != nil {
		if o.ifReplicaExists && isNoBackup(err) {
			logger.Info("no matching backups found")
			return nil
		}
		if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) {
			return fmt.Errorf("restore %w, nothing was written", cause)
		}
		return err
	}
	return nil
}

// isNoBackup reports whether a replica holds nothing to restore. A replica with
// a hole in it is not meant: to go on without its data would be silent loss.
func isNoBackup(err error) bool {
	return errors.Is(err, litestream.ErrNoBackups) ||
		errors.Is(err, litestream.ErrTxNotAvailable) && !errors.Is(err, litestream.ErrNonContiguous)
}

// restore plans or restores, and prints what the flags ask for.
func (a *app) restore(ctx context.Context, o *restoreOptions, src *source) error {
	if o.dryRun {
		plan, err := litestream.DryRunRestore(ctx, src.client, o.opt)
		if err != nil {
			return err
		}
		if len(plan.V03) > 0 {
			return a.printRestorePlanV03(newRestorePlanV03(o, src, plan.V03), o.asJSON)
		}
		return a.printRestorePlan(newRestorePlan(o, src, plan.LTX), o.asJSON)
	}
	start := time.Now()
	res, err := litestream.Restore(ctx, src.client, o.opt)
	if err != nil {
		return err
	}
	if res.IntegrityCheck != litestream.IntegrityCheckNone && !o.opt.Follow {
		dbName := o.opt.OutputPath
		if src.path != "" {
			dbName = src.path
		}
		o.opt.Logger.Info("post-restore integrity check passed", "db", filepath.Base(dbName), "replica", src.client.Type())
	}
	if !o.asJSON {
		return nil
	}
	txid := ""
	if len(res.V03) == 0 && !o.opt.Follow { // v0.3 has no transaction ids, a follower went on
		txid = res.TXID.String()
	}
	return writeJSON(a.stdout, struct {
		DBPath         string `json:"db_path"`
		Replica        string `json:"replica"`
		TXID           string `json:"txid"`
		DurationMS     int64  `json:"duration_ms"`
		IntegrityCheck string `json:"integrity_check"`
	}{o.opt.OutputPath, src.client.Type(), txid, time.Since(start).Milliseconds(), res.IntegrityCheck.String()})
}

// restorePlan is what -dry-run prints.
type restorePlan struct {
	Source     string            `json:"source"`
	TargetPath string            `json:"target_path"`
	Replica    string            `json:"replica"`
	MinTXID    string            `json:"min_txid"`
	MaxTXID    string            `json:"max_txid"`
	Files      []restorePlanFile `json:"files"`
}

type restorePlanFile struct {
	Level     int    `json:"level"`
	Name      string `json:"name"`
	MinTXID   string `json:"min_txid"`
	MaxTXID   string `json:"max_txid"`
	Size      int64  `json:"size"`
	Timestamp string `json:"timestamp"`
}

func newRestorePlan(o *restoreOptions, src *source, files []*ltx.FileInfo) *restorePlan {
	p := &restorePlan{Source: src.arg, TargetPath: o.opt.OutputPath, Replica: src.client.Type(), Files: []restorePlanFile{}}
	var minTXID, maxTXID ltx.TXID
	for i, f := range files {
		if i == 0 || f.MinTXID < minTXID {
			minTXID = f.MinTXID
		}
		maxTXID = max(maxTXID, f.MaxTXID)
		p.Files = append(p.Files, restorePlanFile{
			f.Level, ltx.FormatFilename(f.MinTXID, f.MaxTXID), f.MinTXID.String(), f.MaxTXID.String(),
			f.Size, f.CreatedAt.UTC().Format(time.RFC3339),
		})
	}
	p.MinTXID, p.MaxTXID = minTXID.String(), maxTXID.String()
	return p
}

func (a *app) printRestorePlan(p *restorePlan, asJSON bool) error {
	if asJSON {
		return writeJSON(a.stdout, p)
	}
	printf(a.stdout, "Restore plan:\n  source: %s\n  target: %s\n  replica: %s\n  txid range: %s - %s\n\nFiles to fetch:\n",
		p.Source, p.TargetPath, p.Replica, p.MinTXID, p.MaxTXID)
	rows := make([][]string, 0, len(p.Files))
	for _, f := range p.Files {
		rows = append(rows, []string{strconv.Itoa(f.Level), f.Name, f.MinTXID, f.MaxTXID, strconv.FormatInt(f.Size, 10), f.Timestamp})
	}
	return writeTable(a.stdout, []string{"level", "file", "min_txid", "max_txid", "size", "timestamp"}, rows)
}
