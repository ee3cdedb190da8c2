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
	forms: []string{"takeover [arguments] DB_PATH", "takeover -offline [-config PATH] DB_PATH"},
	flags: [][2]string{
		timeoutFlag(defaultTakeoverTimeout), socketFlag, rawFlag,
		{"-offline", "No daemon runs here: leave a note that its next start takes over."},
		configFlag, expandEnvFlag,
	},
	notes: `Stop the other daemon first, or the database in it. If it writes on, it loses the
replica with its next upload; what it uploads while this command runs may make
that fail, with exit status 1, and then it may be run again.`,
	examples: []string{"takeover /path/to/db", "takeover -json /path/to/db", "takeover -offline -config /etc/litestream.yml /path/to/db"},
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
	if err := fs.Parse(args); err != nil {
		return err
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
