// Package doctor tries the storage behind a replica client: every call that
// replication, compaction, retention and restore make, in a scratch folder
// below the replica's path, which it removes again. It says in words what works,
// how fast, and what to change.
package doctor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// Status is the outcome of a check.
type Status string

// Outcomes of a check.
const (
	OK      Status = "ok"
	Warning Status = "warning" // replication works, with a limit that is named
	Failed  Status = "failed"  // something that is required does not work
	Skipped Status = "skipped" // not tried
)

// A Check is one thing that was tried.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Text   string `json:"text"`             // what was found, in words
	Advice string `json:"advice,omitempty"` // what to change
}

// Speed is what was measured on the way. What was not measured is zero.
type Speed struct {
	PutMillis  float64 `json:"put_ms,omitempty"`  // median of small files
	GetMillis  float64 `json:"get_ms,omitempty"`  // median of small files
	ListMillis float64 `json:"list_ms,omitempty"` // one listing of a few files
	FilesPerS  float64 `json:"files_per_s,omitempty"`
	UploadMB   float64 `json:"upload_mb_per_s,omitempty"`   // one large file, 10^6 bytes
	DownloadMB float64 `json:"download_mb_per_s,omitempty"` // the same
}

// Report is what was found out about one storage.
type Report struct {
	Checks []Check `json:"checks"`
	Speed  Speed   `json:"speed"`
}

// Count returns how many checks have a status.
func (r *Report) Count(s Status) int {
	n := 0
	for _, c := range r.Checks {
		if c.Status == s {
			n++
		}
	}
	return n
}

// Depth says how much is tried.
type Depth int

// Depths.
const (
	Full  Depth = iota // everything
	Quick              // without the large file and the long listing
	Brief              // whether one file can be stored, read, listed and deleted
)

// Options say what is tried.
type Options struct {
	Client litestream.ReplicaClient // initialized, at Path
	Path   string                   // of the client, in the form that its WithPrefix takes
	Depth  Depth

	// KeepsFiles says that nothing is ever deleted, because the configuration
	// leaves that to the storage. Deletes that are refused are a warning then.
	KeepsFiles bool

	// Each is called with every check when it is done; it may be nil.
	Each func(Check)

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Scratch is the folder below a replica's path in which all folders of checks
// lie. No listing of a database looks into it.
const Scratch = "!litestream"

// cleanupTimeout bounds how long is tried to remove what was written.
const cleanupTimeout = 60 * time.Second

// exam is one run.
type exam struct {
	Options
	now     func() time.Time
	name    string                   // of the scratch folder, relative to Path
	scratch litestream.ReplicaClient // of that folder; nil: the client has one path only
	objects litestream.ObjectClient  // of Path; nil: the client has none
	warned  *warnings
	report  *Report

	small   []*ltx.FileInfo // files that were written, of all checks but large and paging
	named   []string        // objects that may have been written
	written []*ltx.FileInfo // all files that may have been written, and were not deleted
	wrote   bool            // anything at all
}

// Run tries the storage. It returns when nothing is left of what it wrote, or
// the report says what is. When ctx ends, it stops and cleans up. The client's
// logger is replaced.
func Run(ctx context.Context, opts Options) *Report {
	e := &exam{Options: opts, now: opts.Now, warned: &warnings{}, report: &Report{Checks: []Check{}}}
	if e.now == nil {
		e.now = time.Now
	}
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails
	e.name = Scratch + "/doctor-" + hex.EncodeToString(id[:])
	opts.Client.SetLogger(slog.New(e.warned))
	if p, ok := opts.Client.(litestream.Prefixer); ok {
		e.scratch = p.WithPrefix(e.scratchPath())
	}
	e.objects, _ = opts.Client.(litestream.ObjectClient)

	steps := e.steps()
	for i, s := range steps {
		err := e.try(ctx, s)
		if err == nil {
			continue
		}
		if why := e.hopeless(ctx, i, err); why != "" {
			e.add(Check{Name: "the rest", Status: Skipped, Text: "not tried: " + why})
			break
		}
	}
	if e.wrote {
		e.cleanUp(ctx)
	}
	return e.report
}

// scratchPath returns the path of the scratch folder.
func (e *exam) scratchPath() string {
	switch base := e.Path; {
	case base == "" || base == ".":
		return e.name
	case strings.HasSuffix(base, "/"):
		return base + e.name
	default:
		return base + "/" + e.name
	}
}

// levels are those that files are written to.
var levels = []int{0, 1, litestream.SnapshotLevel}

// step is one check. run returns what was found; an error that is no *problem
// says that the check failed.
type step struct {
	name string
	run  func(ctx context.Context) (text string, err error)
}

// steps returns the checks in their order.
func (e *exam) steps() []step {
	var a []step
	if e.scratch != nil {
		a = []step{{"connect", e.connect}, {"put", e.put}, {"list", e.list}, {"read", e.read}}
		if e.Depth != Brief {
			a = append(a, step{"replace", e.replace}, step{"second writer", e.secondWriter})
		}
	}
	if e.objects != nil && (e.Depth != Brief || e.scratch == nil) {
		a = append(a, step{"named objects", e.namedObjects})
	}
	if e.scratch != nil {
		if e.Depth == Full {
			a = append(a, step{"large file", e.large}, step{"many files", e.many})
		}
		a = append(a, step{"delete", e.remove})
	}
	return a
}

// problem is a verdict on a check that got answers, which are not right.
type problem struct {
	status Status
	text   string
	advice string
	cause  error // may be nil
}

// Error returns the text.
func (p *problem) Error() string { return p.text }

// Unwrap returns the cause.
func (p *problem) Unwrap() error { return p.cause }

// try runs a check and reports it.
func (e *exam) try(ctx context.Context, s step) error {
	text, err := s.run(ctx)
	c := Check{Name: s.name, Status: OK, Text: text}
	if err != nil {
		c.Status, c.Text, c.Advice = Failed, describe(err), advise(err)
		if p, ok := errors.AsType[*problem](err); ok {
			c.Status, c.Text, c.Advice = p.status, p.text, p.advice
		}
	}
	if ctx.Err() != nil && err != nil {
		c = Check{Name: s.name, Status: Failed, Text: "interrupted"}
	}
	// What the client says of the server by itself is worth as much.
	for _, w := range e.warned.take() {
		if c.Status == OK {
			c.Status = Warning
		}
		c.Text += "; " + w
	}
	e.add(c)
	return err
}

func (e *exam) add(c Check) {
	e.report.Checks = append(e.report.Checks, c)
	if e.Each != nil {
		e.Each(c)
	}
}

// hopeless tells why the checks behind a failed one would fail like it.
func (e *exam) hopeless(ctx context.Context, i int, err error) string {
	if ctx.Err() != nil {
		return "interrupted"
	}
	if _, ok := errors.AsType[*problem](err); ok {
		return ""
	}
	switch {
	case i == 1:
		return "nothing can be stored"
	case !litestream.IsPermanent(err):
		return "the storage cannot be reached"
	default:
		return ""
	}
}

// cleanUp removes what was written, whatever became of ctx, and looks whether
// anything is left.
func (e *exam) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	var errs []error
	if e.scratch != nil {
		// By name first: a listing may be what is not allowed.
		errs = append(errs, e.scratch.DeleteLTXFiles(ctx, e.written), e.scratch.DeleteAll(ctx))
	}
	left, err := e.deleteObjects(ctx)
	errs = append(errs, err)
	n, err := e.countLeft(ctx)
	errs = append(errs, err)
	e.warned.take() // said where it mattered
	c := Check{Name: "clean up", Status: OK, Text: "nothing is left behind"}
	err = errors.Join(errs...)
	switch where := e.scratchPath(); {
	case n > 0 || len(left) > 0:
		c.Status, c.Advice = Failed, "delete the folder "+where
		c.Text = fmt.Sprintf("%d files or more are left below %s", max(n, len(left)), where)
	case err != nil:
		c.Status, c.Advice = Failed, "look whether the folder "+where+" is there, and delete it"
		c.Text = "it is not known whether anything is left: " + describe(err)
	}
	if c.Status == Failed && e.KeepsFiles {
		c.Status = Warning
	}
	e.add(c)
}

// deleteObjects deletes the named objects, and with them the folders that are
// empty then. It returns those that it could not delete.
func (e *exam) deleteObjects(ctx context.Context) (left []string, err error) {
	d, ok := e.Client.(litestream.ObjectDeleter)
	if !ok {
		return e.named, nil
	}
	// One that is not there deletes the folders only.
	names := append(slices.Clone(e.named), path.Join(e.name, "none"))
	var errs []error
	for _, name := range names {
		if err := d.DeleteObject(ctx, name); err != nil {
			errs = append(errs, err)
			if slices.Contains(e.named, name) {
				left = append(left, name)
			}
		}
	}
	// Where folders cannot be deleted only if they are empty they are there yet,
	// and this one is nobody else's.
	_ = d.DeleteObject(ctx, e.name) // others refuse it, or have nothing of that name
	return left, errors.Join(errs...)
}

// countFiles returns how many LTX files are in the scratch folder.
func (e *exam) countFiles(ctx context.Context) (int, error) {
	n := 0
	for _, level := range levels {
		files, err := listLevel(ctx, e.scratch, level, 0, false)
		if err != nil {
			return n, err
		}
		n += len(files)
	}
	return n, nil
}

// countLeft returns how many files of any kind are in the scratch folder.
func (e *exam) countLeft(ctx context.Context) (int, error) {
	if e.scratch == nil {
		return 0, nil
	}
	n, err := e.countFiles(ctx)
	o, ok := e.scratch.(litestream.ObjectClient)
	if err != nil || n > 0 || !ok {
		return n, err
	}
	if empty, err := o.Empty(ctx); err != nil || empty {
		return 0, err
	}
	return 1, nil
}

func listLevel(ctx context.Context, c litestream.ReplicaClient, level int, seek ltx.TXID, useMetadata bool) ([]*ltx.FileInfo, error) {
	itr, err := c.LTXFiles(ctx, level, seek, useMetadata)
	if err != nil {
		return nil, err
	}
	return ltx.SliceFileIterator(itr)
}
