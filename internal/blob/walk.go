package blob

import (
	"context"
	"errors"
	"io/fs"
	"path"

	"github.com/superfly/ltx"
)

// walkBatch is how many folders are looked at together.
const walkBatch = 128

// ltxFolder is what holds one folder per level where replicas lie in folders.
const ltxFolder = "ltx"

// Walk finds the replicas below a folder of a storage that lists one folder at a
// time.
type Walk struct {
	// ReadDir lists a folder, named relative to the one that is walked, "" for
	// itself. One that is missing is, or wraps, fs.ErrNotExist. It is called from
	// up to Workers goroutines at a time.
	ReadDir func(ctx context.Context, dir string) (folders, files []string, err error)
	Workers int
}

// Replicas calls fn with the path of each folder whose ltx folder holds a file,
// and stops at fn's first error. Links are not followed where ReadDir does not
// call them folders.
func (w *Walk) Replicas(ctx context.Context, fn func(replica string) error) error {
	stack := []string{""} // what is left is found below a few paths, so that it stays small
	for len(stack) > 0 {
		n := max(len(stack)-walkBatch, 0)
		dirs := append([]string(nil), stack[n:]...)
		stack = stack[:n]
		found := make([]walked, len(dirs))
		err := Each(ctx, len(dirs), w.Workers, func(ctx context.Context, i int) (err error) {
			found[i], err = w.look(ctx, dirs[i])
			return err
		}, func(error) bool { return true })
		if err != nil {
			return err
		}
		for i, f := range found {
			if f.replica {
				if err := fn(dirs[i]); err != nil {
					return err
				}
			}
			stack = append(stack, f.folders...)
		}
	}
	return ctx.Err()
}

// walked is what was found in one folder.
type walked struct {
	replica bool
	folders []string // to look at
}

func (w *Walk) look(ctx context.Context, dir string) (f walked, err error) {
	folders, _, err := w.ReadDir(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil // it was deleted meanwhile, or there is none
	} else if err != nil {
		return f, err
	}
	for _, name := range folders {
		sub := path.Join(dir, name)
		if name == ltxFolder {
			if f.replica, err = w.holdsFiles(ctx, sub); err != nil {
				return f, err
			} else if f.replica {
				continue
			}
		}
		f.folders = append(f.folders, sub)
	}
	return f, nil
}

// holdsFiles reports whether one of the levels in a folder has a file.
func (w *Walk) holdsFiles(ctx context.Context, dir string) (bool, error) {
	levels, _, err := w.ReadDir(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	for _, level := range levels {
		if len(level) != 1 || level[0] < '0' || level[0] > '9' {
			continue
		}
		_, files, err := w.ReadDir(ctx, path.Join(dir, level))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		for _, name := range files {
			if _, _, err := ltx.ParseFilename(name); err == nil {
				return true, nil
			}
		}
	}
	return false, nil
}
