package litestream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/superfly/ltx"

	v03 "github.com/benbjohnson/litestream/internal/v03"
)

// V03File is an object of a backup that Litestream v0.3 made.
type V03File = v03.File

// V03Client is implemented by clients that read backups of Litestream v0.3
// (docs/formats/v03.md), which lie beside the LTX files below the same path.
type V03Client interface {
	// V03Objects lists every object below the folder generations, in any
	// order; names are relative to the path. A missing folder is an empty
	// list, a missing bucket an error.
	V03Objects(ctx context.Context) ([]ObjectInfo, error)

	// OpenV03Object reads an object as OpenLTXFile reads a file.
	OpenV03Object(ctx context.Context, name string, offset, size int64) (io.ReadCloser, error)
}

// ObjectInfo is what a listing tells of an object.
type ObjectInfo struct {
	Name       string
	Size       int64     // bytes
	ModifiedAt time.Time // modification time of a file, time of upload of an object
}

// ListV03 lists the backup of Litestream v0.3 that lies beside the LTX files
// of a replica, ordered by generation, the snapshots first. It is empty if
// there is none or the client reads none. Names that are no part of a backup
// are skipped.
func ListV03(ctx context.Context, client ReplicaClient) ([]V03File, error) {
	c, ok := client.(V03Client)
	if !ok {
		return nil, nil
	}
	if err := client.Init(ctx); err != nil {
		return nil, fmt.Errorf("init replica client: %w", err)
	}
	objects, err := c.V03Objects(ctx)
	if err != nil {
		return nil, fmt.Errorf("list v0.3 backups: %w", err)
	}
	var files []V03File
	for _, o := range objects {
		if f, ok := v03.ParseName(o.Name); ok {
			f.Size, f.CreatedAt = o.Size, o.ModifiedAt
			files = append(files, f)
		}
	}
	slices.SortFunc(files, func(a, b V03File) int { return cmp.Compare(a.Name, b.Name) })
	return files, nil
}

// listFormats lists the LTX files and, unless only they can be meant, the
// backup of v0.3, at the same time.
func (rs *restorer) listFormats(ctx context.Context) (err error) {
	if rs.opt.TXID != 0 || rs.opt.Follow {
		rs.levels, err = listLevels(ctx, rs.client, !rs.opt.Timestamp.IsZero())
		return err
	}
	var v03Err error
	var wg sync.WaitGroup
	wg.Go(func() { rs.v03Files, v03Err = ListV03(ctx, rs.client) })
	rs.levels, err = listLevels(ctx, rs.client, !rs.opt.Timestamp.IsZero())
	wg.Wait()
	return cmp.Or(err, v03Err) // the store is away for both alike
}

// usesV03 decides which of two formats is restored: the one that holds the
// newest data of the wanted moment. Litestream v0.5 decides a timestamp by
// snapshots alone, and so goes back to v0.3 until a
// replica that was taken over has its first snapshot in the new format.
func usesV03(levels levelFiles, files []V03File, timestamp time.Time) bool {
	if len(files) == 0 || countFiles(levels) == 0 {
		return len(files) > 0
	}
	var newestLTX, firstLTX, newestV03, firstV03 time.Time
	for _, infos := range levels {
		for _, info := range infos {
			if timestamp.IsZero() || info.CreatedAt.Before(timestamp) {
				newestLTX = later(newestLTX, info.CreatedAt)
			}
			if firstLTX.IsZero() || info.CreatedAt.Before(firstLTX) {
				firstLTX = info.CreatedAt
			}
		}
	}
	for _, f := range files {
		if f.Snapshot && (firstV03.IsZero() || f.CreatedAt.Before(firstV03)) {
			firstV03 = f.CreatedAt
		}
	}
	if firstV03.IsZero() {
		return false // no snapshot: nothing to restore
	}
	for _, f := range files {
		if timestamp.IsZero() || !f.CreatedAt.After(timestamp) && !firstV03.After(timestamp) {
			newestV03 = later(newestV03, f.CreatedAt)
		}
	}
	if newestV03.IsZero() && newestLTX.IsZero() {
		return firstV03.Before(firstLTX) // its error names the first moment of all
	}
	return newestV03.After(newestLTX)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// planV03 chooses the files of a backup of v0.3.
func (rs *restorer) planV03() error {
	p, err := v03.NewPlan(rs.v03Files, rs.opt.Timestamp)
	if err != nil {
		return v03Error(rs.v03Files, rs.opt.Timestamp, err)
	}
	rs.v03, rs.files, rs.target = &p, nil, 0
	var total int64
	for _, f := range p.Files() {
		total += f.Size
	}
	rs.progress.bytes.Store(0)
	rs.progress.total.Store(total)
	rs.progress.files.Store(int64(len(p.WAL) + 1))
	return nil
}

// applyV03 writes the database into an empty file.
func (rs *restorer) applyV03(ctx context.Context, out *restoreOutput) (restored, error) {
	client, ok := rs.client.(V03Client)
	if !ok {
		return restored{}, errors.New("client reads no backups of v0.3")
	}
	snapshot := rs.v03.Snapshot
	rs.opt.Logger.Info("restoring a backup of litestream v0.3", "generation", snapshot.Generation,
		"index", fmt.Sprintf("%08x", snapshot.Index), "wal_segments", len(rs.v03.WAL))
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var files []*fetchFile
	for _, f := range rs.v03.Files() {
		files = append(files, &fetchFile{
			size: f.Size,
			open: func(ctx context.Context, offset, size int64) (io.ReadCloser, error) {
				return client.OpenV03Object(ctx, f.Name, offset, size)
			},
			fail: func(err error) error { return err }, // Apply names the file
		})
	}
	fetch := startFetcher(ctx, &wg, files, rs.opt.knobs.fetch)
	var last *inputReader
	open := func(f V03File) io.Reader {
		if last != nil {
			last.close()
		}
		last = &inputReader{ctx: ctx, f: fetch, size: f.Size, p: &rs.progress}
		return last
	}
	res, err := v03.Apply(*rs.v03, out.f, open, filepath.Dir(out.path))
	if err != nil {
		return restored{}, v03Error(rs.v03Files, rs.opt.Timestamp, err)
	}
	if res.Dropped > 0 {
		rs.opt.Logger.Warn("the backup ends inside a transaction, which is left out",
			"file", res.Truncated.Name, "bytes", res.Dropped)
	}
	at := rs.v03.CreatedAt().UTC()
	rs.opt.Logger.Info("restored a backup of litestream v0.3", "generation", snapshot.Generation,
		"transactions", res.CommitN, "as_of", v03.FormatTime(at))
	return restored{at: at, pageSize: res.PageSize, pageN: res.PageN}, nil
}

// v03Error completes an error about a backup of v0.3 with what is restorable.
func v03Error(files []V03File, until time.Time, err error) error {
	if oe, ok := errors.AsType[*v03.OutputError](err); ok {
		return outputError("write", oe.Err)
	}
	if errors.Is(err, v03.ErrNoSnapshot) {
		if slices.ContainsFunc(files, func(f V03File) bool { return f.Snapshot }) {
			return fmt.Errorf("v0.3 backup: %w: %w", ErrTxNotAvailable, err)
		}
		return fmt.Errorf("v0.3 backup: %w: %w", ErrNonContiguous, err)
	}
	if gap, ok := errors.AsType[*v03.GapError](err); ok {
		return fmt.Errorf("v0.3 backup: %w: %w (%s)", ErrNonContiguous, err, v03Remedy(files, gap.Behind))
	}
	fe, ok := errors.AsType[*v03.FileError](err)
	if !ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, fs.ErrNotExist) || IsPermanent(err) {
		return err
	}
	if _, ok := errors.AsType[*ReplicaError](err); ok {
		return err // the store failed, not the file
	}
	return fmt.Errorf("v0.3 backup: %w (%s)", err, v03Hint(files, until, fe.File))
}

// v03Hint says what is restorable although a file is unusable.
func v03Hint(files []V03File, until time.Time, bad V03File) string {
	good := slices.DeleteFunc(slices.Clone(files), func(f V03File) bool { return f.Name == bad.Name })
	if p, err := v03.NewPlan(good, until); err == nil && bad.Snapshot && p.Snapshot.Generation == bad.Generation {
		return "an older snapshot reaches the same moment: move this file away and restore again"
	}
	return v03Remedy(files, bad)
}

// v03Remedy says which timestamp restores what lies in front of a file.
func v03Remedy(files []V03File, bad V03File) string {
	at, ok := v03.NewestWithout(files, bad)
	if !ok {
		return "nothing before it is restorable"
	}
	return "what lies before it is restorable with -timestamp " + v03.FormatTime(at)
}

// v03Txid explains why a replica with a backup of v0.3 only has no txid.
func (rs *restorer) v03Txid(ctx context.Context, err error) error {
	if !errors.Is(err, ErrNoBackups) || rs.opt.TXID == 0 {
		return err
	}
	files, listErr := ListV03(ctx, rs.client)
	if listErr != nil || len(files) == 0 {
		return err
	}
	return fmt.Errorf("%w: the replica holds a backup of litestream v0.3, which has no txids (restore it without -txid, or with -timestamp)", ErrTxNotAvailable)
}

// integrityMode is how the restored database is checked. A backup of v0.3
// holds no checksum of the database, and does not show it when the end of a
// log is missing: such a database is always checked, unless the caller
// declines.
func (rs *restorer) integrityMode() IntegrityCheckMode {
	if rs.v03 != nil && rs.opt.IntegrityCheck == IntegrityCheckNone && !rs.opt.SkipV03Check {
		return IntegrityCheckQuick
	}
	return rs.opt.IntegrityCheck
}

// dropLedger removes the page ledger of what stood at the path before: a
// backup of v0.3 has no position that a ledger could be of.
func (rs *restorer) dropLedger() {
	if err := os.Remove(rs.opt.LedgerPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		rs.opt.Logger.Warn("remove old page ledger", "path", rs.opt.LedgerPath, "error", err)
	}
}

// RestorePlan is what a restore would read: files of one of the two formats, in
// the order in which they apply.
type RestorePlan struct {
	LTX []*ltx.FileInfo
	V03 []V03File // of a backup that Litestream v0.3 made; LTX is empty then
}

// DryRunRestore lists the replica and chooses what Restore would read for the
// same options. It writes nothing.
func DryRunRestore(ctx context.Context, client ReplicaClient, opt RestoreOptions) (RestorePlan, error) {
	opt = opt.withDefaults()
	if opt.TXID != 0 && !opt.Timestamp.IsZero() {
		return RestorePlan{}, errors.New("plan restore: give a txid or a timestamp, not both")
	}
	rs := &restorer{client: client, opt: opt}
	if err := rs.plan(ctx); err != nil {
		return RestorePlan{}, err
	}
	if rs.v03 != nil {
		return RestorePlan{V03: rs.v03.Files()}, nil
	}
	return RestorePlan{LTX: rs.files}, nil
}
