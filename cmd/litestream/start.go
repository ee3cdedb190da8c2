package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/benbjohnson/litestream/internal/control"
)

var startHelp = help{
	about:    "start has a running daemon replicate a database again that was stopped.",
	forms:    []string{"start [arguments] DB_PATH"},
	flags:    [][2]string{timeoutFlag(defaultClientTimeout), socketFlag, rawFlag},
	examples: []string{"start /path/to/db", "start -json /path/to/db", "start -socket /tmp/litestream.sock /path/to/db"},
}

// stateOutput is what start and stop print as JSON.
type stateOutput struct {
	Status string `json:"status"`
	DBPath string `json:"db_path"`
	State  string `json:"state"` // running or stopped
	TXID   uint64 `json:"txid"`
	Socket string `json:"socket"`
}

func (a *app) runStart(ctx context.Context, args []string) error {
	return a.changeState(ctx, args, "start", "running", &startHelp)
}

// changeState is start or stop.
func (a *app) changeState(ctx context.Context, args []string, verb, state string, h *help) error {
	var c client
	fs := a.newFlagSet("litestream-"+verb, h)
	c.register(fs, defaultClientTimeout)
	if err := fs.Parse(args); err != nil {
		return err
	}
	path, err := oneDatabase(fs.Args(), "litestream "+verb+" /path/to/db")
	if err != nil {
		return err
	}
	if path, err = expandPath(path); err != nil {
		return err
	}
	switch {
	case c.timeout < 0:
		return errors.New("timeout must not be negative")
	case c.timeout == 0: // upstream takes 0 for no limit of its own
		c.timeout = defaultClientTimeout
	}
	var res control.StateResponse
	req := control.PathRequest{Path: path, Timeout: c.timeout}
	if err := c.call(ctx, verb, http.MethodPost, "/"+verb, req, &res); err != nil {
		return err
	}
	out := stateOutput{Status: res.Status, DBPath: res.Path, State: state, TXID: res.TXID, Socket: c.socket}
	if c.asJSON {
		return writeJSON(a.stdout, out)
	}
	return a.printFields(field{"status", out.Status}, field{"db_path", out.DBPath}, field{"state", out.State},
		field{"txid", out.TXID}, field{"socket", out.Socket})
}
