package main

import (
	"context"
	"errors"
)

var databasesHelp = help{
	about:    "databases lists the databases of the configuration file and the kind of their replicas.",
	forms:    []string{"databases [arguments]"},
	flags:    [][2]string{configFlag, jsonFlag, expandEnvFlag},
	examples: []string{"databases", "databases -json -config /path/to/litestream.yml"},
}

var errTooManyArguments = errors.New("too many arguments")

func (a *app) runDatabases(_ context.Context, args []string) error {
	var conf configFlags
	fs := a.newFlagSet("litestream-databases", &databasesHelp)
	conf.register(fs)
	asJSON := fs.Bool("json", false, "print json")
	if err := fs.Parse(args); err != nil {
		return err
	} else if fs.NArg() > 0 {
		return errTooManyArguments
	}
	cfg, err := conf.read(a)
	if err != nil {
		return err
	}

	type entry struct {
		Path    string `json:"path"`
		Replica string `json:"replica"`
	}
	entries, rows := []entry{}, [][]string{}
	for _, db := range cfg.DBs {
		e := entry{Path: db.Path, Replica: db.Replica.replicaType()}
		entries = append(entries, e)
		rows = append(rows, []string{e.Path, e.Replica})
	}
	if *asJSON {
		return writeJSON(a.stdout, entries)
	}
	return writeTable(a.stdout, []string{"path", "replica"}, rows)
}
