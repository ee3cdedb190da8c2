package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/benbjohnson/litestream/internal/catalog"
)

// maxCatalogNames is how many names of parts are tried that may be taken.
const maxCatalogNames = 64

// RemoveFromCatalog takes a database off the catalogs that lie below root's
// path, where its replica is named by its path relative to that. It returns how
// many entries there were. A folder without a catalog has none; one that cannot
// be read any more is left to be made anew. The daemons that write the catalogs
// must not run: they would write the entry again.
func RemoveFromCatalog(ctx context.Context, root ReplicaClient, replica string) (int, error) {
	oc, ok := root.(ObjectClient)
	if !ok {
		return 0, nil
	}
	if err := root.Init(ctx); err != nil {
		return 0, fmt.Errorf("init replica client: %w", err)
	}
	names, err := readCatalogIndex(ctx, oc)
	if catalogLost(err) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	removed := 0
	var errs []error
	for _, id := range names {
		n, err := removeEntries(ctx, oc, id, replica)
		removed += n
		if err != nil && !catalogLost(err) {
			errs = append(errs, fmt.Errorf("take the database off the catalog: %w", err))
		}
	}
	return removed, errors.Join(errs...)
}

// removeEntries writes a layer with removals over one catalog (docs/formats/catalog.md).
func removeEntries(ctx context.Context, oc ObjectClient, id, replica string) (int, error) {
	s, err := readCatalogSource(ctx, oc, id)
	if err != nil {
		return 0, err
	}
	var paths [][]byte // ascending
	err = s.each(func(e *catalog.Entry) error {
		if strings.Trim(string(e.Replica), "/") == strings.Trim(replica, "/") {
			paths = append(paths, slices.Clone(e.Path))
		}
		return nil
	})
	if err != nil || len(paths) == 0 {
		return 0, err
	}
	enc := catalog.NewWriter()
	enc.Reset()
	for _, p := range paths {
		if err := enc.Add(&catalog.Entry{Path: p, Removed: true}); err != nil {
			return 0, err
		}
	}
	data, err := enc.Bytes()
	if err != nil {
		return 0, err
	}
	head := *s.head
	for n := 0; ; n++ { // a process that died may have left parts of the next generations
		head.Generation++
		seg := catalog.NewSegment(segmentName(head.Generation, 0), data, len(paths))
		err := oc.WriteObject(ctx, catalog.ObjectName(id, seg.Name), data, true)
		if err == nil {
			head.Layers = append(slices.Clone(head.Layers), catalog.Layer{Segments: []catalog.Segment{seg}})
			break
		} else if !errors.Is(err, fs.ErrExist) || n == maxCatalogNames {
			return 0, fmt.Errorf("write part of catalog: %w", err)
		}
	}
	head.Owner = randomID()
	head.WrittenAt = time.Now().UTC().Truncate(time.Second)
	b, err := catalog.EncodeHead(&head)
	if err != nil {
		return 0, err
	}
	if err := oc.WriteObject(ctx, catalog.HeadName(id), b, false); err != nil {
		return 0, fmt.Errorf("write head of catalog: %w", err)
	}
	return len(paths), nil
}
