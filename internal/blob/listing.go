package blob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/superfly/ltx"
)

// An Entry is one object of a listing.
type Entry struct {
	Key       string
	Size      int64     // bytes
	Stored    time.Time // when it was uploaded
	Timestamp string    // of the LTX header, from the metadata; RFC 3339
}

// A Layout says what keys LTX files have: a Root or a Prefix.
type Layout interface {
	File(level int, minTXID, maxTXID ltx.TXID) string
	Split(key string) (level int, name string, ok bool)
}

// Listing gathers the LTX files below a root.
type Listing struct {
	Root Layout
	Seek ltx.TXID // files that begin before it are left out

	timed   []*ltx.FileInfo
	untimed []*ltx.FileInfo // those without the time of their header
}

// Add takes an object in, unless it is no LTX file.
func (l *Listing) Add(e Entry) {
	level, name, ok := l.Root.Split(e.Key)
	if !ok {
		return
	}
	minTXID, maxTXID, err := ltx.ParseFilename(name)
	if err != nil || minTXID < l.Seek {
		return
	}
	info := &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID, Size: e.Size, CreatedAt: e.Stored.UTC()}
	if t, err := time.Parse(time.RFC3339Nano, e.Timestamp); err == nil {
		info.CreatedAt = t.UTC()
		l.timed = append(l.timed, info)
	} else {
		l.untimed = append(l.untimed, info)
	}
}

// Sorted returns the files in ascending order of level, MinTXID and MaxTXID.
func (l *Listing) Sorted() []*ltx.FileInfo {
	infos := slices.Concat(l.timed, l.untimed)
	slices.SortFunc(infos, func(a, b *ltx.FileInfo) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.MinTXID, b.MinTXID), cmp.Compare(a.MaxTXID, b.MaxTXID))
	})
	return infos
}

// headerWorkers is the number of headers that are read at a time.
const headerWorkers = 16

// OpenFunc opens a part of an object.
type OpenFunc func(ctx context.Context, key string, offset, size int64) (io.ReadCloser, error)

// ReadHeaders reads the time of the files whose metadata have none, as those of
// a copied bucket, and drops those that were deleted meanwhile. The time of
// upload would be a guess, and a restore to a point in time cannot guess.
func (l *Listing) ReadHeaders(ctx context.Context, open OpenFunc) error {
	return l.ReadTimes(ctx, headerWorkers, func(ctx context.Context, key string) (time.Time, error) {
		return HeaderTime(ctx, open, key)
	})
}

// ReadTimes asks for the time of each file that came without one, as ReadTimes
// without a listing does.
func (l *Listing) ReadTimes(ctx context.Context, workers int, read func(ctx context.Context, key string) (time.Time, error)) (err error) {
	l.untimed, err = ReadTimes(ctx, l.untimed, workers, func(ctx context.Context, info *ltx.FileInfo) (time.Time, error) {
		return read(ctx, l.Root.File(info.Level, info.MinTXID, info.MaxTXID))
	})
	return err
}

// ReadTimes sets the time of each file to what read says, with up to workers
// calls at a time, until one fails. It returns infos, whose array it uses, without
// the files that are gone: those that read says fs.ErrNotExist of.
func ReadTimes(ctx context.Context, infos []*ltx.FileInfo, workers int, read func(ctx context.Context, info *ltx.FileInfo) (time.Time, error)) ([]*ltx.FileInfo, error) {
	gone := make([]bool, len(infos))
	err := Each(ctx, len(infos), workers, func(ctx context.Context, i int) error {
		t, err := read(ctx, infos[i])
		if gone[i] = errors.Is(err, fs.ErrNotExist); gone[i] {
			return nil
		}
		infos[i].CreatedAt = t
		return err
	}, func(error) bool { return true })
	if err != nil {
		return nil, err
	}
	kept := infos[:0]
	for i, info := range infos {
		if !gone[i] {
			kept = append(kept, info)
		}
	}
	return kept, nil
}

// HeaderTime reads the time of a file from its LTX header.
func HeaderTime(ctx context.Context, open OpenFunc, key string) (t time.Time, err error) {
	r, err := open(ctx, key, 0, ltx.HeaderSize)
	if err != nil {
		return time.Time{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	hdr, _, err := ltx.PeekHeader(r)
	if err != nil {
		return time.Time{}, fmt.Errorf("read ltx header of %s: %w", key, err)
	}
	return time.UnixMilli(hdr.Timestamp).UTC(), nil
}
