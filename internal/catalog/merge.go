package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// A Source returns the bytes of a segment, which are kept no longer than until
// the next call for the same layer.
type Source func(s *Segment) ([]byte, error)

// Merge calls fn with each entry in force, in the order of their paths. An
// entry is valid during the call. It stops at the first error, which is that of
// source, of fn, or ErrDamaged or ErrVersion.
func Merge(layers []Layer, source Source, fn func(*Entry) error) error {
	runs := make([]*run, 0, len(layers))
	for i := range layers {
		r := &run{segments: layers[i].Segments, source: source}
		if err := r.next(); errors.Is(err, io.EOF) {
			continue
		} else if err != nil {
			return err
		}
		runs = append(runs, r)
	}
	for len(runs) > 0 {
		// The last of those with the least path counts. There are few layers.
		least := 0
		for i := 1; i < len(runs); i++ {
			if bytes.Compare(runs[i].entry.Path, runs[least].entry.Path) <= 0 {
				least = i
			}
		}
		e := runs[least].entry
		if !e.Removed {
			if err := fn(e); err != nil {
				return err
			}
		}
		var err error
		if runs, err = advance(runs, least); err != nil {
			return err
		}
	}
	return nil
}

// advance moves all runs that stand at the path of one of them, that one last,
// because its path is compared with.
func advance(runs []*run, least int) ([]*run, error) {
	path := runs[least].entry.Path
	for i, r := range runs {
		if i == least || !bytes.Equal(r.entry.Path, path) {
			continue
		}
		if err := r.next(); errors.Is(err, io.EOF) {
			runs[i] = nil
		} else if err != nil {
			return nil, err
		}
	}
	if err := runs[least].next(); errors.Is(err, io.EOF) {
		runs[least] = nil
	} else if err != nil {
		return nil, err
	}
	left := runs[:0]
	for _, r := range runs {
		if r != nil {
			left = append(left, r)
		}
	}
	return left, nil
}

// run reads the segments of a layer one after the other.
type run struct {
	segments []Segment
	source   Source
	r        *Reader
	left     int // entries of the segment that were not read
	entry    *Entry
	last     []byte // path of the last entry of the segment before
}

// next moves to the next entry. At the end the error is io.EOF.
func (r *run) next() error {
	for {
		if r.r != nil {
			e, err := r.r.Next()
			if err == nil {
				if r.left--; r.left < 0 {
					return fmt.Errorf("%w: too many entries", ErrDamaged)
				}
				if r.last != nil && bytes.Compare(e.Path, r.last) <= 0 {
					return fmt.Errorf("%w: segments do not ascend", ErrDamaged)
				}
				r.last = nil
				r.entry = e
				return nil
			} else if !errors.Is(err, io.EOF) {
				return err
			}
			if r.left > 0 {
				return fmt.Errorf("%w: too few entries", ErrDamaged)
			}
			if r.entry != nil {
				r.last = bytes.Clone(r.entry.Path)
			}
		}
		if len(r.segments) == 0 {
			return io.EOF
		}
		if err := r.open(&r.segments[0]); err != nil {
			return err
		}
		r.segments = r.segments[1:]
	}
}

func (r *run) open(s *Segment) error {
	data, err := r.source(s)
	if err != nil {
		return err
	}
	if err := s.Check(data); err != nil {
		return err
	}
	r.left = s.Entries
	r.r, err = NewReader(data)
	return err
}
