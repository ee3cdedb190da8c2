package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/superfly/ltx"
)

var statusHelp = help{
	about: "status shows the replication state of the databases of the configuration file: what lies beside those of dbs, whose\ndirectories it looks into, and what the registry in the state directory says of those that multi-db finds.",
	forms: []string{"status [arguments] [DB_PATH]"},
	flags: [][2]string{configFlag, jsonFlag, expandEnvFlag},
	notes: `It reads local files only and works whether a daemon runs or not.

	database     path of the database
	status       ok, not initialized, no database or error
	local txid   newest transaction captured on this host
	wal size     size of the -wal file

For multi-db it prints a summary, as of the last scan, or with the path of a
database its record.`,
	examples: []string{"status", "status -json", "status /path/to/db", "status /data/p1/databases/d1/branches/main/tenants/t42.db"},
}

// dbStatus is one line of the status command.
type dbStatus struct {
	Database  string `json:"database"`
	Status    string `json:"status"`
	LocalTXID string `json:"local_txid"`
	WALSize   string `json:"wal_size"`
}

// allStatus is what status prints as JSON where multi-db is in use.
type allStatus struct {
	Databases []dbStatus   `json:"databases"` // of `dbs`
	MultiDB   *fleetStatus `json:"multi_db"`
}

func (a *app) runStatus(ctx context.Context, args []string) error {
	var conf configFlags
	flags := a.newFlagSet("litestream-status", &statusHelp)
	conf.register(flags)
	asJSON := flags.Bool("json", false, "print json")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg, err := conf.read(a)
	if err != nil {
		return err
	}
	var only string
	if flags.NArg() > 0 {
		if only, err = expandPath(flags.Arg(0)); err != nil {
			return err
		}
		if cfg.MultiDB != nil && cfg.db(only) == nil {
			return a.statusOfTenant(ctx, cfg.MultiDB, only, *asJSON)
		}
	}
	return a.statusOfAll(ctx, cfg, only, *asJSON)
}

// statusOfAll prints the databases of `dbs`, or one of them, and the summary
// of those that patterns find unless one was asked for.
func (a *app) statusOfAll(ctx context.Context, cfg *Config, only string, asJSON bool) (err error) {
	statuses, dirErr := readDBStatuses(ctx, cfg, only)
	now := time.Now()
	var fleet *fleetStatus
	if only == "" {
		fleet, err = cfg.fleet(ctx, now)
	}
	switch {
	case asJSON && err != nil:
		return err
	case asJSON && fleet != nil:
		return errors.Join(writeJSON(a.stdout, allStatus{statuses, fleet}), dirErr)
	case asJSON:
		return errors.Join(writeJSON(a.stdout, statuses), dirErr)
	}
	if len(statuses) > 0 || fleet == nil {
		err = errors.Join(a.printDBStatuses(statuses), err, dirErr)
		a.noteLocalV03(cfg, only)
	}
	if fleet == nil || err != nil {
		return err
	}
	if len(statuses) > 0 {
		printf(a.stdout, "\n")
	}
	return fleet.print(a.stdout, now, cfg.MultiDB.settings("").ScanInterval)
}

// readDBStatuses looks at the databases of `dbs`, those that lie in its
// directories included, or at one. The error tells what could not be looked at.
func readDBStatuses(ctx context.Context, cfg *Config, only string) (statuses []dbStatus, err error) {
	statuses = []dbStatus{}
	if only != "" {
		if db := cfg.db(only); db != nil {
			statuses = append(statuses, readDBStatus(db))
		}
		return statuses, nil
	}
	for _, db := range cfg.DBs {
		statuses = append(statuses, readDBStatus(db))
	}
	for _, dir := range cfg.Dirs {
		err = errors.Join(err, dir.eachFile(ctx, func(db *DBConfig) error {
			statuses = append(statuses, readDBStatus(db))
			return ctx.Err()
		}))
	}
	return statuses, err
}

func (a *app) printDBStatuses(statuses []dbStatus) error {
	var rows [][]string
	for _, s := range statuses {
		rows = append(rows, []string{s.Database, s.Status, s.LocalTXID, s.WALSize})
	}
	return writeTable(a.stdout, []string{"database", "status", "local txid", "wal size"}, rows)
}

// readDBStatus looks at the files of one database without opening it.
func readDBStatus(db *DBConfig) dbStatus {
	s := dbStatus{Database: db.Path, LocalTXID: "-", WALSize: "-"}
	if _, err := os.Stat(db.Path); errors.Is(err, fs.ErrNotExist) {
		s.Status = "no database"
		return s
	} else if err != nil {
		s.Status = "error"
		return s
	}

	s.WALSize = humanize.Bytes(0)
	if fi, err := os.Stat(db.Path + "-wal"); err == nil {
		s.WALSize = humanize.Bytes(uint64(fi.Size()))
	} else if !errors.Is(err, fs.ErrNotExist) {
		s.WALSize = "-"
	}

	txid, err := newestLocalTXID(db.MetaPath)
	switch {
	case err != nil:
		s.Status = "error"
	case txid == 0:
		s.Status = "not initialized"
	default:
		s.Status, s.LocalTXID = "ok", txid.String()
	}
	return s
}

// newestLocalTXID returns the highest TXID of the level-0 files in a metadata
// directory, or 0 if there is none.
func newestLocalTXID(metaPath string) (ltx.TXID, error) {
	entries, err := os.ReadDir(filepath.Join(metaPath, "ltx", "0"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	var newest ltx.TXID
	for _, e := range entries {
		if _, maxTXID, err := ltx.ParseFilename(e.Name()); err == nil {
			newest = max(newest, maxTXID)
		}
	}
	return newest, nil
}
