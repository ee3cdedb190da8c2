package main

import (
	"context"
	"net/http"

	"github.com/benbjohnson/litestream/internal/control"
)

var unregisterHelp = help{
	about: "unregister has a running daemon sync a database a last time and forget it. Its replica stays. One that the\nconfiguration file names comes back when the daemon starts again.",
	forms: []string{"unregister [arguments] DB_PATH"},
	flags: [][2]string{
		{"-dry-run", "Print what would be asked for, and ask for nothing."},
		timeoutFlag(defaultClientTimeout), socketFlag, rawFlag,
	},
	examples: []string{"unregister /path/to/db", "unregister -json /path/to/db", "unregister -dry-run /path/to/db"},
}

// unregisterOutput is what unregister prints as JSON.
type unregisterOutput struct {
	Status    string `json:"status"`
	DBPath    string `json:"db_path"`
	FinalTXID uint64 `json:"final_txid"`
	Socket    string `json:"socket"`
}

func (a *app) runUnregister(ctx context.Context, args []string) error {
	var c client
	fs := a.newFlagSet("litestream-unregister", &unregisterHelp)
	c.register(fs, defaultClientTimeout)
	dryRun := fs.Bool("dry-run", false, "preview")
	if err := fs.Parse(args); err != nil {
		return err
	}
	path, err := oneDatabase(fs.Args(), "litestream unregister /path/to/db")
	if err != nil {
		return err
	} else if err := c.check(); err != nil {
		return err
	}
	if *dryRun {
		printf(a.stdout, "Dry run: unregister request preview\n  database: %s\n  socket: %s\n"+
			"  replicas: daemon-managed replica for this database\n"+
			"  final sync: daemon close will sync the database and replica before the command completes\n"+
			"  timeout: %ds\nNo unregister request was sent.\n", path, c.socket, c.timeout)
		return nil
	}
	if path, err = expandPath(path); err != nil {
		return err
	}
	var res control.StateResponse
	req := control.PathRequest{Path: path, Timeout: c.timeout}
	if err := c.call(ctx, "unregister", http.MethodPost, "/unregister", req, &res); err != nil {
		return err
	}
	out := unregisterOutput{Status: res.Status, DBPath: res.Path, FinalTXID: res.TXID, Socket: c.socket}
	if c.asJSON {
		return writeJSON(a.stdout, out)
	}
	return a.printFields(field{"status", out.Status}, field{"db_path", out.DBPath},
		field{"final_txid", out.FinalTXID}, field{"socket", out.Socket})
}
