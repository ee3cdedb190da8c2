package main

import "context"

var stopHelp = help{
	about: "stop has a running daemon sync a database a last time and stop replicating it, until a start or until the daemon\nstarts again. If the last sync fails the database is stopped all the same, and the error says what is missing.",
	forms: []string{"stop [arguments] DB_PATH"},
	flags: [][2]string{timeoutFlag(defaultClientTimeout), socketFlag, rawFlag},
	notes: `A database of multi-db that is stopped stays in its pattern; compaction and
retention of its replica go on.`,
	examples: []string{"stop /path/to/db", "stop -json /path/to/db", "stop -timeout 10 /path/to/db"},
}

func (a *app) runStop(ctx context.Context, args []string) error {
	return a.changeState(ctx, args, "stop", "stopped", &stopHelp)
}
