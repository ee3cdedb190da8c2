package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/sqlitebtree"
)

// DiffLevel says how deep Diff looks. Each level includes those below it.
type DiffLevel int

// Levels of comparing, cheapest first.
const (
	// DiffPages counts pages. Nothing is restored, and no disk is needed.
	DiffPages DiffLevel = iota
	// DiffTables restores both states and tells whose pages differ.
	DiffTables
	// DiffRows compares the rows of tables whose pages differ, too.
	DiffRows
)

// String returns the level as flags name it.
func (l DiffLevel) String() string {
	switch l {
	case DiffPages:
		return "pages"
	case DiffTables:
		return "tables"
	case DiffRows:
		return "rows"
	default:
		return fmt.Sprintf("DiffLevel(%d)", int(l))
	}
}

// ParseDiffLevel is the inverse of String.
func ParseDiffLevel(s string) (DiffLevel, error) {
	for l := DiffPages; l <= DiffRows; l++ {
		if s == l.String() {
			return l, nil
		}
	}
	return 0, fmt.Errorf("invalid level %q, want pages, tables or rows", s)
}

// DiffPoint names a state of a replica as a restore does: by its TXID, or as the
// last one that was made before a time. Both zero mean the newest.
type DiffPoint struct {
	TXID      ltx.TXID
	Timestamp time.Time
}

// DiffOptions says what to compare.
type DiffOptions struct {
	From, To DiffPoint // the earlier and the later state
	Level    DiffLevel

	// Keys is of how many rows of each table the keys are told at DiffRows.
	// They are part of the data.
	Keys int

	// ScratchDir is where both states are restored above DiffPages, in a folder
	// that is removed again; empty: the system's directory for temporary files.
	ScratchDir string

	Parallelism int                   // requests in flight; 0: DefaultRestoreParallelism
	Progress    func(RestoreProgress) // as in RestoreOptions, for one state after the other
	Logger      *slog.Logger          // nil: nothing is logged

	knobs restoreKnobs
}

// DiffState is one of the states that were compared.
type DiffState struct {
	TXID     ltx.TXID
	At       time.Time // when it was captured, as exact as the storage tells
	PageN    uint32
	PageSize uint32 // bytes
}

// Bytes returns the size of the database.
func (s *DiffState) Bytes() int64 { return int64(s.PageN) * int64(s.PageSize) }

// DiffMethod says what Diff compared.
type DiffMethod string

// Ways to compare.
const (
	// DiffNothing: both states are the same transaction.
	DiffNothing DiffMethod = "nothing"
	// DiffFiles: the files between the states. A page that was written counts
	// as changed, although it may hold again what it held before.
	DiffFiles DiffMethod = "files"
	// DiffChecksums: the checksums of all pages of both states.
	DiffChecksums DiffMethod = "checksums"
	// DiffDatabases: both states, restored.
	DiffDatabases DiffMethod = "databases"
)

// Of what a comparison counts.
type (
	// DiffPageCounts are pages of two states.
	DiffPageCounts = sqlitebtree.PageCounts
	// DiffRowCounts are rows of a table that two states do not share.
	DiffRowCounts = sqlitebtree.Rows
	// DiffRowKey is one of those rows.
	DiffRowKey = sqlitebtree.RowKey
)

// DiffEntry is a table, index or other entry of the schema that differs, or a
// list of pages beside them, such as those that are free.
type DiffEntry struct {
	Type  string // table, index, view or trigger; empty for a list of pages
	Name  string
	Table string // that it belongs to

	Created, Dropped bool // it is in the later or the earlier state only
	SchemaChanged    bool // it is in both, and declared in another way

	Pages DiffPageCounts
	Rows  *DiffRowCounts // nil if they were not compared
	Note  string         // why not; empty: nobody asked, or it has none
}

// DiffResult is what changed between two states.
type DiffResult struct {
	Before, After DiffState
	Level         DiffLevel
	Method        DiffMethod
	Pages         DiffPageCounts

	Entries []DiffEntry // that differ; above DiffPages only
	Same    int         // tables and indexes that do not
	Damage  []string    // the first few things that are wrong with either database
}

// Differs reports whether anything changed.
func (r *DiffResult) Differs() bool {
	return r.Pages.Changed > 0 || r.Pages.Added > 0 || r.Pages.Removed > 0
}

// ErrDiffOrder means that the later state was given first.
var ErrDiffOrder = errors.New("the first point is later than the second")

// Diff compares two states of a database by its replica alone. Errors about a
// point are those of CalcRestorePlan. Memory is at most 16 bytes for each page of
// each state.
func Diff(ctx context.Context, client ReplicaClient, opt DiffOptions) (*DiffResult, error) {
	if opt.From == (DiffPoint{}) {
		return nil, errors.New("compare: the first point is not given")
	}
	ro := RestoreOptions{Parallelism: opt.Parallelism, Logger: opt.Logger, knobs: opt.knobs}.withDefaults()
	opt.Logger, opt.Parallelism, opt.knobs = ro.Logger, ro.Parallelism, ro.knobs
	d := &differ{client: client, opt: opt}
	for replans := 0; ; replans++ {
		if err := withoutFalseGaps(func() error { return d.plan(ctx) }); err != nil {
			return nil, err
		}
		res, err := d.compare(ctx)
		_, ofFile := errors.AsType[*LTXError](err)
		if !ofFile || !errors.Is(err, fs.ErrNotExist) || replans == len(opt.knobs.replanDelays) {
			return res, err
		}
		opt.Logger.Info("file of the replica is gone, planning again", "error", err)
		if err := wait(ctx, opt.knobs.replanDelays[replans]); err != nil {
			return nil, err
		}
	}
}

// differ is one call of Diff.
type differ struct {
	client ReplicaClient
	opt    DiffOptions
	levels levelFiles
	plans  [2][]*ltx.FileInfo // what restores both states
	states [2]DiffState
}

// plan finds both points. Those of an earlier plan stay what they were.
func (d *differ) plan(ctx context.Context) (err error) {
	if d.levels, err = listLevels(ctx, d.client, true); err != nil {
		return err
	}
	for i, p := range []DiffPoint{d.opt.From, d.opt.To} {
		if txid := d.states[i].TXID; txid != 0 {
			p = DiffPoint{TXID: txid}
		}
		if d.plans[i], err = planRestore(d.levels, p.TXID, p.Timestamp); err != nil {
			return fmt.Errorf("%s point: %w", [...]string{"first", "second"}[i], err)
		}
	}
	from, to := d.point(0), d.point(1)
	if from.TXID > to.TXID {
		return fmt.Errorf("%w: txid %s of %s, and txid %s of %s; give them the other way round",
			ErrDiffOrder, from.TXID, from.At.UTC().Format(time.RFC3339), to.TXID, to.At.UTC().Format(time.RFC3339))
	}
	d.states[0], d.states[1] = from, to
	return nil
}

// point returns the end of a plan. As in a timeline, the oldest file that ends
// there tells the time.
func (d *differ) point(i int) DiffState {
	last := d.plans[i][len(d.plans[i])-1]
	s := DiffState{TXID: last.MaxTXID, At: last.CreatedAt}
	for _, files := range d.levels {
		for _, f := range files {
			if f.MaxTXID == s.TXID && f.CreatedAt.Before(s.At) {
				s.At = f.CreatedAt
			}
		}
	}
	return s
}

// compare compares the planned states.
func (d *differ) compare(ctx context.Context) (*DiffResult, error) {
	for i := range d.states {
		hdr, err := d.readHeader(ctx, d.plans[i][len(d.plans[i])-1])
		if err != nil {
			return nil, err
		}
		d.states[i].PageN, d.states[i].PageSize = hdr.Commit, hdr.PageSize
	}
	res := &DiffResult{Before: d.states[0], After: d.states[1], Level: d.opt.Level}
	switch {
	case res.Before.TXID == res.After.TXID:
		res.Method = DiffNothing
		res.Pages = DiffPageCounts{Before: int(res.Before.PageN), After: int(res.After.PageN)}
		return res, nil
	case d.opt.Level == DiffPages:
		return res, d.comparePages(ctx, res)
	default:
		return res, d.compareTables(ctx, res)
	}
}

// readHeader reads the header of a file, which tells the size of the database
// behind it.
func (d *differ) readHeader(ctx context.Context, info *ltx.FileInfo) (ltx.Header, error) {
	in := &input{info: info}
	rc, err := d.client.OpenLTXFile(ctx, info.Level, info.MinTXID, info.MaxTXID, 0, ltx.HeaderSize)
	if err != nil {
		return ltx.Header{}, in.fail("read", err)
	}
	var b [ltx.HeaderSize]byte
	_, err = io.ReadFull(rc, b[:])
	if err := errors.Join(err, rc.Close()); err != nil {
		return ltx.Header{}, in.fail("read", err)
	}
	if err := in.hdr.UnmarshalBinary(b[:]); err != nil {
		return ltx.Header{}, in.fail("decode", err)
	}
	if err := in.hdr.Validate(); err != nil {
		return ltx.Header{}, in.fail("decode", err)
	}
	if in.hdr.Commit == 0 {
		return ltx.Header{}, in.fail("compare", ErrEmptyDatabase)
	}
	return in.hdr, nil
}

// comparePages counts the pages that differ, by whatever reads less of the
// replica: the files between the states, or all files of both.
func (d *differ) comparePages(ctx context.Context, res *DiffResult) error {
	between := d.between()
	if len(between) > 0 && res.Before.PageSize == res.After.PageSize && sizeOf(between) <= sizeOf(d.plans[0])+sizeOf(d.plans[1]) {
		res.Method = DiffFiles
		written := &pageState{commit: res.Before.PageN}
		if err := d.readPages(ctx, between, res.After.PageSize, written); err != nil {
			return err
		}
		res.Pages = countPages(res, func(pgno uint32) bool { return int(pgno) <= len(written.sums) && written.sums[pgno-1] != 0 })
		return nil
	}
	res.Method = DiffChecksums
	var states [2]pageState
	for i, plan := range d.plans {
		if err := d.readPages(ctx, plan, d.states[i].PageSize, &states[i]); err != nil {
			return err
		}
		last := plan[len(plan)-1]
		if pgno := states[i].end(d.states[i].PageN, d.states[i].PageSize); pgno != 0 {
			return (&input{info: last}).fail("apply", fmt.Errorf("page %d of %d is in no file of the plan", pgno, d.states[i].PageN))
		}
	}
	res.Pages = countPages(res, func(pgno uint32) bool { return states[0].sums[pgno-1] != states[1].sums[pgno-1] })
	return nil
}

// countPages counts pages. differs is asked of those that are in both states.
func countPages(res *DiffResult, differs func(pgno uint32) bool) DiffPageCounts {
	n, m := res.Before.PageN, res.After.PageN
	p := DiffPageCounts{Before: int(n), After: int(m)}
	if res.Before.PageSize != res.After.PageSize {
		p.Added, p.Removed = int(m), int(n)
		return p
	}
	p.Added, p.Removed = int(m-min(n, m)), int(n-min(n, m))
	lock := ltx.LockPgno(res.Before.PageSize)
	for pgno := uint32(1); pgno <= min(n, m); pgno++ {
		if pgno != lock && differs(pgno) {
			p.Changed++
		}
	}
	return p
}

// between returns files that lead from the first state to the second and hold
// nothing else; nil: there are none.
func (d *differ) between() []*ltx.FileInfo {
	from, to := d.states[0].TXID, d.states[1].TXID
	files := slices.DeleteFunc(slices.Concat(d.levels[:]...), func(f *ltx.FileInfo) bool { return f.MinTXID <= from || f.MaxTXID > to })
	chain := extendChain(nil, from, files)
	if len(chain) == 0 || chain[len(chain)-1].MaxTXID != to {
		return nil
	}
	return chain
}

func sizeOf(files []*ltx.FileInfo) (n int64) {
	for _, f := range files {
		n += f.Size
	}
	return n
}

// readPages reads files in the order in which they apply, and takes the
// checksums of their pages into a state.
func (d *differ) readPages(ctx context.Context, files []*ltx.FileInfo, pageSize uint32, s *pageState) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	fetch := make([]*fetchFile, 0, len(files))
	for _, info := range files {
		fetch = append(fetch, fetchLTX(d.client, info))
	}
	var p progress
	p.phase.Store(RestoreReading)
	p.total.Store(sizeOf(files))
	p.files.Store(int64(len(files)))
	defer p.report(d.opt.Progress)()
	f := startFetcher(ctx, &wg, fetch, d.opt.knobs.fetch)
	for _, info := range files {
		in := &input{info: info}
		r := &frameReader{in: in, inputReader: &inputReader{ctx: ctx, f: f, size: info.Size, p: &p}}
		if err := readPages(r, &stepInput{state: s}); err != nil {
			return err
		}
		r.close()
		if in.hdr.PageSize != pageSize {
			return in.fail("decode", fmt.Errorf("page size %d, the newest file has %d", in.hdr.PageSize, pageSize))
		}
		s.cut(in.hdr.Commit)
	}
	return nil
}
