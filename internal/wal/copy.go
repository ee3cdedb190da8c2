package wal

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/benbjohnson/litestream/internal/osfile"
)

// ErrMoved means that the log was restarted while it was copied. Try again.
var ErrMoved = errors.New("wal header changed while it was read")

// A Copy is the content of a log at one commit.
type Copy struct {
	Header   Header  // zero if there is no log with a valid header
	Frames   *Frames // never nil; without commits if there are none
	FileSize int64
}

// CopyLog copies the committed frames of a log from its beginning, up to where
// it ended at first: whoever writes faster than a copy reads must not keep it
// from coming to its end. A missing log, or one without a valid header or
// commit, is a copy without frames. The error wraps ErrMoved if the log was
// restarted meanwhile.
func CopyLog(path string, pageSize uint32, opt Options) (_ *Copy, err error) {
	c := &Copy{Frames: newFrames(pageSize, opt)}
	f, err := osfile.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	} else if err != nil {
		return nil, fmt.Errorf("open wal: %w", err)
	}
	defer f.Close() // only read from
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Frames.Close())
		}
	}()

	h, err := readHeader(f)
	if errors.Is(err, ErrNoHeader) {
		return c, nil
	} else if err != nil {
		return nil, err
	}
	if h.PageSize != pageSize {
		return nil, fmt.Errorf("wal has page size %d, database %d: %w", h.PageSize, pageSize, ErrMoved)
	}
	if opt.EndAt <= 0 {
		st, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("stat wal: %w", err)
		}
		opt.EndAt = st.Size() + 1 // an end that is still the end is seen as such
	}
	if err := c.Frames.scan(f, &h, HeaderSize, h.Sum, opt); err != nil {
		return nil, err
	}
	opt.did("frames")
	if again, err := readHeader(f); err != nil && !errors.Is(err, ErrNoHeader) {
		return nil, err
	} else if again.Raw != h.Raw {
		return nil, ErrMoved
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat wal: %w", err)
	}
	c.Header, c.FileSize = h, st.Size()
	return c, nil
}

// Cursor returns the cursor behind the copy. main is the main file's print
// taken before the copy, trusted whether it was older than the clock margin
// then; size is the database's size in pages.
func (c *Copy) Cursor(bootID [16]byte, main Print, trusted bool, size uint32) Cursor {
	cur := Cursor{BootID: bootID, Main: main.ID, PageSize: c.Frames.PageSize, Commit: size}
	if c.Frames.CommitN == 0 {
		cur.MainPrint, cur.MainTrusted = main, trusted
		return cur
	}
	cur.Header, cur.First, cur.Last = c.Header.Raw, c.Frames.First, c.Frames.Last
	cur.LastPgno, cur.FileSize = c.Frames.LastPgno, c.FileSize
	return cur
}
