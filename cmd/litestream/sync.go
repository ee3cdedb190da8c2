package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/benbjohnson/litestream/internal/control"
)

var syncHelp = help{
	about: "sync has a running daemon capture what was committed to a database now and, with -wait, returns when its replica\nholds that. With -all it does so for every database that changed.",
	forms: []string{"sync [arguments] DB_PATH", "sync [arguments] -all"},
	flags: [][2]string{
		{"-wait", "Return when everything is on the replica."},
		{"-all", "Every database that changed, those of multi-db included. Prints what\nwas left when the time was up, and exits with 1 then."},
		timeoutFlag(defaultClientTimeout), socketFlag, rawFlag,
	},
	notes: `A database of multi-db need not have been looked at before: the first sync of
it is its first backup. "sync -all -wait" is made for a hook that runs before a
host or container goes away.`,
	examples: []string{"sync /path/to/db", "sync -json /path/to/db", "sync -wait -timeout 120 /path/to/db", "sync -all -wait -timeout 60"},
}

// syncOutput is what sync prints as JSON.
type syncOutput struct {
	DBPath      string  `json:"db_path"`
	TXID        uint64  `json:"txid"`
	ReplicaTXID *uint64 `json:"replica_txid,omitempty"` // with -wait
	DurationMS  int64   `json:"duration_ms"`
}

func (a *app) runSync(ctx context.Context, args []string) error {
	var c client
	fs := a.newFlagSet("litestream-sync", &syncHelp)
	c.register(fs, defaultClientTimeout)
	wait := fs.Bool("wait", false, "wait for the replica")
	all := fs.Bool("all", false, "all databases")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *all {
		if fs.NArg() > 0 {
			return errors.New("cannot specify a database path and the -all flag")
		} else if err := c.check(); err != nil {
			return err
		}
		return a.syncAll(ctx, &c, *wait)
	}
	path, err := oneDatabase(fs.Args(), "litestream sync /path/to/db")
	if err != nil {
		return err
	} else if err := c.check(); err != nil {
		return err
	}
	if path, err = expandPath(path); err != nil {
		return err
	}
	start := time.Now()
	var res control.SyncResponse
	req := control.SyncRequest{Path: path, Wait: *wait, Timeout: c.timeout}
	if err := c.call(ctx, "sync", http.MethodPost, "/sync", req, &res); err != nil {
		return err
	}
	out := syncOutput{DBPath: res.Path, TXID: res.TXID, DurationMS: time.Since(start).Milliseconds()}
	fields := []field{{"db_path", out.DBPath}, {"txid", out.TXID}}
	if *wait {
		out.ReplicaTXID = &res.ReplicatedTXID
		fields = append(fields, field{"replica_txid", res.ReplicatedTXID})
	}
	if c.asJSON {
		return writeJSON(a.stdout, out)
	}
	return a.printFields(append(fields, field{"duration_ms", out.DurationMS})...)
}

// syncAllOutput is what sync -all prints as JSON.
type syncAllOutput struct {
	control.SyncAllResponse
	DurationMS int64 `json:"duration_ms"`
}

func (a *app) syncAll(ctx context.Context, c *client, wait bool) error {
	start := time.Now()
	var res control.SyncAllResponse
	req := control.SyncRequest{All: true, Wait: wait, Timeout: c.timeout}
	if err := c.call(ctx, "sync", http.MethodPost, "/sync", req, &res); err != nil {
		return err
	}
	var err error
	if c.asJSON {
		err = writeJSON(a.stdout, syncAllOutput{res, time.Since(start).Milliseconds()})
	} else {
		err = a.printFields(field{"databases", res.Databases}, field{"synced", res.Synced}, field{"failed", res.Failed},
			field{"left", res.Left}, field{"duration_ms", time.Since(start).Milliseconds()})
	}
	if err != nil || res.Failed+res.Left == 0 {
		return err
	}
	for _, e := range res.Errors {
		printf(a.stderr, "%s\n", e)
	}
	return fmt.Errorf("sync incomplete: %d databases failed, %d were left when the time was up", res.Failed, res.Left)
}
