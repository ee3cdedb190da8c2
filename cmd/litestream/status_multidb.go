package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/registry"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// fleetStatus is what status shows of all databases found by pattern.
type fleetStatus struct {
	StateDir  string    `json:"state_dir"`
	WrittenAt time.Time `json:"written_at"`  // when the registry was written last
	Stopped   bool      `json:"stopped"`     // the daemon was stopped in an orderly way
	Age       float64   `json:"age_seconds"` // of the summary

	Summary *litestream.FleetSummary `json:"summary"` // nil: no scan has ended yet
}

// tenantStatus is what status shows of one database found by pattern. The
// sizes are those of the files now, all else is what the registry says.
type tenantStatus struct {
	Database  string    `json:"database"`
	Replica   string    `json:"replica"`
	WrittenAt time.Time `json:"written_at"`
	Stopped   bool      `json:"stopped"`
	Known     bool      `json:"known"` // the registry has a record of it

	State          string    `json:"state"`
	Reason         string    `json:"reason,omitempty"`
	TXID           string    `json:"replicated_txid,omitempty"`
	ReplicatedAt   time.Time `json:"replicated_at,omitzero"`
	ChangedAt      time.Time `json:"unreplicated_since,omitzero"`
	DeletedAt      time.Time `json:"deleted_at,omitzero"`
	MaintenanceDue time.Time `json:"maintenance_due,omitzero"`
	ProvenAt       time.Time `json:"proven_restorable_at,omitzero"` // by the drill
	Drill          string    `json:"drill,omitempty"`               // what the last one found wrong

	// FilesChanged says that the files are not those of the record of a clean
	// database. Records of hot ones are written when they go cold.
	FilesChanged bool `json:"files_changed,omitempty"`

	Size    *int64 `json:"size"`     // nil: no file, or it cannot be looked at
	WALSize *int64 `json:"wal_size"` // nil: as above
}

// statusOfTenant prints the record of one database.
func (a *app) statusOfTenant(ctx context.Context, c *MultiDBConfig, path string, asJSON bool) error {
	t, err := c.tenants.Lookup(path)
	if errors.Is(err, litestream.ErrNoTenant) {
		return fmt.Errorf("database not found in config: %w", err)
	} else if err != nil {
		return err
	}
	client, err := c.client(&t)
	if err != nil {
		return err
	}
	s := tenantStatus{Database: path, Replica: redactedLocation(client), Size: fileSize(path), WALSize: fileSize(path + "-wal")}
	if s.Size != nil && s.WALSize == nil {
		s.WALSize = new(int64)
	}
	if err := readRegistry(ctx, c.StateDir, func(r *registry.Reader) error { return s.read(ctx, r) }); err != nil {
		return err
	}
	if asJSON {
		return writeJSON(a.stdout, s)
	}
	return s.print(a.stdout, time.Now())
}

// readRegistry opens a registry for fn. One that its owner opens or closes at
// this moment is read once more.
func readRegistry(ctx context.Context, dir string, fn func(*registry.Reader) error) error {
	const attempts = 3
	for i := 1; ; i++ {
		r, err := registry.OpenReader(ctx, dir)
		if err != nil {
			return err
		}
		if err = errors.Join(fn(r), r.Close()); i == attempts || !errors.Is(err, registry.ErrChanged) {
			return err
		}
	}
}

// fileSize returns the size of a file without opening it.
func fileSize(path string) *int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return nil
	}
	size := fi.Size()
	return &size
}

func (s *tenantStatus) read(ctx context.Context, r *registry.Reader) error {
	info, err := r.Info(ctx)
	if err != nil {
		return err
	}
	s.WrittenAt, s.Stopped = info.WrittenAt, info.Clean
	rec, ok, err := r.ByPath(ctx, s.Database)
	if err != nil {
		return err
	}
	s.Known, s.State = ok, litestream.RecordedState(rec.State).String()
	if rec.TXID > 0 {
		s.TXID = rec.TXID.String()
	}
	s.Reason, s.ReplicatedAt, s.ChangedAt = rec.Reason, rec.SyncedAt, rec.ChangedAt
	s.DeletedAt, s.MaintenanceDue = rec.GoneAt, rec.Due
	s.ProvenAt, s.Drill = rec.ProvenAt, rec.Drill
	if ok && litestream.RecordedState(rec.State) == litestream.TenantClean {
		now, err := sqlitefile.Take(s.Database)
		s.FilesChanged = err != nil || now != rec.Fingerprint
	}
	return nil
}

func (s *tenantStatus) print(w io.Writer, now time.Time) error {
	rows := [][]string{
		{"database", printable(s.Database)},
		{"replica", printable(s.Replica)},
		{"state", s.State},
	}
	add := func(name, value string) { rows = append(rows, []string{name, value}) }
	switch {
	case !s.Known && s.Size == nil:
		rows[2][1] += ": no record of it"
	case !s.Known:
		rows[2][1] += ": no record of it; there is one when its first backup is complete"
	case s.FilesChanged && s.Stopped:
		rows[2][1] += ", changed since: the next start replicates that"
	case s.FilesChanged:
		rows[2][1] += ", changed since: it is hot, or waits for that"
	}
	if s.Reason != "" {
		add("reason", reasonText(s.Reason))
	}
	switch {
	case s.TXID != "":
		add("replicated", fmt.Sprintf("up to txid %s, %s", s.TXID, when(s.ReplicatedAt, now)))
	default:
		add("replicated", "never")
	}
	if !s.ChangedAt.IsZero() {
		add("not replicated", "since "+when(s.ChangedAt, now))
	}
	if !s.DeletedAt.IsZero() {
		add("file deleted", when(s.DeletedAt, now))
	}
	if !s.MaintenanceDue.IsZero() {
		add("maintenance", "due "+when(s.MaintenanceDue, now))
	}
	if !s.ProvenAt.IsZero() || s.Drill != "" {
		add("proven restorable", when(s.ProvenAt, now))
	}
	if s.Drill != "" {
		add("last drill", reasonText(s.Drill))
	}
	add("size", sizeText(s.Size))
	add("wal size", sizeText(s.WALSize))
	add("as of", asOf(s.WrittenAt, s.Stopped, now))
	return writeTable(w, nil, rows)
}

// reasonText returns an error on one line.
func reasonText(reason string) string { return printable(strings.ReplaceAll(reason, "\n", "; ")) }

// readFleet reads the summary of all databases.
func (c *MultiDBConfig) readFleet(ctx context.Context, now time.Time) (*fleetStatus, error) {
	s := &fleetStatus{StateDir: c.StateDir}
	err := readRegistry(ctx, c.StateDir, func(r *registry.Reader) error {
		info, err := r.Info(ctx)
		if err != nil {
			return err
		}
		s.WrittenAt, s.Stopped = info.WrittenAt, info.Clean
		data, err := r.Summary(ctx)
		if err != nil || data == nil {
			return err
		}
		s.Summary = new(litestream.FleetSummary)
		if err := json.Unmarshal(data, s.Summary); err != nil {
			return fmt.Errorf("decode summary in %s: %w; was it written by another version?", c.StateDir, err)
		}
		s.Age = max(0, now.Sub(s.Summary.At).Seconds())
		return nil
	})
	return s, err
}

// print prints the summary. interval is the one between scans: figures that
// are much older need an explanation.
func (s *fleetStatus) print(w io.Writer, now time.Time, interval time.Duration) error {
	if s.Summary == nil {
		return writeTable(w, nil, [][]string{
			{"multi-db", "no scan has ended yet"},
			{"registry", fmt.Sprintf("%s, %s", printable(s.StateDir), asOf(s.WrittenAt, s.Stopped, now))},
		})
	}
	f := s.Summary
	figures := "as of " + when(f.At, now)
	switch age := now.Sub(f.At); {
	case s.Stopped:
		figures += "; the daemon was stopped"
	case age > 3*interval+10*time.Second:
		figures += fmt.Sprintf("; no scan has ended since, with one due each %s: the daemon does not run, or hangs", interval)
	}
	behind := "nothing waits"
	if f.Unreplicated > 0 {
		behind = fmt.Sprintf("%d databases have changes that are not replicated", f.Unreplicated)
		if len(f.Oldest) > 0 {
			behind += ", the oldest from " + when(f.Oldest[0].ChangedAt, now)
		}
	}
	scan := fmt.Sprintf("%d files in %s", f.Scan.Files, time.Duration(f.Scan.Seconds*float64(time.Second)).Round(time.Millisecond))
	if f.Scan.Errors > 0 {
		scan += fmt.Sprintf(", %d files or directories could not be looked at", f.Scan.Errors)
	}
	err := writeTable(w, nil, [][]string{
		{"multi-db", figures},
		{"databases", fmt.Sprintf("%d hot (at most %d), %d cold", f.Hot, f.HotLimit, f.Cold)},
		{"states", countsText(f.States)},
		{"queue", fmt.Sprintf("%d changed, %d wait for their first backup, %d for another attempt", f.Queue.Changed, f.Queue.First, f.Queue.Delayed)},
		{"lag", behind},
		{"staged", fmt.Sprintf("%s of at most %s", bytesText(f.StagedBytes), bytesText(f.StagedLimit))},
		{"last scan", scan},
	})
	return errors.Join(err, printFleetLists(w, f, now))
}

// printFleetLists prints the lists of a summary that are not empty.
func printFleetLists(w io.Writer, f *litestream.FleetSummary, now time.Time) error {
	var failed, damaged, oldest, logs, scan [][]string
	for _, r := range f.Failures {
		for i, e := range r.Examples {
			row := []string{"", "", printable(e.Path), reasonText(e.Error)}
			if i == 0 {
				row[0], row[1] = r.Reason, strconv.Itoa(r.Count)
			}
			failed = append(failed, row)
		}
	}
	for _, d := range f.Oldest {
		oldest = append(oldest, []string{printable(d.Path), when(d.ChangedAt, now), strings.TrimSuffix(d.State+": "+reasonText(d.Reason), ": ")})
	}
	for _, l := range f.LargeLogs {
		logs = append(logs, []string{printable(l.Path), bytesText(l.Size)})
	}
	for _, e := range f.Damaged {
		damaged = append(damaged, []string{printable(e.Path), reasonText(e.Error)})
	}
	for _, text := range f.Scan.Examples {
		scan = append(scan, []string{printable(text)})
	}
	for _, pattern := range f.Scan.Unmatched {
		scan = append(scan, []string{"matches nothing: " + printable(pattern)})
	}
	largest := fmt.Sprintf("%d databases with a WAL of %s or more", f.LargeLogN, humanize.IBytes(litestream.LargeLogBytes))
	for _, l := range []struct {
		title  string
		header []string
		rows   [][]string
	}{
		{"failed databases, with examples", []string{"reason", "databases", "path", "error"}, failed},
		{fmt.Sprintf("%d databases whose replica the drill found damaged", f.DamagedN), []string{"path", "problem"}, damaged},
		{"oldest changes that are not replicated", []string{"path", "changed", "state"}, oldest},
		{largest, []string{"path", "wal size"}, logs},
		{"last scan", nil, scan},
	} {
		if len(l.rows) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s:\n", l.title); err != nil {
			return err
		}
		if err := writeTable(w, l.header, l.rows); err != nil {
			return err
		}
	}
	return nil
}

// when returns a time, and how far it is from now.
func when(t, now time.Time) string {
	text := t.UTC().Format(time.RFC3339)
	d := now.Sub(t).Round(time.Second)
	switch {
	case t.IsZero():
		return "never"
	case d < 0:
		return fmt.Sprintf("%s (in %s)", text, -d)
	default:
		return fmt.Sprintf("%s (%s ago)", text, d)
	}
}

func asOf(written time.Time, stopped bool, now time.Time) string {
	text := "registry written " + when(written, now)
	if stopped {
		text += "; the daemon was stopped"
	}
	return text
}

func sizeText(n *int64) string {
	if n == nil {
		return "no such file"
	}
	return bytesText(*n)
}

func bytesText(n int64) string { return humanize.Bytes(uint64(max(0, n))) }

// countsText lists the counts that are not 0, by name.
func countsText(counts map[string]int) string {
	var a []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		if counts[name] > 0 {
			a = append(a, fmt.Sprintf("%d %s", counts[name], name))
		}
	}
	if len(a) == 0 {
		return "none"
	}
	return strings.Join(a, ", ")
}

// fleet returns the state of the databases found by pattern; nil if none are
// replicated, or nothing of it is known and nothing has to be.
func (c *Config) fleet(ctx context.Context, now time.Time) (*fleetStatus, error) {
	if c.MultiDB == nil {
		return nil, nil
	}
	s, err := c.MultiDB.readFleet(ctx, now)
	if errors.Is(err, fs.ErrNotExist) && !c.MultiDB.Enabled {
		return nil, nil
	}
	return s, err
}
