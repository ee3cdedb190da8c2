package main

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/benbjohnson/litestream/internal/control"
)

const registerTry = "litestream register -replica s3://bucket/prefix /path/to/db"

var registerHelp = help{
	about: "register has a running daemon replicate one more database, until it is unregistered or the daemon stops. To keep it,\nadd it to the configuration file, too.",
	forms: []string{"register [arguments] -replica URL DB_PATH"},
	flags: [][2]string{
		{"-replica URL", "Where to, such as s3://bucket/prefix or file:///backup/path. Required.\nWhat the configuration file sets for all replicas holds for it, too."},
		timeoutFlag(defaultClientTimeout), socketFlag, rawFlag,
	},
	notes: `The file of the database may come into being later. A database that is
replicated already, under this path, another one or a pattern, and a replica
that belongs to another database, are errors.`,
	examples: []string{
		"register -replica s3://mybucket/db /path/to/db", "register -replica file:///backup/path /path/to/db",
		"register -socket /tmp/litestream.sock -replica s3://mybucket/db /path/to/db",
	},
}

// registerOutput is what register prints as JSON.
type registerOutput struct {
	Status  string `json:"status"`
	DBPath  string `json:"db_path"`
	Replica string `json:"replica"`
	Socket  string `json:"socket"`
}

func (a *app) runRegister(ctx context.Context, args []string) error {
	var c client
	fs := a.newFlagSet("litestream-register", &registerHelp)
	c.register(fs, defaultClientTimeout)
	replica := fs.String("replica", "", "replica URL")
	if err := fs.Parse(args); err != nil {
		return err
	}
	path, err := oneDatabase(fs.Args(), registerTry)
	if err != nil {
		return err
	} else if *replica == "" {
		return &tryError{errors.New("-replica is required"), registerTry}
	} else if err := c.check(); err != nil {
		return err
	}
	if path, err = expandPath(path); err != nil {
		return err
	}
	var res control.RegisterResponse
	req := control.RegisterRequest{Path: path, ReplicaURL: *replica, Timeout: c.timeout}
	if err := c.call(ctx, "register", http.MethodPost, "/register", req, &res); err != nil {
		return err
	}
	out := registerOutput{Status: res.Status, DBPath: res.Path, Replica: *replica, Socket: c.socket}
	if c.asJSON {
		return writeJSON(a.stdout, out)
	}
	return a.printFields(field{"status", strings.ReplaceAll(out.Status, "_", " ")}, field{"db_path", out.DBPath},
		field{"replica", redactURL(out.Replica)}, field{"socket", out.Socket})
}
