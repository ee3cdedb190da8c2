package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/control"
)

var takeoverHelp = help{
	about: "takeover makes this host the writer of a database's replica, whoever was it: the whole database as it is here\n" +
		"is stored behind all that lies on the replica, with a snapshot. A daemon that finds another writer stops the\ndatabase until then.",
	forms: []string{"takeover [arguments] DB_PATH", "takeover [arguments] -all", "takeover -offline [-config PATH] DB_PATH"},
	flags: [][2]string{
		{"-all", "Every database of the daemon that is neither stopped nor deleted. A line\nfor each that failed, with -json for each, and the sums."},
		{"-glob GLOB", "With -all: only paths that match. A pattern that does not begin with a\nslash matches at any depth."},
		{"-lost", "With -all: only those that another writer goes on with."},
		timeoutFlag(defaultTakeoverTimeout), socketFlag, rawFlag,
		{"-offline", "No daemon runs here: leave a note that its next start takes over."},
		configFlag, expandEnvFlag,
	},
	notes: `Stop the other daemon first, or the database in it. If it writes on, it loses the
replica with its next upload; what it uploads while this command runs may make
that fail, with exit status 1, and then it may be run again.`,
	examples: []string{
		"takeover /path/to/db", "takeover -json /path/to/db", "takeover -all -lost",
		"takeover -all -glob '/data/p1/**' -json", "takeover -offline -config /etc/litestream.yml /path/to/db",
	},
}

// defaultTakeoverTimeout is in seconds: a whole database is uploaded, twice.
const defaultTakeoverTimeout = 300

func (a *app) runTakeover(ctx context.Context, args []string) error {
	var c client
	var conf configFlags
	fs := a.newFlagSet("litestream-takeover", &takeoverHelp)
	c.register(fs, defaultTakeoverTimeout)
	conf.register(fs)
	offline := fs.Bool("offline", false, "no daemon runs")
	all := fs.Bool("all", false, "all databases")
	glob := fs.String("glob", "", "of these")
	lost := fs.Bool("lost", false, "of these")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case *all && (fs.NArg() > 0 || *offline):
		return errors.New("cannot specify a database path or -offline with the -all flag")
	case !*all && (*glob != "" || *lost):
		return errors.New("-glob and -lost are of use with -all only")
	case *all:
		if err := c.check(); err != nil {
			return err
		}
		return a.takeoverAll(ctx, &c, *glob, *lost)
	}
	path, err := oneDatabase(fs.Args(), "litestream takeover /path/to/db")
	if err != nil {
		return err
	}
	if path, err = expandPath(path); err != nil {
		return err
	}
	if *offline {
		return a.takeoverOffline(ctx, &conf, path, c.asJSON)
	}
	if err := c.check(); err != nil {
		return err
	}
	var res control.StateResponse
	req := control.PathRequest{Path: path, Timeout: c.timeout}
	if err := c.call(ctx, "takeover", http.MethodPost, "/takeover", req, &res); err != nil {
		return err
	}
	out := stateOutput{Status: res.Status, DBPath: res.Path, State: "running", TXID: res.TXID, Socket: c.socket}
	return a.printTakeover(out, c.asJSON)
}

func (a *app) printTakeover(out stateOutput, asJSON bool) error {
	if asJSON {
		return writeJSON(a.stdout, out)
	}
	return a.printFields(field{"status", out.Status}, field{"db_path", out.DBPath}, field{"state", out.State},
		field{"txid", out.TXID}, field{"socket", out.Socket})
}

// takeoverOffline lets the next start of the daemon take over.
func (a *app) takeoverOffline(ctx context.Context, conf *configFlags, path string, asJSON bool) error {
	cfg, err := conf.read(a)
	if err != nil {
		return err
	}
	if db := cfg.db(path); db != nil {
		err = litestream.TakeOverOffline(db.MetaPath)
	} else if cfg.MultiDB != nil {
		err = litestream.TakeOverTenantOffline(ctx, cfg.MultiDB.StateDir, path)
	} else {
		err = fmt.Errorf("%w: %s", litestream.ErrDatabaseNotFound, path)
	}
	if errors.Is(err, litestream.ErrDatabaseNotFound) {
		return fmt.Errorf("%w: the configuration and the state directory do not have it", err)
	} else if err != nil {
		return err
	}
	return a.printTakeover(stateOutput{Status: "noted", DBPath: path, State: "stopped"}, asJSON)
}
