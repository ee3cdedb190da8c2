package main

import (
	"context"
	"net/http"

	"github.com/benbjohnson/litestream/internal/control"
)

var reloadHelp = help{
	about: "reload has a running daemon read its configuration file again, and shows what that changes. The daemon does the\nsame at SIGHUP and tells of it in its log.",
	forms: []string{"reload [arguments]"},
	flags: [][2]string{
		{"-dry-run", "Only show what would change."},
		timeoutFlag(defaultClientTimeout), socketFlag, rawFlag,
	},
	notes: `The file is the one that the daemon was started with, and all of it is checked
first. If something is wrong the old configuration stays in force, and the error
names key and line.

What has not changed is not touched. A database that leaves dbs is synced a last
time and its replica stays, as for one of multi-db that no pattern matches any
more. One whose entry has changed is synced and begun again with the new
settings, where it left off. What cannot change while the daemon runs is listed
as keep-until-restart.

Should a last sync fail, because a replica is away, the rest is changed all the
same; the error tells, and what was captured stays on this host. The daemon goes
on with a reload that takes longer than -timeout.`,
	examples: []string{"reload -dry-run", "reload", "reload -json -socket /tmp/litestream.sock"},
}

func (a *app) runReload(ctx context.Context, args []string) error {
	var c client
	fs := a.newFlagSet("litestream-reload", &reloadHelp)
	c.register(fs, defaultClientTimeout)
	dryRun := fs.Bool("dry-run", false, "only show what would change")
	if err := fs.Parse(args); err != nil {
		return err
	} else if fs.NArg() > 0 {
		return errTooManyArguments
	} else if err := c.check(); err != nil {
		return err
	}
	var report control.ReloadReport
	req := control.ReloadRequest{DryRun: *dryRun, Timeout: c.timeout}
	if err := c.call(ctx, "reload", http.MethodPost, "/reload", req, &report); err != nil {
		return err
	}
	if c.asJSON {
		return writeJSON(a.stdout, report)
	}
	return a.printReload(&report)
}

func (a *app) printReload(report *control.ReloadReport) error {
	if len(report.Changes) == 0 {
		printf(a.stdout, "Nothing has changed.\n")
		return nil
	}
	rows := make([][]string, 0, len(report.Changes))
	for _, c := range report.Changes {
		what := c.What
		if c.Path != "" {
			what += " " + printable(c.Path)
		}
		rows = append(rows, []string{c.Action, what, printable(c.Detail)})
	}
	if err := writeTable(a.stdout, []string{"action", "what", "detail"}, rows); err != nil {
		return err
	}
	if !report.Applied {
		printf(a.stdout, "\nNothing was changed: this was a dry run.\n")
	}
	return nil
}
