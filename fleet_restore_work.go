package litestream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/superfly/ltx"
	"golang.org/x/sys/unix"
)

// fleetPartBytes is how much of a plan one request in flight is meant for. A
// large database gets several, as far as others do not need them.
const fleetPartBytes = 8 << 20

// maxFleetRefusals is how many databases the storage may refuse, for a reason
// that only a change of the configuration heals, before any was restored.
const maxFleetRefusals = 16

// fleetExistsError is the outcome of a database whose file is there.
type fleetExistsError struct{ error }

// Unwrap returns the reason.
func (e fleetExistsError) Unwrap() error { return e.error }

// fleetPlaced is a complete database under its temporary name.
type fleetPlaced struct {
	e       *FleetRestoreEntry
	row     *FleetRestoreRow
	dir     string
	temp    string
	base    string
	dev     uint64
	release func() // of its room
	err     error  // why it does not get its name
}

// work restores one database after the other.
func (r *FleetRestore) work(ctx context.Context) {
	for ctx.Err() == nil {
		i := r.next.Add(1) - 1
		if i >= int64(len(r.items)) {
			return
		}
		e, err := r.entry(r.items[i])
		if err != nil {
			r.stop(err)
			return
		}
		select {
		case <-r.tokens:
		case <-ctx.Done():
			r.note(&FleetRestoreRow{Path: e.Path, Target: r.targetPath(e), Status: FleetRestoreLeft})
			return
		}
		p := r.restoreOne(ctx, e, r.lists.files(i))
		r.tokens <- struct{}{}
		if p != nil {
			r.placed <- p // the committer never ends before the workers
		}
	}
}

// restoreOne restores one database up to its temporary name, or reports why not.
// files are what is known of its replica; nil: nothing.
func (r *FleetRestore) restoreOne(ctx context.Context, e *FleetRestoreEntry, files []*ltx.FileInfo) *fleetPlaced {
	begin := time.Now()
	row := &FleetRestoreRow{Path: e.Path, Target: r.targetPath(e)}
	p, err := r.prepare(ctx, e, row, files)
	row.Duration = time.Since(begin)
	if p != nil && err == nil {
		return p
	}
	row.Err = err
	_, exists := errors.AsType[fleetExistsError](err)
	switch {
	case err == nil: // verified
		row.Status = FleetRestoreVerified
	case exists && r.opt.Existing == FleetRestoreSkip, r.opt.AllowMissing && isNoBackup(err):
		row.Status = FleetRestoreSkipped
	case errors.Is(err, ErrOutputExists):
		row.Status = FleetRestoreRefused
	case errors.Is(err, ErrDiskFull):
		row.Status = FleetRestoreLeft
		r.stop(err)
	case ctx.Err() != nil, errors.Is(err, context.Canceled):
		row.Status, row.Err = FleetRestoreLeft, nil
	default:
		row.Status = FleetRestoreFailed
		r.countRefusal(err)
	}
	r.note(row)
	return nil
}

// isNoBackup reports whether a replica holds nothing for the request. A replica
// with a hole in it is not meant.
func isNoBackup(err error) bool {
	return errors.Is(err, ErrNoBackups) || errors.Is(err, ErrTxNotAvailable) && !errors.Is(err, ErrNonContiguous)
}

// countRefusal ends the run when the storage refuses everything.
func (r *FleetRestore) countRefusal(err error) {
	if !IsPermanent(err) || r.refusals.Add(1) < maxFleetRefusals {
		return
	}
	r.mu.Lock()
	none := r.summary.Done() == 0
	r.mu.Unlock()
	if none {
		r.stop(fmt.Errorf("the storage refuses: %w", err))
	}
}

// prepare returns a database under its temporary name; nil without an error
// means that it is there already.
func (r *FleetRestore) prepare(ctx context.Context, e *FleetRestoreEntry, row *FleetRestoreRow, files []*ltx.FileInfo) (*fleetPlaced, error) {
	if e.Problem != "" {
		return nil, errors.New(e.Problem)
	}
	target, err := fleetTarget(e.Path)
	if err != nil {
		return nil, err
	}
	dir, base := path.Split(target)
	dir = path.Clean(dir)
	switch folder, err := r.tree.open(dir); {
	case err == nil:
		verified, err := r.look(ctx, folder, e, base, row)
		folder.release()
		if verified || err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open output folder: %w", err)
	}
	rs, err := r.plan(ctx, e, row, files)
	if err != nil {
		return nil, err
	}
	folder, err := r.tree.make(dir, e)
	if err != nil {
		return nil, fmt.Errorf("create output folder: %w", err)
	}
	defer folder.release()
	p := &fleetPlaced{e: e, row: row, dir: dir, base: base, temp: fleetTempName(base, r.run), dev: folder.dev, release: func() {}}
	if err := r.fill(ctx, rs, folder, p); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

// fleetTempName is the name of an unfinished database. It does not grow with
// the database's name, which may be as long as names can be.
func fleetTempName(base, run string) string {
	return fmt.Sprintf("%s%016x-%s%s", fleetTempPrefix, fleetHash(base), run, restoreTempSuffix)
}

// look decides about what lies at the target. What runs that were killed left
// of it is removed.
func (r *FleetRestore) look(ctx context.Context, folder *fleetFolder, e *FleetRestoreEntry, base string, row *FleetRestoreRow) (verified bool, err error) {
	for _, run := range r.journal.old {
		if err := folder.remove(fleetTempName(base, run)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	st, err := folder.stat(base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, r.checkSidecars(folder, base)
	case err != nil:
		return false, err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return false, fleetExistsError{fmt.Errorf("%w: %s is a directory", ErrOutputExists, folder.name(base))}
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return false, fleetExistsError{fmt.Errorf("%w: %s is not a regular file", ErrOutputExists, folder.name(base))}
	}
	ours, same, err := r.verify(folder, e, base, row)
	switch {
	case err != nil:
		return false, err
	case same:
		return r.current(ctx, e, row, folder.inUse(base))
	case r.opt.Existing == FleetRestoreReplace:
		return false, nil
	case ours:
		return false, fleetExistsError{fmt.Errorf("%w: %s changed since it was restored (it is left alone; -force replaces it)", ErrOutputExists, folder.name(base))}
	case st.Size == 0:
		return false, r.checkSidecars(folder, base)
	default:
		return false, fleetExistsError{fmt.Errorf("%w: %s (-if-db-not-exists leaves such files alone, -force replaces them)", ErrOutputExists, folder.name(base))}
	}
}

// checkSidecars refuses a target beside which SQLite left something.
func (r *FleetRestore) checkSidecars(folder *fleetFolder, base string) error {
	if r.opt.Existing == FleetRestoreReplace {
		return nil
	}
	for _, suffix := range sidecarSuffixes {
		if _, err := folder.stat(base + suffix); err == nil {
			return fmt.Errorf("%w: %s was left by SQLite and would mix with the restored database (move it away, or delete it with -force)",
				ErrOutputExists, folder.name(base+suffix))
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENAMETOOLONG) {
			return err
		}
	}
	return nil
}

// verify compares a file with what an earlier run restored. ours tells that one
// did.
func (r *FleetRestore) verify(folder *fleetFolder, e *FleetRestoreEntry, base string, row *FleetRestoreRow) (ours, same bool, err error) {
	l, ok, err := r.journal.find(e.Path)
	if !ok || err != nil {
		return false, false, err
	}
	f, err := folder.openFile(base, os.O_RDONLY, 0)
	if err != nil {
		return true, false, err
	}
	defer f.Close()
	sum, n, err := fleetSum(f)
	if err != nil {
		return true, false, fmt.Errorf("verify restored database: %w", err)
	}
	if sum != l.SHA256 || n != l.Bytes {
		return true, false, nil
	}
	row.Timestamp, row.Bytes, row.SHA256 = l.At, l.Bytes, l.SHA256
	row.TXID, err = ltx.ParseTXID(l.TXID)
	return true, err == nil, err
}

// current reports whether what an earlier run restored is still what is asked
// for: the newest state is, as long as the replica did not go on. With the
// replacing of files it is restored anew else, unless SQLite has files beside
// it: then it is in use, and the replica may have gone on because of that.
func (r *FleetRestore) current(ctx context.Context, e *FleetRestoreEntry, row *FleetRestoreRow, inUse bool) (bool, error) {
	told := e.TXID != 0 && r.opt.Existing != FleetRestoreReplace
	if !r.opt.Timestamp.IsZero() || told && e.TXID <= row.TXID {
		return true, nil
	}
	rs, err := r.plan(ctx, e, row, nil)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil:
		row.Warning = fmt.Sprintf("an earlier run restored it; whether the replica went on since is not known: %v", err)
		return true, nil
	case rs.v03 != nil || rs.target == row.TXID:
		return true, nil
	case r.opt.Existing == FleetRestoreReplace && !inUse:
		*row = FleetRestoreRow{Path: row.Path, Target: row.Target}
		return false, nil
	default:
		row.Behind = true
		row.Warning = fmt.Sprintf("an earlier run restored it up to txid %s, and the replica ends at %s now (-force restores it anew)", row.TXID, rs.target)
		return true, nil
	}
}

var fleetBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// fleetSum reads a whole file.
func fleetSum(f *os.File) (sum string, n int64, err error) {
	buf := fleetBuffers.Get().(*[64 << 10]byte)
	defer fleetBuffers.Put(buf)
	h := sha256.New()
	for {
		m, err := f.ReadAt(buf[:], n)
		_, _ = h.Write(buf[:m]) // never fails
		n += int64(m)
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), n, nil
		} else if err != nil {
			return "", n, err
		}
	}
}

// plan chooses the files of a database, of those that are known if they reach
// what the source knows of.
func (r *FleetRestore) plan(ctx context.Context, e *FleetRestoreEntry, row *FleetRestoreRow, files []*ltx.FileInfo) (*restorer, error) {
	client, err := r.opt.Open(e)
	if err != nil {
		return nil, err
	}
	opt := NewRestoreOptions()
	opt.OutputPath, opt.Timestamp, opt.Parallelism = row.Target, r.opt.Timestamp, 1
	if r.opt.Ledger != nil {
		opt.LedgerPath, opt.LedgerReplica = r.opt.Ledger(e, client)
	}
	opt.IntegrityCheck, opt.Logger = r.opt.IntegrityCheck, slog.New(slog.DiscardHandler)
	rs := &restorer{client: client, opt: opt.withDefaults()}
	if maxTXIDOf(files) < e.TXID {
		files = nil
	}
	if files != nil { // the first plan may be old: the second one waits for nothing
		rs.opt.knobs.replanDelays = append([]time.Duration{0}, rs.opt.knobs.replanDelays...)
	}
	if !e.Foreign {
		rs.list = rs.listOnce(files)
	}
	if err := rs.plan(ctx); err != nil {
		return nil, err
	}
	if e.TXID > rs.target && r.opt.Timestamp.IsZero() && rs.v03 == nil {
		row.Behind = true
		row.Warning = fmt.Sprintf("the replica ends at txid %s, and reached %s", rs.target, e.TXID)
	}
	return rs, nil
}

// listTree lists an LTX replica in as few requests as its client can.
func (rs *restorer) listTree(ctx context.Context) (err error) {
	lister, ok := rs.client.(TreeLister)
	if !ok {
		rs.levels, err = listLevels(ctx, rs.client, !rs.opt.Timestamp.IsZero())
		return err
	}
	if err := rs.client.Init(ctx); err != nil {
		return fmt.Errorf("init replica client: %w", err)
	}
	infos, err := lister.LTXTree(ctx)
	if err != nil {
		return fmt.Errorf("list ltx files: %w", err)
	}
	rs.levels = levelFiles{}
	for _, info := range infos {
		rs.levels[info.Level] = append(rs.levels[info.Level], info)
	}
	if rs.opt.Timestamp.IsZero() {
		return nil
	}
	for level, files := range rs.levels { // times of upload will not do
		if len(files) > 0 {
			if rs.levels[level], err = listLevel(ctx, rs.client, level, 0, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill writes a database under its temporary name. After an error nothing is
// left of it but its room, which the caller gives back.
func (r *FleetRestore) fill(ctx context.Context, rs *restorer, folder *fleetFolder, p *fleetPlaced) (err error) {
	mode := fs.FileMode(0o666)
	if p.e.HasOwner {
		mode = 0o600 // until it has its owner
	}
	f, err := folder.openFile(p.temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return outputError("create", err)
	}
	defer func() {
		if closeErr := f.Close(); closeErr != nil && err == nil {
			err = outputError("close", closeErr)
		}
		if err != nil {
			err = errors.Join(err, folder.remove(p.temp))
		}
	}()
	r.opt.knobs.step("fill")
	defer r.borrow(rs)()
	grant := func(n int64) (err error) {
		p.release() // of an attempt before
		p.release = func() {}
		release, err := r.space.take(ctx, folder, n)
		if err == nil {
			p.release = release
		}
		return err
	}
	if rs.v03 != nil { // which says its size at the end
		if err := grant(max(p.e.Size, 4*rs.progress.total.Load())); err != nil {
			return err
		}
	}
	rs.admit = grant
	if rs.sums, err = rs.createSums(); err != nil {
		return err
	}
	if rs.sums != nil {
		defer rs.sums.Close()
	}
	db, err := rs.fill(ctx, &restoreOutput{path: folder.name(p.temp), f: f})
	if err != nil {
		return err
	}
	if err := checkIntegrity(ctx, f.Name(), rs.integrityMode()); err != nil {
		return err
	}
	row := p.row
	if rs.lineage != "" {
		row.Behind = true
		row.warn("%s", rs.lineage)
	}
	row.TXID, row.Timestamp, row.Bytes = rs.target, db.at, int64(db.pageN)*int64(db.pageSize)
	if row.SHA256, row.Bytes, err = fleetSum(f); err != nil {
		return outputError("read back", err)
	}
	// A ledger tells what the replica holds, not what the file does: it may be
	// there before the file has its name.
	switch {
	case rs.v03 != nil:
		rs.dropLedger()
	case rs.sums != nil:
		rs.saveLedger(db)
	}
	return r.own(f, folder, p)
}

// borrow takes more requests in flight for a large plan, of those that nobody
// uses, until the returned function is called.
func (r *FleetRestore) borrow(rs *restorer) (giveBack func()) {
	want := min(rs.progress.total.Load()/fleetPartBytes, int64(r.opt.Parallelism/4), DefaultRestoreParallelism-1)
	got := 0
	for ; int64(got) < want; got++ {
		select {
		case <-r.tokens:
			continue
		default:
		}
		break
	}
	rs.opt.Parallelism = 1 + got
	rs.opt = rs.opt.withDefaults()
	return func() {
		for range got {
			r.tokens <- struct{}{}
		}
	}
}

// own gives a file the mode and the owner that it had; where nothing is known of
// them, the owner of the folder. What is not allowed is a warning.
func (r *FleetRestore) own(f *os.File, folder *fleetFolder, p *fleetPlaced) error {
	uid, gid := folder.uid, folder.gid
	if p.e.HasOwner {
		uid, gid = p.e.UID, p.e.GID
	}
	warn := p.row.warn
	if self := os.Geteuid(); self == 0 && (uid != 0 || gid != 0) || p.e.HasOwner && (uid != self || gid != os.Getegid()) {
		if err := f.Chown(uid, gid); isNotAllowed(err) {
			warn("the owner %d:%d cannot be set: %v", uid, gid, err)
		} else if err != nil {
			return outputError("set the owner of", err)
		}
	}
	if !p.e.HasOwner {
		return nil
	}
	mode := p.e.Mode & fs.ModePerm // no more than permissions, whatever a catalog says
	if err := f.Chmod(mode); isNotAllowed(err) {
		warn("the mode %s cannot be set: %v", mode, err)
	} else if err != nil {
		return outputError("set the mode of", err)
	}
	return nil
}

// isNotAllowed reports whether a file cannot have the owner or the mode: the user
// may not set it, the user namespace or the file system does not know it.
func isNotAllowed(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported)
}
