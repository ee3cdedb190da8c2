package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/mattn/go-shellwords"

	"github.com/benbjohnson/litestream"
)

var replicateHelp = help{
	about: "replicate watches databases and copies every change to their replicas until it is stopped. The databases are\nthose of the configuration file, listed (dbs) or found by pattern (multi-db), or one that the command line names\ntogether with its replica. At SIGHUP it reads the file again: see \"litestream reload -h\".",
	forms: []string{"replicate [arguments]", "replicate [arguments] DB_PATH REPLICA_URL"},
	flags: [][2]string{
		configFlag,
		{"-exec CMD", "Start a program and stop when it stops. Signals are handed on to it."},
		{"-once", "Sync every database and its replica once, then exit. Not together\nwith -exec."},
		{"-force-snapshot", "With -once: write a snapshot of every database."},
		{"-enforce-retention", "With -once: remove the snapshots that are older than the retention."},
		{"-log-level LEVEL", "trace, debug, info, warn or error. Wins over LOG_LEVEL and the\nconfiguration file."},
		expandEnvFlag,
		{"-restore-if-db-not-exists", "Restore a database that does not exist from its replica first. If\nthe replica is empty, too, replication starts with an empty one."},
	},
	examples: []string{"replicate", "replicate /path/to/db s3://bucket/db", "replicate -exec \"my-app -flag\""},
}

// replicateOptions is the parsed command line of replicate.
type replicateOptions struct {
	conf             configFlags
	exec             string
	once             bool
	onceOptions      litestream.SyncOnceOptions
	logLevel         string
	restoreIfMissing bool
}

func (a *app) runReplicate(ctx context.Context, args []string) error {
	var opts replicateOptions
	fs := a.newFlagSet("litestream-replicate", &replicateHelp)
	opts.conf.register(fs)
	fs.StringVar(&opts.exec, "exec", "", "subcommand")
	fs.BoolVar(&opts.once, "once", false, "sync once and exit")
	fs.BoolVar(&opts.onceOptions.ForceSnapshot, "force-snapshot", false, "force a snapshot")
	fs.BoolVar(&opts.onceOptions.EnforceRetention, "enforce-retention", false, "enforce retention")
	fs.StringVar(&opts.logLevel, "log-level", "", "log level")
	fs.BoolVar(&opts.restoreIfMissing, "restore-if-db-not-exists", false, "restore missing databases")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cfg, err := opts.config(a, fs.Args())
	if err != nil {
		return err
	}
	child, err := parseExec(cfg.Exec)
	if err != nil {
		return err
	}
	w := a.stdout
	if cfg.Logging.Stderr {
		w = a.stderr
	}
	level := new(slog.LevelVar)
	level.Set(logLevel(cfg.Logging))
	logger := newLeveledLogger(w, cfg.Logging, level)
	logger.Info("litestream", "version", currentVersion(), "level", levelName(logLevel(cfg.Logging)))
	switch m := cfg.MultiDB; {
	case cfg.hasDatabases():
	case m != nil:
		logger.Error("no databases specified in configuration: dbs is empty, and multi-db does nothing before multi-db.enabled is true")
	default:
		logger.Error("no databases specified in configuration")
	}
	r := &replication{app: a, cfg: cfg, opts: &opts, child: child, logger: logger, level: level}
	r.fromFile = fs.NArg() == 0
	return r.run(ctx)
}

// config reads the file, or builds what the positional arguments stand for,
// and checks how the flags go together.
func (o *replicateOptions) config(a *app, args []string) (*Config, error) {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			return nil, fmt.Errorf("flag %q must be positioned before DB_PATH and REPLICA_URL arguments", arg)
		}
	}
	switch {
	case len(args) == 1:
		return nil, &tryError{
			fmt.Errorf("must specify at least one replica URL for %s", args[0]),
			"litestream replicate " + args[0] + " s3://bucket/prefix",
		}
	case len(args) > 1 && o.conf.path != "":
		return nil, errors.New("cannot specify a replica URL and the -config flag")
	case len(args) > 2:
		return nil, errors.New("multiple replicas on a single database are no longer supported")
	}
	if o.logLevel != "" {
		if err := os.Setenv("LOG_LEVEL", o.logLevel); err != nil {
			return nil, fmt.Errorf("set LOG_LEVEL: %w", err)
		}
	}
	cfg, err := o.readConfig(a, args)
	if err != nil {
		return nil, err
	}
	if o.exec != "" {
		cfg.Exec = o.exec
	}
	for _, db := range cfg.DBs {
		db.RestoreIfDBNotExists = db.RestoreIfDBNotExists || o.restoreIfMissing
	}
	if err := o.check(cfg); err != nil {
		return nil, err
	}
	return cfg, nil
}

// check finds flags and keys that do not go together.
func (o *replicateOptions) check(cfg *Config) error {
	switch {
	case o.once && cfg.Exec != "":
		return errors.New("cannot specify -once flag with -exec")
	case o.onceOptions.ForceSnapshot && !o.once:
		return errors.New("cannot specify -force-snapshot flag without -once")
	case o.onceOptions.EnforceRetention && !o.once:
		return errors.New("cannot specify -enforce-retention flag without -once")
	}
	if cfg.Addr != "" {
		if _, port, err := net.SplitHostPort(cfg.Addr); err != nil || port == "" {
			return fmt.Errorf("must specify port for bind address: %q", cfg.Addr)
		}
	}
	return nil
}

func (o *replicateOptions) readConfig(a *app, args []string) (*Config, error) {
	if len(args) == 0 {
		return o.conf.read(a)
	}
	cfg := newDefaultConfig()
	cfg.DBs = []*DBConfig{{Path: args[0], Replica: &ReplicaConfig{URL: args[1]}}}
	if err := cfg.normalize(); err != nil {
		return nil, unwrapConfigError(err)
	}
	if err := cfg.validate(); err != nil {
		return nil, unwrapConfigError(err)
	}
	return cfg, nil
}

// parseExec splits a command line into words as a shell would, without
// variables. An empty command is none.
func parseExec(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	words, err := shellwords.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("cannot parse exec command: %w", err)
	} else if len(words) == 0 {
		return nil, errors.New("cannot parse exec command: it is blank")
	}
	return words, nil
}

func levelName(level slog.Level) string {
	if level == levelTrace {
		return "TRACE"
	}
	return level.String()
}
