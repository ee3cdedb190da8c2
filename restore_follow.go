package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/backoff"
)

// DefaultFollowInterval is how often a follower looks at its replica.
const DefaultFollowInterval = time.Second

// Errors that end the following of a replica. The followed database is whole.
var (
	// ErrFollowModified means that something else than this follower changed
	// the database.
	ErrFollowModified = errors.New("followed database was modified")

	// ErrFollowResume means that the database and its position do not belong
	// to what the replica holds.
	ErrFollowResume = errors.New("cannot resume follow mode")
)

// Bounds of following.
const (
	// followRetryMax is the longest pause after errors.
	followRetryMax = 30 * time.Second

	// followFewFiles is how many level-0 files are applied without asking
	// whether a higher level has the same in fewer files.
	followFewFiles = 16

	// followLookInterval is how often all levels are listed although level 0
	// shows nothing new, for a follower that was away for longer than level 0
	// is kept.
	followLookInterval = 30 * time.Second
)

// errLookAgain means that files moved while they were looked at, which is how
// compaction looks from outside. It is returned once per position.
var errLookAgain = errors.New("files of the replica moved")

// follower applies what arrives on a replica to one database.
type follower struct {
	client ReplicaClient
	opt    *RestoreOptions
	logger *slog.Logger

	stage   *restoreOutput // staged pages; its lock keeps other followers out
	db      *followDB      // nil until opened
	located bool           // db.mark is true

	lookedAt time.Time // when all levels were listed; zero: list them next
	again    ltx.TXID  // position at which errLookAgain was returned last
	bad      []*ltx.FileInfo
	badErr   error  // about the last of bad
	trouble  string // kind of the errors that were logged last; empty: none
	since    time.Time
}

// follow restores a database, if there is none yet, and applies what arrives
// on the replica until ctx ends, which is no error.
func follow(ctx context.Context, client ReplicaClient, opt RestoreOptions) (res RestoreResult, err error) {
	if opt.FollowInterval <= 0 {
		opt.FollowInterval = DefaultFollowInterval
	}
	f := &follower{client: client, opt: &opt, logger: opt.Logger}
	fresh, err := f.needsRestore()
	if err != nil {
		return res, err
	}
	if fresh {
		opt.LedgerPath = "" // it would be true for a moment only
		if res, err = restoreOnce(ctx, client, opt); err != nil {
			return res, err
		}
		if opt.IntegrityCheck != IntegrityCheckNone {
			f.logger.Info("post-restore integrity check passed", "db", filepath.Base(opt.OutputPath), "replica", client.Type())
		}
	}
	if f.stage, err = createRestoreOutput(opt.OutputPath, false); err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if !fresh {
		if res.TXID, err = readFollowTXID(opt.OutputPath); err != nil {
			return res, err
		}
		res.IntegrityCheck = opt.IntegrityCheck
		f.logger.Info("resuming follow mode from crash recovery", "replica", client.Type(), "txid", res.TXID.String(), "output", opt.OutputPath)
	}
	if err := f.open(); err != nil && !errors.Is(err, ErrDatabaseLocked) {
		return res, err
	}
	if f.located {
		res.TXID = f.db.mark.txid
	}
	f.logger.Info("entering follow mode", "replica", client.Type(), "output", opt.OutputPath, "txid", res.TXID.String(), "interval", opt.FollowInterval)
	err = f.run(ctx)
	if f.located {
		res.TXID = f.db.mark.txid
	}
	if err == nil {
		f.logger.Info("follow mode stopped", "replica", client.Type())
	}
	return res, err
}

// needsRestore reports whether the database has to be restored first.
func (f *follower) needsRestore() (bool, error) {
	path := f.opt.OutputPath
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("check output: %w", err)
	case info.Size() == 0 || !info.Mode().IsRegular():
		return true, nil // which the restore replaces or refuses
	}
	txid, err := readFollowTXID(path)
	if err != nil || txid != 0 {
		return false, err
	}
	if f.opt.Force {
		return true, nil
	}
	return false, fmt.Errorf("%w: database exists but no -txid file found; delete the database to re-restore: %s", ErrFollowResume, path)
}

func (f *follower) close() error {
	var err error
	if f.db != nil {
		err = f.db.close()
	}
	return errors.Join(err, f.stage.abort())
}

// run polls until ctx ends or nothing can be done any more.
func (f *follower) run(ctx context.Context) error {
	pause := backoff.Backoff{Min: f.opt.FollowInterval, Max: max(followRetryMax, f.opt.FollowInterval)}
	for {
		err := f.poll(ctx)
		if isFollowEnd(err) {
			return err
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // an update that was cut short is made by the next follower
		}
		delay := f.opt.FollowInterval
		switch {
		case err == nil:
			pause.Reset()
			f.report(nil)
		case errors.Is(err, errLookAgain):
			f.lookedAt = time.Time{}
		default:
			f.lookedAt = time.Time{}
			delay = pause.Next()
			f.report(err)
		}
		if wait(ctx, delay) != nil {
			return nil //nolint:nilerr // the end of ctx is how following ends
		}
	}
}

// isFollowEnd reports whether an error cannot heal while we wait.
func isFollowEnd(err error) bool {
	var le *LTXError
	return !errors.As(err, &le) && (errors.Is(err, ErrFollowModified) || errors.Is(err, ErrFollowResume) || errors.Is(err, ErrNotDatabase))
}

// report logs the first error of a kind, and when it is over. Errors of one
// kind in a row say nothing new.
func (f *follower) report(err error) {
	kind := followTrouble(err)
	if kind == f.trouble {
		return
	}
	now := time.Now()
	if err == nil {
		f.logger.Info("follow: recovered", "replica", f.client.Type(), "from", f.trouble, "duration", now.Sub(f.since).Round(time.Millisecond))
	} else {
		f.logger.Warn("follow: retrying", "reason", kind, "replica", f.client.Type(), "output", f.opt.OutputPath, "error", err)
	}
	if f.trouble == "" {
		f.since = now
	}
	f.trouble = kind
}

// followTrouble names the kind of an error for those who read the log.
func followTrouble(err error) string {
	var le *LTXError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrDatabaseLocked):
		return "readers keep the database locked"
	case errors.Is(err, ErrDiskFull):
		return "disk is full"
	case errors.Is(err, ErrNonContiguous), errors.Is(err, ErrNoBackups):
		return "replica lacks files"
	case errors.As(err, &le) && le.Op != "read":
		return "file of the replica is damaged"
	default:
		var pe *fs.PathError
		if errors.As(err, &pe) && !errors.As(err, &le) && !isReplicaError(err) {
			return "database cannot be written"
		}
		return "replica cannot be read"
	}
}

func isReplicaError(err error) bool {
	var re *ReplicaError
	return errors.As(err, &re)
}

// poll looks for something new once and applies it.
func (f *follower) poll(ctx context.Context) error {
	if err := f.open(); err != nil {
		return err
	}
	if err := f.db.glance(); err != nil {
		return err
	}
	plan, err := f.look(ctx)
	if err != nil || len(plan.files) == 0 {
		return err
	}
	from := f.db.mark.txid
	if plan.full {
		f.logger.Warn("follow: transactions between the database and the newest snapshot are gone, continuing from the snapshot",
			"replica", f.client.Type(), "txid", from.String(), "to_txid", plan.to.String())
	}
	if err := f.advance(ctx, plan); err != nil {
		return err
	}
	f.logger.Info("follow: applied updates", "replica", f.client.Type(), "from_txid", from.String(), "to_txid", plan.to.String())
	return nil
}

// open opens the database and finds its position, again after an error.
func (f *follower) open() (err error) {
	if f.db == nil {
		if f.db, err = openFollowDB(f.opt); err != nil {
			return f.missing(err)
		}
	}
	if !f.located {
		if err := f.db.locate(); err != nil {
			return f.missing(err)
		}
		f.located = true
	}
	return nil
}

// missing turns the absence of the database into an error that ends.
func (f *follower) missing(err error) error {
	if _, serr := os.Stat(f.opt.OutputPath); errors.Is(serr, fs.ErrNotExist) {
		return modifiedError(f.opt.OutputPath, 0, "the file was deleted")
	}
	return err
}

// look lists what is needed to know what comes next: in the usual case level 0
// behind the position, in one request.
func (f *follower) look(ctx context.Context) (followPlan, error) {
	at := f.db.mark.txid
	interval := followLookInterval
	if f.opt.knobs.followLook != 0 {
		interval = f.opt.knobs.followLook
	}
	if !f.lookedAt.IsZero() {
		files, err := listLevel(ctx, f.client, 0, at+1, false)
		if err != nil {
			return followPlan{}, err
		}
		var newest ltx.TXID
		for _, info := range files {
			newest = max(newest, info.MaxTXID)
		}
		p := newFollowPlan(extendChain(nil, at, slices.Clone(files)), at)
		switch {
		case len(files) == 0 && time.Since(f.lookedAt) < interval:
			return p, nil
		case len(files) > 0 && p.to == newest && len(p.files) <= followFewFiles:
			return p, nil
		}
	}
	levels, err := listLevels(ctx, f.client, false)
	if err != nil {
		return followPlan{}, err
	}
	f.lookedAt = time.Now()
	return f.choose(levels, at)
}

// choose is planFollow, without files that turned out to be damaged, and with
// a second look at a gap: a compaction may have moved files from one level to
// another while they were listed.
func (f *follower) choose(levels levelFiles, at ltx.TXID) (followPlan, error) {
	for level := range levels {
		levels[level] = slices.DeleteFunc(levels[level], func(info *ltx.FileInfo) bool {
			return slices.ContainsFunc(f.bad, func(b *ltx.FileInfo) bool {
				return b.Level == info.Level && b.MinTXID == info.MinTXID && b.MaxTXID == info.MaxTXID
			})
		})
	}
	p, err := planFollow(f.opt.OutputPath, levels, at)
	switch {
	case len(f.bad) > 0 && len(p.files) == 0:
		// Nothing stands in for the damaged file. It is tried again, because
		// somebody may have put it right.
		f.bad = nil
		return p, f.badErr
	case (p.full || errors.Is(err, ErrNonContiguous)) && len(f.bad) == 0 && f.again != at:
		f.again = at
		return followPlan{}, errLookAgain
	}
	return p, err
}

// advance stages the files of a plan and applies them in one transaction. A
// damaged file is left out of the next plan once, in case another file holds
// the same.
func (f *follower) advance(ctx context.Context, plan followPlan) (err error) {
	defer func() {
		if rerr := f.stage.reset(); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}()
	if err := f.stage.reset(); err != nil {
		return err
	}
	a := &applier{out: f.stage.f}
	if !plan.full {
		_, hdr, err := readDatabaseHeader(f.db.f)
		if err != nil {
			return err
		}
		info, err := f.db.f.Stat()
		if err != nil {
			return fmt.Errorf("stat followed database: %w", err)
		}
		a.base = uint32(info.Size() / int64(hdr.PageSize))
	}
	if err := a.apply(ctx, f.client, plan.files, f.opt.knobs.fetch, new(progress)); err != nil {
		return f.distrust(plan, err)
	}
	f.bad = nil
	if err := f.db.apply(ctx, a, plan.to); err != nil {
		f.located = false
		return err
	}
	return nil
}

// distrust notes the file that an error is about, and returns the error.
func (f *follower) distrust(plan followPlan, err error) error {
	var le *LTXError
	if !errors.As(err, &le) {
		return err
	}
	if at := f.db.mark.txid; errors.Is(err, fs.ErrNotExist) && f.again != at {
		f.again = at
		return errLookAgain
	}
	i := slices.IndexFunc(plan.files, func(info *ltx.FileInfo) bool {
		return info.Level == le.Level && info.MinTXID == le.MinTXID && info.MaxTXID == le.MaxTXID
	})
	if i >= 0 && le.Op != "read" {
		f.bad, f.badErr = append(f.bad, plan.files[i]), err
	}
	return err
}

// prepareFollow makes a database that was just restored one that is followed:
// its header tells readers to use rollback mode, and its state lies beside it.
// It is not under its name yet.
func (rs *restorer) prepareFollow(out *restoreOutput, db restored) error {
	page := make([]byte, db.pageSize)
	if _, err := out.f.ReadAt(page, 0); err != nil {
		return fmt.Errorf("read page 1 of restored database: %w", err)
	}
	m := followMark{txid: rs.target, checksum: db.checksum, source: takeFollowHeader(page)}
	m.counter = newCounter(m.source.counter())
	m.source.withCounter(m.counter).put(page)
	if _, err := out.f.WriteAt(page, 0); err != nil {
		return outputError("write", err)
	}
	if err := writeFollowState(out.path, followState{from: m, to: m}); err != nil {
		return err
	}
	return writeFollowTXID(out.path, m.txid)
}

// forgetFollow removes the position of a database that did not get its name.
func forgetFollow(output string) error {
	var errs []error
	for _, suffix := range []string{followTXIDSuffix, followStateSuffix} {
		if err := os.Remove(output + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, syncFolder(filepath.Dir(output)))...)
}
