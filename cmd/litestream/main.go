// Command litestream replicates SQLite databases to object storage and
// restores them. It parses flags and the configuration file and prints; what
// it does beyond that is in package litestream.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, signals: notifySignals, hangups: notifyHangups, newRunner: newStore}
	copyEnv("LITESTREAM_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID")
	copyEnv("LITESTREAM_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY")
	os.Exit(a.main(context.Background(), os.Args[1:]))
}

// copyEnv sets one variable from another where only the other is set.
func copyEnv(from, to string) {
	if v := os.Getenv(from); v != "" && os.Getenv(to) == "" {
		_ = os.Setenv(to, v) // fails for malformed names only, and these are ours
	}
}

// app is one run of the command; tests give it writers of their own.
type app struct {
	stdin          io.Reader // nil: there is nobody to ask
	stdout, stderr io.Writer

	// signals delivers interrupts until stop is called.
	signals func() (c <-chan os.Signal, stop func())

	// hangups delivers SIGHUP until stop is called; nil: nobody listens.
	hangups func() (c <-chan os.Signal, stop func())

	// newRunner makes what replicate keeps running. It starts nothing.
	newRunner func(ctx context.Context, cfg *Config, reg prometheus.Registerer, logger *slog.Logger) (runner, error)
}

// errUsage ends the command with status 1 when all has been said already.
var errUsage = errors.New("usage")

// tryError is an error with a command that would have worked.
type tryError struct {
	error
	try string
}

// Unwrap returns the error itself.
func (e *tryError) Unwrap() error { return e.error }

// main runs the command line and returns the exit status: 0, exitPartial,
// exitUsage, or 1 after any other error.
func (a *app) main(ctx context.Context, args []string) int {
	err := a.run(ctx, args)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if !errors.Is(err, errUsage) && !errors.Is(err, errDiffers) {
		printf(a.stderr, "Error: %v\n", err)
		if try, ok := errors.AsType[*tryError](err); ok {
			printf(a.stderr, "Try: %s\n", try.try)
		}
	}
	if _, ok := errors.AsType[partialError](err); ok {
		return exitPartial
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return 1
}

// command is one word of the command line.
type command struct {
	name    string
	summary string // for the list in the usage text
	help    *help
	run     func(a *app, ctx context.Context, args []string) error
}

// commands returns all commands in the order of the usage text.
func commands() []command {
	return []command{
		{"databases", "list the databases of the configuration file", &databasesHelp, (*app).runDatabases},
		{"diff", "show what changed between two restore points", &diffHelp, (*app).runDiff},
		{"doctor", "try the storage of replicas and say what to change", &doctorHelp, (*app).runDoctor},
		{"info", "show what a running daemon says of itself", &infoHelp, (*app).runInfo},
		{"list", "list the databases of a running daemon", &listHelp, (*app).runList},
		{"list-tenants", "list the databases that a replica holds", &listTenantsHelp, (*app).runListTenants},
		{"ltx", "list the LTX files of a replica", &ltxHelp, (*app).runLTX},
		{"purge", "delete the backup of a deleted database", &purgeHelp, (*app).runPurge},
		{"register", "add a database to a running daemon", &registerHelp, (*app).runRegister},
		{"reload", "have a running daemon read its configuration again", &reloadHelp, (*app).runReload},
		{"replicate", "replicate databases until stopped, or once", &replicateHelp, (*app).runReplicate},
		{"reset", "forget the local replication state of a database", &resetHelp, (*app).runReset},
		{"restore", "write a database from a replica", &restoreHelp, (*app).runRestore},
		{"start", "start replicating a database of a running daemon", &startHelp, (*app).runStart},
		{"status", "show the local replication state of databases", &statusHelp, (*app).runStatus},
		{"stop", "stop replicating a database of a running daemon", &stopHelp, (*app).runStop},
		{"sync", "sync a database of a running daemon now", &syncHelp, (*app).runSync},
		{"takeover", "make this host the writer of a replica that another one writes to", &takeoverHelp, (*app).runTakeover},
		{"timeline", "show what a database can be restored to", &timelineHelp, (*app).runTimeline},
		{"unregister", "remove a database from a running daemon", &unregisterHelp, (*app).runUnregister},
		{"verify", "look for damage of replicas", &verifyHelp, (*app).runVerify},
		{"version", "print the version", &versionHelp, (*app).runVersion},
	}
}

func (a *app) run(ctx context.Context, args []string) error {
	var name string
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "help", "-h", "-help", "--help":
		a.printUsage()
		return nil
	case "wal":
		printf(a.stderr, "Warning: 'wal' command is deprecated, please use 'ltx' instead\n")
		name = "ltx"
	}
	if name == "" || strings.HasPrefix(name, "-") {
		a.printUsage()
		return errUsage
	}
	for _, c := range commands() {
		switch {
		case c.name != name:
			continue
		case len(args) > 0 && isHelpFlag(args[0]):
			c.help.print(a.stdout)
			return nil
		}
		return c.run(a, ctx, args)
	}
	return fmt.Errorf("litestream %s: unknown command", name)
}

func isHelpFlag(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }
