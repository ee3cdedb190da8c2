package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/superfly/ltx"
)

// VerifyLevel says how deep Verify looks. Each level includes those below it;
// docs/VERIFY.md says what each can find.
type VerifyLevel int

// Levels of verifying, cheapest first.
const (
	// VerifyList lists the replica: missing files, gaps, files too short to be
	// any, positions that differ from what others know.
	VerifyList VerifyLevel = iota
	// VerifyChecksum reads every file: damaged, cut, and exchanged ones.
	VerifyChecksum
	// VerifyRead computes the checksums of all pages at each position from the
	// files and compares them with those that files and ledgers carry.
	VerifyRead
	// VerifyRestore restores the newest position and lets SQLite check it.
	VerifyRestore
)

// String returns the level as flags name it.
func (l VerifyLevel) String() string {
	switch l {
	case VerifyList:
		return "list"
	case VerifyChecksum:
		return "checksum"
	case VerifyRead:
		return "read"
	case VerifyRestore:
		return "restore"
	default:
		return fmt.Sprintf("VerifyLevel(%d)", int(l))
	}
}

// ParseVerifyLevel is the inverse of String.
func ParseVerifyLevel(s string) (VerifyLevel, error) {
	for l := VerifyList; l <= VerifyRestore; l++ {
		if s == l.String() {
			return l, nil
		}
	}
	return 0, fmt.Errorf("invalid level %q, want list, checksum, read or restore", s)
}

// VerifyState is what Verify makes of a replica.
type VerifyState string

// States of a replica, from the best to the worst.
const (
	VerifyOK             VerifyState = "ok"
	VerifyMissingDelayed VerifyState = "missing-delayed" // what should be there is younger than the grace period
	VerifyDiverged       VerifyState = "diverged"        // the replica is whole and differs from what others know of it, or two writers wrote it
	VerifyMissingLost    VerifyState = "missing-lost"    // files are missing
	VerifyCorrupt        VerifyState = "corrupt"         // files are not what was written
)

// rank orders states.
func (s VerifyState) rank() int {
	return slices.Index([]VerifyState{VerifyOK, VerifyMissingDelayed, VerifyDiverged, VerifyMissingLost, VerifyCorrupt}, s)
}

// DefaultVerifyGrace is how long a file may take to show up in a listing, and a
// catalog to follow its replicas.
const DefaultVerifyGrace = 5 * time.Minute

// VerifyPromise is what retention promises of a replica.
type VerifyPromise struct {
	Levels            CompactionLevels
	SnapshotRetention time.Duration // 0: for ever
	L0Retention       time.Duration // 0: for ever
	// Tenant: it is maintained as a database found by pattern, where a snapshot
	// may stand in place of a file of level 1.
	Tenant bool
}

// VerifyExpectation is what somebody knows of the replica.
type VerifyExpectation struct {
	Source string    // who, such as "registry"
	TXID   ltx.TXID  // the replica acknowledged this position; 0: nothing is known
	At     time.Time // when; zero: long ago
	// Through: the source knows of every file that was made before this time;
	// zero: of none.
	Through time.Time
	Sums    *VerifySums // nil: none are known
}

// VerifySums are the checksums of all pages at a position, such as those of a
// page ledger.
type VerifySums struct {
	TXID  ltx.TXID
	PageN uint32
	// Each calls fn with the checksum of each page in order, 0 if that is
	// unknown. An error means that the checksums cannot be used.
	Each func(fn func(pgno uint32, sum ltx.Checksum)) error
}

// VerifyOptions says what to verify.
type VerifyOptions struct {
	Level VerifyLevel

	// Grace is for how long something may be missing; 0 means
	// DefaultVerifyGrace.
	Grace time.Duration

	// Promise is what has to be restorable besides the newest position; nil:
	// nothing is known of it.
	Promise *VerifyPromise

	// Expect returns what others know of the replica. It is called ahead of each
	// listing, so that what it returns cannot be newer. Nil: nothing is known.
	Expect func(ctx context.Context) ([]VerifyExpectation, error)

	// NewestOnly reads only the files that restore the newest position.
	NewestOnly bool

	// ScratchPath is a file that does not exist, for VerifyRestore. It is
	// removed again.
	ScratchPath string

	// Parallelism is how many requests are in flight for one large file.
	Parallelism int

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: nothing is logged

	knobs verifyKnobs
}

// verifyKnobs are what only tests change.
type verifyKnobs struct {
	pause time.Duration // between two looks
	fetch fetchKnobs
}

// VerifyFinding is one thing that is wrong.
type VerifyFinding struct {
	State   VerifyState
	Level   VerifyLevel // which found it
	Object  string      // a file of the replica, or what else it is about
	Problem string
}

// String returns what is wrong on one line.
func (f VerifyFinding) String() string { return f.Object + ": " + f.Problem }

// VerifyResult is what Verify found.
type VerifyResult struct {
	State    VerifyState // the worst of the findings
	Level    VerifyLevel
	Findings []VerifyFinding

	TXID ltx.TXID  // newest position on the replica
	At   time.Time // when that was made

	// Good is the newest position that is restorable from files with which
	// nothing is wrong, as far as the level can tell. 0: none.
	Good   ltx.TXID
	GoodAt time.Time
	Avoid  []string // files that a restore of Good would stumble over

	Files       int   // on the replica
	Points      int   // positions of which it was made sure that files lead there
	FilesRead   int   // by the levels from VerifyChecksum on
	BytesRead   int64 // of them
	Checksummed int   // files that carry a checksum of the database
}

// Summary returns what is wrong first, up to where the replica is good, and what
// to do, on one line; empty if nothing is wrong.
func (r *VerifyResult) Summary() string {
	if len(r.Findings) == 0 {
		return ""
	}
	first := r.Findings[0]
	for _, f := range r.Findings {
		if f.State == r.State {
			first = f
			break
		}
	}
	text := first.String()
	if n := len(r.Findings) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	if r.Good == 0 {
		text += "; no restore point is known to be good"
	} else {
		text += fmt.Sprintf("; newest good point: txid %s of %s", r.Good, r.GoodAt.UTC().Format(time.RFC3339))
	}
	return text + "; " + r.advice()
}

// advice says what to do about the state.
func (r *VerifyResult) advice() string {
	const snapshot = "while the database is there, `litestream replicate -once -force-snapshot` makes its newest state restorable again"
	switch r.State {
	case VerifyMissingDelayed:
		return "verify it again later"
	case VerifyDiverged:
		return "find out who else writes to this replica, or wrote the catalog, before anything is restored"
	case VerifyMissingLost, VerifyCorrupt:
		if r.Good == 0 {
			return snapshot
		}
		restore := fmt.Sprintf("`litestream restore -txid %s` restores that", r.Good)
		if len(r.Avoid) > 0 {
			restore += " when these files are moved away: " + strings.Join(r.Avoid, ", ")
		}
		return restore + "; " + snapshot
	case VerifyOK:
	}
	return ""
}

// errReplicaMoves means that files went away again and again while they were
// read.
var errReplicaMoves = errors.New("files of the replica come and go faster than they can be read; verify it when it is less busy")

// errVanished means that a listed file was not there any more.
var errVanished = errors.New("file is gone")

// maxVerifyLooks bounds how often a replica that changes meanwhile is verified
// anew.
const maxVerifyLooks = 8

// Verify looks for damage of a replica. What is wrong is in the result; the
// error says why it could not be looked at. A replica may be written to, merged
// and pruned meanwhile: what is wrong only for a moment is not reported.
func Verify(ctx context.Context, client ReplicaClient, opt VerifyOptions) (VerifyResult, error) {
	v := &verification{client: client, opt: opt.withDefaults()}
	if err := client.Init(ctx); err != nil {
		return v.res, fmt.Errorf("init replica client: %w", err)
	}
	var before []VerifyFinding
	var reached ltx.TXID
	for range maxVerifyLooks {
		err := v.look(ctx)
		switch {
		case errors.Is(err, errVanished):
			v.opt.Logger.Debug("a file went away meanwhile, verifying again", "error", err)
			before = nil
		case err != nil:
			return v.res, err
		case len(v.res.Findings) == 0 || v.reached == reached && sameFindings(before, v.res.Findings):
			return v.res, nil
		default:
			before, reached = v.res.Findings, v.reached
		}
		if err := wait(ctx, v.opt.knobs.pause); err != nil {
			return v.res, err
		}
	}
	if before != nil { // not twice the same, but never nothing
		return v.res, nil
	}
	return v.res, errReplicaMoves
}

// withDefaults fills in what is not set.
func (opt VerifyOptions) withDefaults() VerifyOptions {
	if opt.Grace <= 0 {
		opt.Grace = DefaultVerifyGrace
	}
	if opt.knobs.fetch.chunkBytes == 0 {
		opt.knobs = verifyKnobs{pause: time.Second, fetch: NewRestoreOptions().knobs.fetch}
	}
	opt.knobs.fetch.parallelism = max(opt.Parallelism, 1)
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return opt
}

// sameFindings reports whether two looks found the same kinds of damage at the
// same objects.
func sameFindings(a, b []VerifyFinding) bool {
	return slices.EqualFunc(a, b, func(x, y VerifyFinding) bool { return x.State == y.State && x.Object == y.Object })
}

// verification is one call of Verify.
type verification struct {
	client ReplicaClient
	opt    VerifyOptions
	res    VerifyResult

	levels  levelFiles          // of the look
	expect  []VerifyExpectation // of the look
	reached ltx.TXID            // where the newest chain of files ends, if that is at a gap
	bad     map[*ltx.FileInfo]bool
	whole   map[*ltx.FileInfo]bool // files that were read and are what was written; nil: none were read
	pages   *pageReader
}

// look verifies the replica as one listing shows it.
func (v *verification) look(ctx context.Context) (err error) {
	v.res = VerifyResult{State: VerifyOK, Level: v.opt.Level}
	v.bad, v.whole, v.expect, v.reached = make(map[*ltx.FileInfo]bool), nil, nil, 0
	if v.opt.Expect != nil {
		if v.expect, err = v.opt.Expect(ctx); err != nil {
			return err
		}
	}
	tree, err := listTree(ctx, v.client)
	if err != nil {
		return err
	}
	v.levels = levelsOf(tree)
	v.res.Files = len(tree)
	v.checkListing()
	if v.opt.Level >= VerifyChecksum && len(tree) > 0 && (!v.opt.NewestOnly || v.opt.Level == VerifyRead || v.opt.Level == VerifyChecksum) {
		if err := v.readFiles(ctx); err != nil {
			return err
		}
	}
	if v.opt.Level == VerifyRestore && len(tree) > 0 && v.res.State.rank() < VerifyMissingLost.rank() {
		if err := v.restore(ctx); err != nil {
			return err
		}
	}
	v.noteGood()
	return nil
}

// find notes what is wrong. The files that it may be due to are not used for
// the newest good point.
func (v *verification) find(f VerifyFinding, because ...*ltx.FileInfo) {
	v.res.Findings = append(v.res.Findings, f)
	if f.State.rank() > v.res.State.rank() {
		v.res.State = f.State
	}
	for _, info := range because {
		v.bad[info] = true
	}
}

// noteGood finds the newest position that good files lead to.
func (v *verification) noteGood() {
	isBad := func(f *ltx.FileInfo) bool { return v.bad[f] || v.whole != nil && !v.whole[f] }
	good := v.levels
	for level := range good {
		good[level] = slices.DeleteFunc(slices.Clone(good[level]), isBad)
	}
	plan := chainFiles(good, 0, time.Time{})
	if len(plan) == 0 {
		return
	}
	last := plan[len(plan)-1]
	v.res.Good, v.res.GoodAt = last.MaxTXID, last.CreatedAt
	for left := v.levels; ; {
		plan := chainFiles(left, v.res.Good, time.Time{})
		i := slices.IndexFunc(plan, isBad)
		if i < 0 {
			return
		}
		f := plan[i]
		v.res.Avoid = append(v.res.Avoid, objectName(f))
		left[f.Level] = slices.DeleteFunc(slices.Clone(left[f.Level]), func(g *ltx.FileInfo) bool { return f == g })
	}
}

// objectName names a file of the replica as errors do.
func objectName(info *ltx.FileInfo) string {
	return fmt.Sprintf("%s (level %d)", ltx.FormatFilename(info.MinTXID, info.MaxTXID), info.Level)
}

// restore restores the newest position and compares it with what was read.
func (v *verification) restore(ctx context.Context) (err error) {
	path := v.opt.ScratchPath
	opt := NewRestoreOptions()
	opt.OutputPath, opt.IntegrityCheck = path, IntegrityCheckFull
	opt.Parallelism, opt.Logger, opt.volatile = max(v.opt.Parallelism, 1), v.opt.Logger, true
	res, err := Restore(ctx, v.client, opt)
	le, damaged := errors.AsType[*LTXError](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", errVanished, err)
	case errors.Is(err, ErrIntegrity):
		v.findInRestored(err.Error() + "; the files are as they were written, so the database was damaged before it was replicated")
		return nil
	case damaged && le.Op != "read":
		v.findInRestored(err.Error())
		return nil
	case err != nil:
		return fmt.Errorf("restore to %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	state, err := stateOfFile(path, res.PageSize)
	if err != nil {
		return err
	}
	state.txid, state.trail = res.TXID, res.Plan
	if v.pages != nil {
		if want, ok := v.pages.points[state.txid]; ok && want.print != state.print() {
			v.findInRestored(fmt.Sprintf("at txid %s it differs from what the files hold", state.txid))
		}
	}
	v.compareExpected(state, VerifyRestore)
	return nil
}

// findInRestored notes what is wrong with the newest position. Which file that
// is due to is not known, so that no position counts as good.
func (v *verification) findInRestored(problem string) {
	v.find(VerifyFinding{VerifyCorrupt, VerifyRestore, "restored database", problem}, slices.Concat(v.levels[:]...)...)
}
