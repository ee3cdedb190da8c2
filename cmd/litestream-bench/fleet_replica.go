//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// fleetReplica is where the replicas of a fleet lie, seen from outside the tool
// that writes them.
type fleetReplica interface {
	// section is the replica in the tool's configuration, with path behind
	// what all tenants share, indented by the given text.
	section(indent, path string) string
	// client reads the replica of one tenant.
	client(tenant int) litestream.ReplicaClient
	// backedUp returns of how many tenants it is known that they have a file
	// on the replica. It is cheap; countBackedUp looks everywhere.
	backedUp() (int, error)
	countBackedUp() (int, error)
	// watch reports commits of tenants to the oracle as they land. Their first
	// backup is done.
	watch(tenants []int) error
	// sweep looks for commits of tenants that are not watched as they land.
	sweep(ctx context.Context) error
	// requests counts requests by kind since the last call; nil if there is
	// nothing to be counted.
	requests() map[string]int
	// outage makes the replica unreachable, until the returned function is called.
	outage() (end func(ctx context.Context) error, err error)
	// size counts the LTX files and their bytes.
	size() (files int, bytes int64, err error)
	close() error
}

// ledgerSeq returns the newest commit of a tenant that an LTX file holds; 0 if
// none, as when it has other pages.
func ledgerSeq(r io.Reader, tenant int) (seq uint32, err error) {
	dec := ltx.NewDecoder(r)
	if err := dec.DecodeHeader(); err != nil {
		return 0, err
	}
	data := make([]byte, dec.Header().PageSize)
	for {
		var hdr ltx.PageHeader
		if err := dec.DecodePage(&hdr, data); errors.Is(err, io.EOF) {
			return seq, nil
		} else if err != nil {
			return 0, err
		}
		seq = max(seq, newestToken(data, tenant))
	}
}

// newestToken returns the highest commit whose token is in a page.
func newestToken(page []byte, tenant int) (seq uint32) {
	prefix := fmt.Appendf(nil, "<%06d:", tenant)
	for {
		_, rest, ok := bytes.Cut(page, prefix)
		if !ok {
			return seq
		}
		page = rest
		digits, _, ok := bytes.Cut(rest[:min(len(rest), 12)], []byte(">"))
		if n, err := strconv.ParseUint(string(digits), 10, 32); ok && err == nil {
			seq = max(seq, uint32(n))
		}
	}
}

// fileReplica is a folder. Commits of watched tenants are seen by inotify when
// the file gets its name; of others by a look at the times of files, whose
// ctime is when they got their name.
type fileReplica struct {
	dir    string
	n      int
	prefix func(tenant int) string
	oracle *oracle

	next    int               // tenants below it are backed up
	dirTime map[int]time.Time // mtime of a tenant's level 0 when sweep last read it
	watcher *ltxWatcher
}

func newFileReplica(dir string, n int, prefix func(int) string, o *oracle) (*fileReplica, error) {
	r := &fileReplica{dir: dir, n: n, prefix: prefix, oracle: o, dirTime: make(map[int]time.Time)}
	err := os.Mkdir(dir, 0o755)
	return r, err
}

func (r *fileReplica) section(indent, path string) string {
	return indent + "type: file\n" + indent + "path: " + strings.TrimSuffix(r.dir+"/"+path, "/") + "\n"
}

func (r *fileReplica) path(tenant int) string { return filepath.Join(r.dir, r.prefix(tenant)) }

func (r *fileReplica) level(tenant, level int) string {
	return filepath.Join(r.path(tenant), "ltx", strconv.Itoa(level))
}

func (r *fileReplica) client(tenant int) litestream.ReplicaClient {
	return file.NewReplicaClient(r.path(tenant))
}

// isBackedUp looks for the file that both tools begin with, and where retention
// deleted it, for a snapshot.
func (r *fileReplica) isBackedUp(tenant int) (bool, error) {
	_, err := os.Stat(filepath.Join(r.level(tenant, 0), ltx.FormatFilename(1, 1)))
	if !errors.Is(err, fs.ErrNotExist) {
		return err == nil, err
	}
	names, err := ltxNames(r.level(tenant, litestream.SnapshotLevel))
	return len(names) > 0, err
}

func (r *fileReplica) backedUp() (int, error) {
	for ; r.next < r.n; r.next++ {
		if ok, err := r.isBackedUp(r.next); err != nil || !ok {
			return r.next, err
		}
	}
	return r.next, nil
}

func (r *fileReplica) countBackedUp() (n int, err error) {
	for i := range r.n {
		ok, err := r.isBackedUp(i)
		if err != nil {
			return n, err
		}
		if ok {
			n++
		}
	}
	return n, nil
}

func (r *fileReplica) watch(tenants []int) error {
	if r.watcher == nil {
		w, err := newLTXWatcher(r.landed)
		if err != nil {
			return err
		}
		r.watcher = w
	}
	for _, t := range tenants {
		r.oracle.watch(t)
		if err := r.watcher.add(t, r.level(t, 0)); err != nil {
			return err
		}
	}
	return nil
}

// landed reports a file of a tenant that got its name at a time. One that
// retention deleted before it was read tells nothing.
func (r *fileReplica) landed(tenant int, path string, at time.Time) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	seq, err := ledgerSeq(f, tenant)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	r.oracle.land(tenant, seq, at)
	return nil
}

func (r *fileReplica) sweep(ctx context.Context) error {
	if r.watcher != nil {
		if err := r.watcher.failed(); err != nil {
			return err
		}
	}
	for _, t := range r.oracle.behind() {
		if err := ctx.Err(); err != nil {
			return err
		}
		// A replica that is away for a while is no error here.
		if err := r.sweepTenant(t); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return err
		}
	}
	return nil
}

// sweepTenant reads the files of a tenant that are new since the last time.
func (r *fileReplica) sweepTenant(t int) error {
	dir, err := os.Stat(r.level(t, 0))
	if err != nil {
		return err
	}
	seen := r.dirTime[t]
	if dir.ModTime().Equal(seen) {
		return nil
	}
	// Another file may come within the same tick of the clock.
	rested := time.Since(dir.ModTime()) > time.Second
	if err := r.sweepLevels(t, seen); err != nil {
		return err
	}
	if rested {
		r.dirTime[t] = dir.ModTime()
	}
	return nil
}

// sweepLevels reads files of a tenant, of level 0 those since last.
func (r *fileReplica) sweepLevels(t int, last time.Time) error {
	for _, level := range []int{0, 1, litestream.SnapshotLevel} {
		entries, err := os.ReadDir(r.level(t, level))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
		for _, e := range entries {
			if err := r.sweepFile(t, filepath.Join(r.level(t, level), e.Name()), last); err != nil {
				return err
			}
		}
		last = time.Time{} // it is of level 0
		// The other levels are for what level 0 no longer has.
		if !r.oracle.isBehind(t) {
			return nil
		}
	}
	return nil
}

func (r *fileReplica) sweepFile(t int, path string, last time.Time) error {
	if !strings.HasSuffix(path, ".ltx") {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	at := time.Unix(st.Ctim.Unix())
	if at.Before(last) {
		return nil // seen
	}
	return r.landed(t, path, at)
}

func (r *fileReplica) requests() map[string]int { return nil }

// outage puts a file where the folder was: every operation fails with ENOTDIR.
func (r *fileReplica) outage() (func(context.Context) error, error) {
	away := r.dir + ".away"
	if err := os.Rename(r.dir, away); err != nil {
		return nil, err
	}
	if err := os.WriteFile(r.dir, nil, 0o600); err != nil {
		return nil, err
	}
	return func(context.Context) error {
		if err := os.Remove(r.dir); err != nil {
			return err
		}
		return os.Rename(away, r.dir)
	}, nil
}

func (r *fileReplica) size() (int, int64, error) { return ltxSize(r.dir) }

// ltxSize counts the LTX files in a tree and their bytes.
func ltxSize(dir string) (files int, bytes int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".ltx") {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		} else if err != nil {
			return err
		}
		files++
		bytes += info.Size()
		return nil
	})
	return files, bytes, err
}

func (r *fileReplica) close() error {
	if r.watcher == nil {
		return nil
	}
	return r.watcher.close()
}
