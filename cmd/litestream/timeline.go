package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
)

var timelineHelp = help{
	about: "timeline shows what a database can be restored to, by its replica alone.",
	forms: []string{"timeline [arguments] DB_PATH", "timeline [arguments] REPLICA_URL"},
	flags: [][2]string{
		configFlag, expandEnvFlag,
		{"-points", "List every restore point, in place of a summary by age."},
		{"-hostname NAME", "Value of {{hostname}} in the replica template of multi-db."},
		{"-json", "Print JSON, with every restore point."},
	},
	notes: `A restore point is the end of a file that a chain of files leads to. Compaction and retention leave fewer of them
with age. "litestream restore -txid TXID" restores one; -timestamp T the last one before T.`,
	examples: []string{"timeline /path/to/db", "timeline -points s3://bucket/db"},
}

// timelineReport is a timeline as JSON has it.
type timelineReport struct {
	Points      []timelinePoint `json:"points"`
	Unreachable []timelinePoint `json:"unreachable"`
	Spans       []timelineSpan  `json:"spans"`
}

type timelinePoint struct {
	TXID      string `json:"txid"`
	Timestamp string `json:"timestamp"`
}

type timelineSpan struct {
	MinAge         string        `json:"min_age"`
	MaxAge         string        `json:"max_age,omitempty"`
	Points         int           `json:"points"`
	Oldest         timelinePoint `json:"oldest"`
	Newest         timelinePoint `json:"newest"`
	TypicalSeconds float64       `json:"typical_gap_seconds"`
	LargestSeconds float64       `json:"largest_gap_seconds"`
}

func (a *app) runTimeline(ctx context.Context, args []string) error {
	var conf configFlags
	fs := a.newFlagSet("litestream-timeline", &timelineHelp)
	conf.register(fs)
	points := fs.Bool("points", false, "list points")
	hostname := fs.String("hostname", "", "hostname")
	asJSON := fs.Bool("json", false, "print json")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() == 0:
		return &tryError{errors.New("database path or replica URL required"), "litestream timeline /path/to/db"}
	case fs.NArg() > 1:
		return errTooManyArguments
	}
	ctx, stop := a.cancelOnSignal(ctx)
	defer stop()
	src, err := a.findReplica(&conf, fs.Arg(0), *hostname)
	if err != nil {
		return err
	}
	src.client.SetLogger(newLogger(a.stderr, src.logging))
	t, err := litestream.OpenTimeline(ctx, src.client)
	if errors.Is(err, litestream.ErrNoBackups) {
		return noPoints(ctx, src, err)
	} else if err != nil {
		return err
	}
	switch {
	case *asJSON:
		return writeJSON(a.stdout, newTimelineReport(t, time.Now()))
	case *points:
		return a.printPoints(t)
	default:
		return a.printTimeline(src.arg, t, time.Now())
	}
}

// noPoints is the error of a replica without restore points, which may be a
// backup of Litestream v0.3.
func noPoints(ctx context.Context, src *source, none error) error {
	files, err := litestream.ListV03(ctx, src.client)
	if err != nil || len(files) == 0 {
		return errors.Join(fmt.Errorf("no restore point of %s: %w", src.arg, none), err)
	}
	oldest, newest := files[0].CreatedAt, files[0].CreatedAt
	for _, f := range files {
		if f.CreatedAt.Before(oldest) {
			oldest = f.CreatedAt
		}
		if f.CreatedAt.After(newest) {
			newest = f.CreatedAt
		}
	}
	return fmt.Errorf("%s holds a backup of Litestream v0.3 only, made from %s to %s: it has no transactions to list; restore -timestamp T restores it",
		src.arg, oldest.UTC().Format(time.RFC3339), newest.UTC().Format(time.RFC3339))
}

func newTimelineReport(t *litestream.Timeline, now time.Time) *timelineReport {
	r := &timelineReport{Points: []timelinePoint{}, Unreachable: []timelinePoint{}, Spans: []timelineSpan{}}
	for _, p := range t.Points {
		r.Points = append(r.Points, newTimelinePoint(p))
	}
	for _, p := range t.Unreachable {
		r.Unreachable = append(r.Unreachable, newTimelinePoint(p))
	}
	for _, s := range t.Spans(now) {
		span := timelineSpan{
			MinAge: s.MinAge.String(), Points: s.Points, Oldest: newTimelinePoint(s.Oldest), Newest: newTimelinePoint(s.Newest),
			TypicalSeconds: s.Typical.Seconds(), LargestSeconds: s.Largest.Seconds(),
		}
		if s.MaxAge > 0 {
			span.MaxAge = s.MaxAge.String()
		}
		r.Spans = append(r.Spans, span)
	}
	return r
}

func countOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func newTimelinePoint(p litestream.TimelinePoint) timelinePoint {
	return timelinePoint{p.TXID.String(), p.At.UTC().Format(time.RFC3339Nano)}
}

func (a *app) printPoints(t *litestream.Timeline) error {
	table := chunkedTable{w: a.stdout, header: []string{"txid", "timestamp"}}
	for _, p := range t.Points {
		point := newTimelinePoint(p)
		if err := table.add([]string{point.TXID, point.Timestamp}); err != nil {
			return err
		}
	}
	if err := table.flush(); err != nil {
		return err
	}
	a.noteLost(t)
	return nil
}

// printTimeline tells a timeline in words.
func (a *app) printTimeline(name string, t *litestream.Timeline, now time.Time) error {
	printf(a.stdout, "%s: %s\n", printable(name), countOf(len(t.Points), "restore point"))
	if len(t.Points) > 0 {
		for _, end := range []struct {
			name string
			p    litestream.TimelinePoint
		}{{"newest", t.Points[len(t.Points)-1]}, {"oldest", t.Points[0]}} {
			p := newTimelinePoint(end.p)
			printf(a.stdout, "  %s  %s, txid %s, %s old\n", end.name, p.Timestamp, p.TXID, roundAge(now.Sub(end.p.At)))
		}
		printf(a.stdout, "\n")
		var rows [][]string
		for _, s := range t.Spans(now) {
			typical, largest := "-", "-"
			if s.Largest > 0 {
				typical, largest = roundAge(s.Typical), roundAge(s.Largest)
			}
			rows = append(rows, []string{spanName(&s), strconv.Itoa(s.Points), typical, largest})
		}
		if err := writeTable(a.stdout, []string{"age", "points", "typical distance", "longest"}, rows); err != nil {
			return err
		}
		printf(a.stdout, "\nA long distance may also be a time without changes.\n")
	}
	a.noteLost(t)
	return nil
}

// noteLost warns of files behind the newest point.
func (a *app) noteLost(t *litestream.Timeline) {
	n, points := len(t.Unreachable), len(t.Points)
	if n == 0 || points > 0 && t.Unreachable[n-1].TXID < t.Points[points-1].TXID {
		return
	}
	printf(a.stderr, "Warning: the newest position, txid %s, cannot be restored: files ahead of it are missing. litestream verify names them.\n", t.Unreachable[n-1].TXID)
}

// spanName is such as "5m to 1h".
func spanName(s *litestream.TimelineSpan) string {
	switch {
	case s.MinAge == 0:
		return "up to " + roundAge(s.MaxAge)
	case s.MaxAge == 0:
		return "over " + roundAge(s.MinAge)
	default:
		return roundAge(s.MinAge) + " to " + roundAge(s.MaxAge)
	}
}

// roundAge writes a time span as people say it: 45s, 5m, 2h30m, 3d.
func roundAge(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = d.Abs(); {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		d = d.Round(time.Second)
	case d < 2*day:
		d = d.Round(time.Minute)
	default:
		return strconv.Itoa(int(d.Round(day)/day)) + "d"
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}
