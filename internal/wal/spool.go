package wal

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

const defaultSpoolMemory = 1 << 20

// spool holds pages: in memory while they are few, in an unlinked temporary
// file from then on, so that a log of any size is copied in constant memory.
// The zero value is empty and ready.
type spool struct {
	dir    string
	memory int // bytes held before the file is made; 0 is the default
	mem    []byte
	file   *os.File
	size   int64
}

func (s *spool) append(p []byte) error {
	limit := s.memory
	if limit == 0 {
		limit = defaultSpoolMemory
	}
	if len(s.mem)+len(p) > limit && len(s.mem) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	if len(s.mem)+len(p) > cap(s.mem) {
		s.grow(len(p), limit)
	}
	s.mem = append(s.mem, p...)
	s.size += int64(len(p))
	return nil
}

// spoolBuffers are the buffers of spools that were closed. Each look that finds
// something needs one, and growing a new one costs more than what is copied.
var spoolBuffers sync.Pool

// grow makes room for n more bytes in memory, of at most limit or n.
func (s *spool) grow(n, limit int) {
	if s.mem == nil {
		if b, ok := spoolBuffers.Get().(*[]byte); ok {
			s.mem = (*b)[:0]
		}
	}
	if need := len(s.mem) + n; need > cap(s.mem) {
		grown := make([]byte, len(s.mem), max(need, min(2*cap(s.mem), limit)))
		copy(grown, s.mem)
		s.mem = grown
	}
}

// spill moves what memory holds behind what the file holds.
func (s *spool) spill() error {
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "wal-*.tmp")
		if err != nil {
			return fmt.Errorf("create spool: %w", err)
		}
		if err := os.Remove(f.Name()); err != nil {
			return errors.Join(fmt.Errorf("unlink spool: %w", err), f.Close())
		}
		s.file = f
	}
	if _, err := s.file.WriteAt(s.mem, s.size-int64(len(s.mem))); err != nil {
		return fmt.Errorf("write spool: %w", err)
	}
	s.mem = s.mem[:0]
	return nil
}

// truncate forgets what was appended behind size.
func (s *spool) truncate(size int64) {
	inFile := s.size - int64(len(s.mem))
	if size >= inFile {
		s.mem = s.mem[:size-inFile]
	} else {
		s.mem = s.mem[:0]
	}
	s.size = size
}

// readAt fills p from offset off. A read never crosses from file to memory,
// because both hold whole pages and p is one page.
func (s *spool) readAt(p []byte, off int64) error {
	inFile := s.size - int64(len(s.mem))
	if off >= inFile {
		if n := copy(p, s.mem[off-inFile:]); n < len(p) {
			return fmt.Errorf("read spool: short page at %d", off)
		}
		return nil
	}
	if _, err := s.file.ReadAt(p, off); err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	return nil
}

func (s *spool) close() error {
	if b := s.mem[:0]; cap(b) > 0 && cap(b) <= defaultSpoolMemory {
		spoolBuffers.Put(&b)
	}
	s.mem, s.size = nil, 0
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}
