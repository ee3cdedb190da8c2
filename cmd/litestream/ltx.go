package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

var ltxHelp = help{
	about: "ltx lists the LTX files of a database's replica.",
	forms: []string{"ltx [arguments] DB_PATH", "ltx [arguments] REPLICA_URL"},
	flags: [][2]string{
		configFlag, expandEnvFlag,
		{"-level LEVEL", "Level to list: 0 to 9, where 9 holds the snapshots, or \"all\".\nThe default is 0."},
		jsonFlag,
	},
	examples: []string{"ltx /path/to/db", "ltx -level all s3://bucket/db"},
}

// levelFlag is the value of -level.
type levelFlag struct{ min, max int }

// String returns the value as it is written on the command line.
func (f *levelFlag) String() string {
	if f.min != f.max {
		return "all"
	}
	return strconv.Itoa(f.min)
}

// Set reads the value.
func (f *levelFlag) Set(s string) error {
	if s == "all" {
		f.min, f.max = 0, litestream.SnapshotLevel
		return nil
	}
	level, err := strconv.Atoi(s)
	if err != nil {
		return errors.New(`invalid level: must be 0-9 or "all"`)
	} else if level < 0 || level > litestream.SnapshotLevel {
		return errors.New("level must be between 0 and 9")
	}
	f.min, f.max = level, level
	return nil
}

func (a *app) runLTX(ctx context.Context, args []string) error {
	var conf configFlags
	var levels levelFlag
	fs := a.newFlagSet("litestream-ltx", &ltxHelp)
	conf.register(fs)
	fs.Var(&levels, "level", "level")
	asJSON := fs.Bool("json", false, "print json")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() == 0:
		return &tryError{errors.New("database path or replica URL required"), "litestream ltx /path/to/db"}
	case fs.NArg() > 1:
		return errTooManyArguments
	}
	src, err := a.findReplica(&conf, fs.Arg(0), "")
	if err != nil {
		return err
	}
	src.client.SetLogger(newLogger(a.stderr, src.logging))
	if err := src.client.Init(ctx); err != nil {
		return err
	}
	var files []*ltx.FileInfo
	for level := levels.min; level <= levels.max; level++ {
		itr, err := src.client.LTXFiles(ctx, level, 0, false)
		if err != nil {
			return err
		}
		found, err := ltx.SliceFileIterator(itr)
		if err != nil {
			return err
		}
		files = append(files, found...)
	}
	if err := a.printLTXFiles(files, *asJSON); err != nil || len(files) > 0 {
		return err
	}
	return a.noteV03(ctx, src)
}

func (a *app) printLTXFiles(files []*ltx.FileInfo, asJSON bool) error {
	type entry struct {
		Level     int    `json:"level"`
		MinTXID   string `json:"min_txid"`
		MaxTXID   string `json:"max_txid"`
		Size      int64  `json:"size"`
		Timestamp string `json:"timestamp"`
	}
	entries, rows := []entry{}, [][]string{}
	for _, f := range files {
		e := entry{f.Level, f.MinTXID.String(), f.MaxTXID.String(), f.Size, f.CreatedAt.UTC().Format(time.RFC3339)}
		entries = append(entries, e)
		rows = append(rows, []string{strconv.Itoa(e.Level), e.MinTXID, e.MaxTXID, strconv.FormatInt(e.Size, 10), e.Timestamp})
	}
	if asJSON {
		return writeJSON(a.stdout, entries)
	}
	return writeTable(a.stdout, []string{"level", "min_txid", "max_txid", "size", "created"}, rows)
}

// source is the replica that a command reads, named by URL or through the
// configuration.
type source struct {
	arg     string    // as given
	path    string    // of the database; empty for a URL
	db      *DBConfig // nil for a URL and for a database found by pattern
	client  litestream.ReplicaClient
	logging LoggingConfig
}

// findReplica returns the replica that a positional argument names. A URL
// needs no configuration and refuses one. hostname stands for this host's name
// in the paths of databases found by pattern; empty leaves it.
func (a *app) findReplica(conf *configFlags, arg, hostname string) (*source, error) {
	if litestream.IsURL(arg) {
		if conf.path != "" {
			return nil, errors.New("cannot specify a replica URL and the -config flag")
		}
		rc := &ReplicaConfig{URL: arg}
		if err := rc.validateOwn("replica"); err != nil {
			return nil, unwrapConfigError(err)
		}
		client, err := newReplicaClient(rc)
		if err != nil {
			return nil, err
		}
		return &source{arg: arg, client: client}, nil
	}
	cfg, err := conf.read(a)
	if err != nil {
		return nil, err
	}
	path, err := expandPath(arg)
	if err != nil {
		return nil, err
	}
	src := &source{arg: arg, path: path, logging: cfg.Logging}
	if src.db = cfg.db(path); src.db != nil {
		src.client, err = newReplicaClient(src.db.Replica)
		return src, err
	}
	src.client, err = cfg.tenantClient(path, hostname)
	return src, err
}

// tenantClient returns the client of the replica of a path that a pattern of
// multi-db stands for, whether such a file exists or not.
func (c *Config) tenantClient(path, hostname string) (litestream.ReplicaClient, error) {
	if c.MultiDB == nil {
		return nil, fmt.Errorf("database not found in config: %s", path)
	}
	if hostname != "" {
		if err := c.MultiDB.setHostname(hostname); err != nil {
			return nil, err
		}
	}
	t, err := c.MultiDB.tenants.Lookup(path)
	if errors.Is(err, litestream.ErrNoTenant) {
		return nil, fmt.Errorf("database not found in config: %w", err)
	} else if err != nil {
		return nil, err
	}
	return c.MultiDB.client(&t)
}

// unwrapConfigError drops the key from a rule that a command-line URL breaks.
func unwrapConfigError(err error) error {
	var ce *configError
	if errors.As(err, &ce) && ce.Got != "" {
		return fmt.Errorf("%s: %s", ce.Reason, ce.Got)
	} else if ce != nil {
		return errors.New(ce.Reason)
	}
	return err
}
