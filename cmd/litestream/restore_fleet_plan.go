package main

import (
	"bufio"
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/benbjohnson/litestream"
)

// What a dry run reads to tell how long a restore may take.
const (
	fleetSampleN     = 64
	fleetSampleLimit = 3 * time.Second
)

// fleetPlanRow is a database that would be restored.
type fleetPlanRow struct {
	DBPath     string `json:"db_path"`
	OutputPath string `json:"output_path"`
	Bytes      int64  `json:"bytes,omitempty"`
	TXID       string `json:"txid,omitempty"`
	SyncedAt   string `json:"synced_at,omitempty"`
	DeletedAt  string `json:"deleted_at,omitempty"`
	Error      string `json:"error,omitempty"`
}

// fleetPlanTotals is the last line of a dry run.
type fleetPlanTotals struct {
	Source       string  `json:"source"`
	Databases    int     `json:"databases"`
	Bytes        int64   `json:"bytes"`
	UnknownSizes int     `json:"unknown_sizes"`
	Unclear      int     `json:"unclear"`
	SampleN      int     `json:"sample"`
	SampleMS     int64   `json:"sample_ms"`
	SampleFailed int     `json:"sample_failed"`
	Seconds      float64 `json:"estimated_seconds,omitempty"`
}

// print shows what would be restored, how much that is and how long it may take.
func (run *fleetRun) print(ctx context.Context) error {
	w := bufio.NewWriter(run.app.stdout)
	plain := &app{stdout: w}
	var rowErr error
	if !run.o.asJSON {
		printf(w, "%-12s  %-16s  %-20s  %s\n", "size", "txid", "synced", "database")
	}
	err := run.r.Rows(func(e *litestream.FleetRestoreEntry, target string) bool {
		row := fleetPlanRow{
			DBPath: e.Path, OutputPath: target, Bytes: e.Size, Error: e.Problem,
			SyncedAt: timeText(e.SyncedAt), DeletedAt: timeText(e.DeletedAt),
		}
		if e.TXID != 0 {
			row.TXID = e.TXID.String()
		}
		if run.o.asJSON {
			rowErr = plain.writeLine(row)
			return rowErr == nil
		}
		size, note := "-", ""
		if e.Size > 0 {
			size = humanize.Bytes(uint64(e.Size))
		}
		switch {
		case e.Problem != "":
			note = "  not restorable: " + e.Problem
		case row.DeletedAt != "":
			note = "  deleted " + row.DeletedAt
		}
		printf(w, "%-12s  %-16s  %-20s  %s%s\n", size, orDash(row.TXID), orDash(row.SyncedAt), e.Path, note)
		return true
	})
	if err := firstError(err, rowErr, w.Flush()); err != nil {
		return err
	}
	return run.printPlanSummary(run.r.Sample(ctx, fleetSampleN, fleetSampleLimit))
}

func (run *fleetRun) printPlanSummary(s litestream.FleetRestoreSample) error {
	p := run.r.Progress()
	left := estimateFleet(p, s)
	if run.o.asJSON {
		return run.app.writeLine(struct {
			Summary fleetPlanTotals `json:"summary"`
		}{fleetPlanTotals{
			Source: run.src.kind, Databases: p.Total, Bytes: p.TotalBytes, UnknownSizes: p.UnknownSizes, Unclear: run.src.unclear,
			SampleN: s.Databases, SampleMS: s.Elapsed.Milliseconds(), SampleFailed: s.Failed, Seconds: left.Seconds(),
		}})
	}
	text := fmt.Sprintf("\n%d databases, %s", p.Total, humanize.Bytes(uint64(p.TotalBytes)))
	if p.UnknownSizes > 0 {
		text += fmt.Sprintf(" and %d of unknown size", p.UnknownSizes)
	}
	switch {
	case left > 0:
		text += fmt.Sprintf("; some %s, if all are like %d whose files were read in %s, and the disk keeps up", left.Round(time.Second), s.Databases, s.Elapsed.Round(time.Millisecond))
	default:
		text += fmt.Sprintf("; none could be read in %s to tell how long it takes", s.Elapsed.Round(time.Millisecond))
	}
	if s.Failed > 0 {
		text += fmt.Sprintf("; %d of them cannot be restored", s.Failed)
	}
	if run.src.unclear > 0 {
		text += fmt.Sprintf("; %d replicas do not tell their database", run.src.unclear)
	}
	printf(run.app.stdout, "%s.\n", text)
	return nil
}

// estimateFleet tells how long a restore may take after what a sample took: the
// longer one of by number and by bytes. It is 0 if the sample tells nothing.
func estimateFleet(p litestream.FleetRestoreProgress, s litestream.FleetRestoreSample) time.Duration {
	if s.Databases == s.Failed {
		return 0
	}
	times := float64(p.Total) / float64(s.Databases)
	if s.Size > 0 && p.UnknownSizes == 0 {
		times = max(times, float64(p.TotalBytes)/float64(s.Size))
	}
	return max(time.Duration(times*float64(s.Elapsed)), time.Second)
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
