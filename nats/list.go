package nats

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

// A listing finds names by subjects, which the leader of the stream knows in
// full, and then asks for the objects. Below a path the subjects of the chunks
// begin with it, so that the server reads those of one database only. Without a
// path it is the whole bucket, as it is in Litestream v0.5, whose files have no
// other subject.

// LTXFiles lists one level. CreatedAt is the time of the LTX header, which each
// object has. Where another program has stored it without, it is the time of
// upload, or with useMetadata read from the file.
func (c *ReplicaClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	l, err := c.list(ctx, level, seek)
	if err == nil && useMetadata {
		err = l.ReadHeaders(ctx, c.open)
	}
	if err != nil {
		return nil, c.wrap("list", c.root().Level(level), err)
	}
	return ltx.NewFileInfoSliceIterator(l.Sorted()), nil
}

// LTXTree lists all levels at once.
func (c *ReplicaClient) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	l, err := c.list(ctx, allLevels, 0)
	if err != nil {
		return nil, c.wrap("list", c.root().Tree(), err)
	}
	return l.Sorted(), nil
}

const allLevels = -1

func (c *ReplicaClient) list(ctx context.Context, level int, seek ltx.TXID) (*blob.Listing, error) {
	began := time.Now()
	root := c.root()
	prefix := root.Tree()
	if level != allLevels {
		prefix = root.Level(level)
	}
	wanted := func(key string) bool {
		_, name, ok := root.Split(key)
		minTXID, _, err := ltx.ParseFilename(name)
		return ok && err == nil && minTXID >= seek && strings.HasPrefix(key, prefix)
	}
	var f *found
	err := c.do(ctx, func(ctx context.Context, b *bucket) (err error) {
		if root == "" {
			f, err = b.findAll(ctx, wanted)
		} else {
			f, err = b.findBelow(ctx, prefix, wanted)
		}
		return err
	})
	c.observe("LIST", 0, began, err)
	if err != nil {
		return nil, err
	}
	l := &blob.Listing{Root: root, Seek: seek}
	for _, o := range f.live {
		l.Add(blob.Entry{Key: o.Name, Size: o.Size, Stored: o.stored, Timestamp: o.timestamp()})
	}
	c.sweep(ctx, f)
	return l, nil
}

// found is what a search came upon.
type found struct {
	live    []*object
	marks   []*object // of deleted objects, which other programs leave
	orphans []string  // ends of subjects of chunks that no object has
}

// findAll finds objects by their names.
func (b *bucket) findAll(ctx context.Context, wanted func(key string) bool) (*found, error) {
	all, err := b.keys(ctx)
	if err != nil {
		return nil, err
	}
	keys := all[:0]
	for _, key := range all {
		if wanted(key) {
			keys = append(keys, key)
		}
	}
	return b.sortOut(ctx, keys, nil)
}

// findBelow finds objects by the subjects of their chunks. prefix is not empty
// and ends with a slash.
func (b *bucket) findBelow(ctx context.Context, prefix string, wanted func(key string) bool) (*found, error) {
	ids, err := b.subjects(ctx, b.chunkPrefix(), b.chunkPrefix()+tokens(prefix)+">")
	if err != nil {
		return nil, err
	}
	var keys, candidates []string
	seen := make(map[string]bool)
	for _, id := range ids {
		key, _, ok := parseNUID(id)
		if !ok || !wanted(key) {
			continue
		}
		candidates = append(candidates, id)
		if !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	return b.sortOut(ctx, keys, candidates)
}

// sortOut asks for the objects of some names.
func (b *bucket) sortOut(ctx context.Context, keys, candidates []string) (*found, error) {
	objects, err := b.getAll(ctx, keys)
	if err != nil {
		return nil, err
	}
	f := &found{}
	known := make(map[string]bool, len(objects))
	for _, o := range objects {
		if o.Deleted {
			f.marks = append(f.marks, o)
			continue
		}
		known[o.NUID] = true
		f.live = append(f.live, o)
	}
	for _, id := range candidates {
		if !known[id] {
			f.orphans = append(f.orphans, id)
		}
	}
	return f, nil
}

const (
	// abandonedAfter is the age from which chunks that no object has count as
	// left behind by an upload that was interrupted, and marks of deleted objects
	// as seen by everybody.
	abandonedAfter = 24 * time.Hour

	// maxSwept bounds what one listing removes.
	maxSwept = 1000
)

// sweep removes what nobody needs any more, if this process writes to the
// server itself. It is no matter if it fails.
func (c *ReplicaClient) sweep(ctx context.Context, f *found) {
	if len(f.marks)+len(f.orphans) == 0 {
		return
	}
	if cn, err := c.connection(ctx); err != nil || !cn.writes.Load() {
		return
	}
	now, n := time.Now(), 0
	if c.pool.now != nil {
		now = c.pool.now()
	}
	err := c.do(ctx, func(ctx context.Context, b *bucket) error {
		for ; len(f.orphans) > 0 && n < maxSwept; f.orphans = f.orphans[1:] {
			if _, begun, ok := parseNUID(f.orphans[0]); !ok || now.Sub(begun) < abandonedAfter {
				continue
			}
			if err := b.purge(ctx, b.chunkPrefix()+f.orphans[0], 0); err != nil {
				return err
			}
			n++
		}
		for ; len(f.marks) > 0 && n < maxSwept; f.marks = f.marks[1:] {
			mark := f.marks[0]
			if now.Sub(mark.stored) < abandonedAfter {
				continue
			}
			if err := b.purge(ctx, b.metaSubject(mark.Name), mark.seq+1); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if n > 0 || err != nil {
		c.logger.Load().Info("removed what uploads and deletes left behind", "bucket", c.Bucket, "path", c.Path, "count", n, "error", err)
	}
}

// Empty looks for an object below the path: first where ours would be, then by
// the names of the whole bucket.
func (c *ReplicaClient) Empty(ctx context.Context) (bool, error) {
	began := time.Now()
	root := c.root()
	found := false
	err := c.do(ctx, func(ctx context.Context, b *bucket) error {
		if root != "" {
			keys, err := b.keysBelow(ctx, root.Objects())
			if err == nil {
				found, err = b.anyLive(ctx, keys)
			}
			if err != nil || found {
				return err
			}
		}
		all, err := b.keys(ctx)
		if err != nil {
			return err
		}
		keys := slices.DeleteFunc(all, func(key string) bool { return !strings.HasPrefix(key, root.Objects()) })
		found, err = b.anyLive(ctx, keys)
		return err
	})
	c.observe("LIST", 0, began, err)
	if err != nil {
		return false, c.wrap("list", root.Objects(), err)
	}
	return !found, nil
}

// keysBelow returns the names that the chunks below a path are of, sorted. A name
// may come more than once, and have no object.
func (b *bucket) keysBelow(ctx context.Context, prefix string) ([]string, error) {
	ids, err := b.subjects(ctx, b.chunkPrefix(), b.chunkPrefix()+tokens(prefix)+">")
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(ids))
	for _, id := range ids {
		if key, _, ok := parseNUID(id); ok {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// anyLive reports whether one of the names has an object. It asks for few, as
// the first one mostly has.
func (b *bucket) anyLive(ctx context.Context, keys []string) (bool, error) {
	const few = 200
	for some := range slices.Chunk(keys, few) {
		objects, err := b.getAll(ctx, some)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(objects, func(o *object) bool { return !o.Deleted }) {
			return true, nil
		}
	}
	return false, nil
}

// Replicas finds the paths below the client's that hold LTX files.
func (c *ReplicaClient) Replicas(ctx context.Context, fn func(path string) error) error {
	began := time.Now()
	root := c.root()
	var keys []string
	err := c.do(ctx, func(ctx context.Context, b *bucket) (err error) {
		if root == "" {
			keys, err = b.keys(ctx)
			return err
		}
		keys, err = b.keysBelow(ctx, root.Objects())
		return err
	})
	c.observe("LIST", 0, began, err)
	if err != nil {
		return c.wrap("list", root.Objects(), err)
	}
	last := "\x00"
	for _, key := range keys {
		path, ok := replicaOf(strings.TrimPrefix(key, root.Objects()))
		if !ok || path == last {
			continue
		}
		last = path
		if err := fn(path); err != nil {
			return err
		}
	}
	return nil
}

// replicaOf returns the path of a database's replica from the name of one of
// its files.
func replicaOf(key string) (path string, ok bool) {
	i := strings.LastIndex("/"+key, "/ltx/")
	if i < 0 {
		return "", false
	}
	path = strings.TrimSuffix(key[:i], "/")
	_, name, ok := blob.Root(path).Split(key)
	if _, _, err := ltx.ParseFilename(name); !ok || err != nil {
		return "", false
	}
	return path, true
}
