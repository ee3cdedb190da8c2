package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/benbjohnson/litestream"
)

// fleetFlags are the flags of a restore of many databases.
type fleetFlags struct {
	all     bool
	globs   []string
	tenant  string
	from    string
	list    bool
	deleted bool
	order   string
	reserve string
	journal string

	parallelism int    // 0: not given
	nowhere     bool   // -o is given, and empty
	only        string // a flag that means something for many databases only
}

var fleetHelp = [][2]string{
	{"-all", "Restore every database of the configuration, or of -from."},
	{"-glob PATTERN", "Restore the databases whose path matches. May be repeated. A pattern\nthat does not begin with a slash matches at any depth."},
	{"-tenant NAME=VALUE,...", "Restore the databases of multi-db whose variables have these values."},
	{"-from URL", "With -all or -glob, or alone for all: no configuration. What lies\nbelow the URL is restored to -o, which is required."},
	{"-list", "With -all, -glob or -tenant: list the replica in place of reading\nits catalog."},
	{"-deleted", "With -all, -glob or -tenant: databases too whose file was deleted."},
	{"-order ORDER", "With -all, -glob or -tenant: small or recent ones first, or by name.\nThe default is name."},
	{"-reserve SIZE", "With -all, -glob or -tenant: what stays free on each file system,\nsuch as 2GiB. The default is 1 % of it, and at least 64 MiB."},
	{"-journal PATH", "With -all, -glob or -tenant: folder of the journal by which an\ninterrupted restore goes on. The default is below -o, else in state-dir."},
}

func (f *fleetFlags) register(fs *flag.FlagSet) {
	fs.BoolVar(&f.all, "all", false, "")
	fs.Func("glob", "", func(s string) error {
		f.globs = append(f.globs, s)
		return nil
	})
	fs.StringVar(&f.tenant, "tenant", "", "")
	fs.StringVar(&f.from, "from", "", "")
	fs.BoolVar(&f.list, "list", false, "")
	fs.BoolVar(&f.deleted, "deleted", false, "")
	fs.StringVar(&f.order, "order", string(litestream.FleetRestoreByName), "")
	fs.StringVar(&f.reserve, "reserve", "", "")
	fs.StringVar(&f.journal, "journal", "", "")
}

// isFleetFlag reports whether a flag chooses nothing, but says how many databases
// are restored.
func isFleetFlag(name string) bool {
	switch name {
	case "list", "deleted", "order", "reserve", "journal":
		return true
	default:
		return false
	}
}

// given reports whether many databases are to be restored.
func (f *fleetFlags) given() bool {
	return f.all || len(f.globs) > 0 || f.tenant != "" || f.from != ""
}

// checkFleet finds flags that do not go together with -all and the like.
func (o *restoreOptions) checkFleet(args []string) error {
	f := &o.fleet
	switch {
	case len(args) > 0:
		return fmt.Errorf("cannot specify %s with -all, -glob, -tenant or -from", args[0])
	case f.nowhere:
		return errors.New("-o is empty: leave it out to restore everything to its place, or name a folder")
	case o.opt.TXID != 0:
		return errors.New("cannot specify -txid for more than one database")
	case o.opt.Follow:
		return errors.New("cannot specify -f for more than one database")
	case o.allMissing:
		return errors.New("cannot specify -all-missing with -all, -glob, -tenant or -from")
	case o.opt.Force && o.ifDBNotExists:
		return errors.New("cannot specify both -force and -if-db-not-exists")
	case f.from != "" && o.conf.path != "":
		return errors.New("cannot specify both -from and -config")
	case f.from != "" && !litestream.IsURL(f.from):
		return fmt.Errorf("invalid -from: %s is no replica URL", f.from)
	case f.from != "" && f.tenant != "":
		return errors.New("cannot specify -tenant with -from: the variables are those of a configuration")
	case f.from != "" && o.opt.OutputPath == "":
		return &tryError{errors.New("-o is required with -from"), "litestream restore -from " + f.from + " -o /path/to/folder (-o / for the paths that the databases had)"}
	}
	if _, err := litestream.ParseFleetRestoreOrder(f.order); err != nil {
		return fmt.Errorf("invalid -order: %w", err)
	}
	return o.check()
}

// fleetRun is one restore of many databases.
type fleetRun struct {
	app    *app
	o      *restoreOptions
	src    *fleetSource
	logger *slog.Logger
	line   *progressLine

	r        *litestream.FleetRestore
	begin    time.Time
	warnings int
	writeErr error // of the report
}

func (a *app) restoreFleet(ctx context.Context, o *restoreOptions) (err error) {
	ctx, stop := a.cancelOnSignal(ctx)
	defer stop()
	run := &fleetRun{app: a, o: o, line: newProgressLine(a.stderr)}
	defer run.line.clear()
	if run.src, err = a.fleetSource(o); err != nil {
		return err
	}
	out := a.stdout
	if o.asJSON || o.dryRun || run.src.logging.Stderr {
		out = a.stderr
	}
	run.logger = newLogger(run.line.wrap(out), run.src.logging)
	run.src.logger, run.src.line = run.logger, run.line
	opt, err := run.options(ctx)
	if err != nil {
		return err
	}
	if run.r, err = litestream.NewFleetRestore(opt); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.r.Close()) }()
	if err := run.r.Load(ctx); err != nil {
		return err
	}
	run.line.clear()
	p := run.r.Progress()
	if err := run.src.nothing(p.Total, p.Deleted); err != nil {
		return err
	}
	for _, c := range run.src.catalogs {
		run.logger.Info("the catalog of the replica is read", "host", c.Host, "written_at", timeText(c.WrittenAt), "databases", c.Entries)
	}
	if p.Deleted > 0 {
		run.logger.Warn("databases whose files were deleted are left out (-deleted restores them, too)", "databases", p.Deleted)
	}
	if o.dryRun {
		return run.print(ctx)
	}
	run.begin = time.Now()
	stopTelling := run.tell()
	sum, err := run.r.Run(ctx)
	stopTelling()
	run.line.clear()
	return run.report(ctx, sum, err)
}

// options returns the options of the library.
func (run *fleetRun) options(ctx context.Context) (litestream.FleetRestoreOptions, error) {
	o, f := run.o, &run.o.fleet
	opt := litestream.FleetRestoreOptions{
		Root: o.opt.OutputPath, JournalDir: f.journal, Source: run.src.name, Open: run.src.open,
		Entries: run.src.entries(ctx), Deleted: f.deleted, Timestamp: o.opt.Timestamp,
		Order: litestream.FleetRestoreOrder(f.order), AllowMissing: o.ifReplicaExists,
		Parallelism: f.parallelism, IntegrityCheck: o.opt.IntegrityCheck, Report: run.note, Logger: run.logger,
	}
	opt.Lister, _ = run.src.root.(litestream.RangeLister)
	switch {
	case o.opt.Force:
		opt.Existing = litestream.FleetRestoreReplace
	case o.ifDBNotExists:
		opt.Existing = litestream.FleetRestoreSkip
	}
	if opt.Root == "" {
		opt.Root, opt.Ledger = "/", run.src.ledger
	}
	if opt.Root == "/" && opt.JournalDir == "" {
		opt.JournalDir = filepath.Join(run.src.stateDir, "restore")
	}
	if f.reserve != "" {
		n, err := humanize.ParseBytes(f.reserve)
		if err != nil || n == 0 {
			return opt, fmt.Errorf("invalid -reserve: %s", f.reserve)
		}
		opt.Reserve = int64(n)
	}
	var err error
	opt.Match, err = run.src.match(f)
	return opt, err
}

// fleetRow is a line of the report.
type fleetRow struct {
	DBPath     string `json:"db_path"`
	OutputPath string `json:"output_path"`
	Status     string `json:"status"`
	TXID       string `json:"txid,omitempty"`
	Timestamp  string `json:"timestamp,omitempty"`
	Bytes      int64  `json:"bytes"`
	SHA256     string `json:"sha256,omitempty"`
	DurationMS int64  `json:"duration_ms"`
	Error      string `json:"error,omitempty"`
	Warning    string `json:"warning,omitempty"`
}

// maxFleetWarnings is how many warnings about single databases are logged; the
// report has all of them.
const maxFleetWarnings = 20

// note reports one database.
func (run *fleetRun) note(row *litestream.FleetRestoreRow) {
	switch {
	case row.Status == litestream.FleetRestoreFailed || row.Status == litestream.FleetRestoreRefused:
		run.logger.Error("restore failed", "db", row.Path, "error", row.Err)
	case row.Behind:
		run.logger.Error("restored, but older than it should be", "db", row.Path, "reason", row.Warning)
	case row.Warning != "" && run.warnings < maxFleetWarnings:
		run.warnings++
		run.logger.Warn("restored, but not all is as it was", "db", row.Path, "reason", row.Warning)
	}
	if !run.o.asJSON {
		return
	}
	out := fleetRow{
		DBPath: row.Path, OutputPath: row.Target, Status: string(row.Status), Bytes: row.Bytes, SHA256: row.SHA256,
		DurationMS: row.Duration.Milliseconds(), Warning: row.Warning,
	}
	if row.TXID != 0 {
		out.TXID = row.TXID.String()
	}
	if !row.Timestamp.IsZero() {
		out.Timestamp = row.Timestamp.UTC().Format(time.RFC3339Nano)
	}
	if row.Err != nil {
		out.Error = row.Err.Error()
	}
	run.writeErr = errors.Join(run.writeErr, run.app.writeLine(out))
}

// writeLine prints a value as one line of JSON.
func (a *app) writeLine(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode json: %w", err)
	}
	_, err = a.stdout.Write(append(data, '\n'))
	return err
}

// tell shows how far the restore is: on a terminal all the time, else with a
// line every ten seconds.
func (run *fleetRun) tell() (stop func()) {
	every := 10 * time.Second
	if run.line.w != nil {
		every = 250 * time.Millisecond
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
			}
			text := formatFleetProgress(run.r.Progress(), time.Since(run.begin))
			if run.line.w != nil {
				run.line.set(text)
			} else {
				run.logger.Info(text) //nolint:sloglint // for people, as on a terminal
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// formatFleetProgress returns databases, bytes, rates, time left and failures.
func formatFleetProgress(p litestream.FleetRestoreProgress, elapsed time.Duration) string {
	text := fmt.Sprintf("restored %d of %d databases, %s", p.Finished-p.Failed, p.Total, humanize.Bytes(uint64(max(p.Bytes, 0))))
	if p.TotalBytes > 0 && p.UnknownSizes == 0 {
		text += " of " + humanize.Bytes(uint64(p.TotalBytes))
	}
	if s := elapsed.Seconds(); s >= 0.5 && p.Finished > 0 {
		part := float64(p.Finished) / float64(p.Total)
		if p.TotalBytes > 0 && p.UnknownSizes == 0 { // the slower of both
			part = min(part, float64(p.Bytes)/float64(p.TotalBytes))
		}
		text += fmt.Sprintf("  %.0f/s  %s/s", float64(p.Finished)/s, humanize.Bytes(uint64(float64(p.Bytes)/s)))
		if part > 0 {
			left := time.Duration(s * max(1/part-1, 0) * float64(time.Second))
			text += fmt.Sprintf("  %s left", left.Round(time.Second))
		}
	}
	if p.Failed > 0 {
		text += fmt.Sprintf("  %d failed", p.Failed)
	}
	return text
}

// fleetTotals is the last line of the report.
type fleetTotals struct {
	Source     string `json:"source"`
	Total      int    `json:"total"`
	Restored   int    `json:"restored"`
	Verified   int    `json:"verified"`
	Skipped    int    `json:"skipped"`
	Refused    int    `json:"refused"`
	Failed     int    `json:"failed"`
	Left       int    `json:"left"`
	Unclear    int    `json:"unclear"`
	Unlisted   int    `json:"unlisted"`
	Deleted    int    `json:"deleted"`
	Behind     int    `json:"behind"`
	Warnings   int    `json:"warnings"`
	Bytes      int64  `json:"bytes"`
	DurationMS int64  `json:"duration_ms"`
	Stopped    string `json:"stopped,omitempty"`
}

// report prints the outcome, and returns it as an error unless all is there.
func (run *fleetRun) report(ctx context.Context, s litestream.FleetRestoreSummary, err error) error {
	took := time.Since(run.begin)
	if err == nil && s.Stopped == nil {
		err = run.src.findUnlisted(ctx, &run.o.fleet)
	}
	if run.o.asJSON {
		sum := fleetTotals{
			Source: run.src.kind, Total: s.Total, Restored: s.Restored, Verified: s.Verified, Skipped: s.Skipped, Refused: s.Refused,
			Failed: s.Failed, Left: s.Left, Unclear: run.src.unclear,
			Unlisted: run.src.unlisted, Deleted: run.r.Progress().Deleted, Behind: s.Behind, Warnings: s.Warnings, Bytes: s.Bytes, DurationMS: took.Milliseconds(),
		}
		if s.Stopped != nil {
			sum.Stopped = s.Stopped.Error()
		}
		run.writeErr = errors.Join(run.writeErr, run.app.writeLine(struct {
			Summary fleetTotals `json:"summary"`
		}{sum}))
	} else {
		run.logger.Info("restore ended", "databases", s.Total, "restored", s.Restored, "verified", s.Verified, "skipped", s.Skipped,
			"refused", s.Refused, "failed", s.Failed, "left", s.Left, "warnings", s.Warnings, "bytes", s.Bytes, "duration", took)
	}
	if err := errors.Join(err, run.writeErr); err != nil {
		return err
	}
	var why []string
	if n := s.Failed + s.Refused; n > 0 {
		why = append(why, fmt.Sprintf("%d failed, the first is %s: %v", n, s.FirstPath, s.First))
	}
	if s.Left > 0 {
		why = append(why, fmt.Sprintf("%d %s not tried", s.Left, wasWere(s.Left)))
	}
	if run.src.unclear > 0 {
		why = append(why, fmt.Sprintf("%d replicas do not tell their database", run.src.unclear))
	}
	if s.Behind > 0 {
		why = append(why, fmt.Sprintf("%d are older than they should be", s.Behind))
	}
	if run.src.unlisted > 0 {
		why = append(why, fmt.Sprintf("%d are on the replica and not in its catalog (the same command with -list -if-db-not-exists restores them, too)", run.src.unlisted))
	}
	if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) {
		why = append(why, "the restore was "+cause.Error()+" and goes on when it is started again")
	} else if s.Stopped != nil && s.Left > 0 {
		why = append(why, s.Stopped.Error())
	}
	if len(why) == 0 {
		return nil
	}
	err = fmt.Errorf("restored %d of %d databases: %s", s.Done(), s.Total, strings.Join(why, "; "))
	if s.Done() > 0 {
		return partialError{err}
	}
	return err
}
