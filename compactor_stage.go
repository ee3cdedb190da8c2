package litestream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
)

// Buffers of a merge in bytes. Each of up to MaxInputs staged inputs has one
// of stagedBufferBytes; the streamed input and the output have a larger one.
const (
	stagedBufferBytes = 4 << 10
	streamBufferBytes = 64 << 10
)

// mergedFile is the output of a merge in a file without a name.
type mergedFile struct {
	file   *os.File
	size   int64
	header ltx.Header
	used   int // inputs merged
}

// mergeAttempt says how a merge is tried.
type mergeAttempt struct {
	local     bool // read local copies where they exist
	checksums bool // write checksums if every input has them
}

// merge merges the inputs of a job. A local copy that turns out corrupt is not
// the end: all inputs are then read from the replica.
func (c *Compactor) merge(ctx context.Context, job compactionJob) (*mergedFile, error) {
	try := mergeAttempt{local: c.LocalFile != nil, checksums: true}
	for {
		out, err := c.tryMerge(ctx, job, try)
		var le *LTXError
		switch {
		case errors.Is(err, errChainBroken) && try.checksums:
			try.checksums = false
			c.logger.Warn("compaction writes no checksums, those of its inputs do not chain",
				"db", c.Path, "level", job.level)
		case errors.As(err, &le) && try.local:
			try.local = false
			c.logger.Warn("local ltx file is damaged, reading the replica", "db", c.Path, "error", err)
		default:
			return out, err
		}
	}
}

// tryMerge is one attempt of merge.
func (c *Compactor) tryMerge(ctx context.Context, job compactionJob, try mergeAttempt) (out *mergedFile, err error) {
	src := &inputSource{c: c, local: try.local}
	defer func() {
		err = errors.Join(err, src.Close())
		if err != nil && out != nil {
			out, err = nil, errors.Join(err, out.file.Close())
		}
	}()
	readers, err := src.open(ctx, job.inputs)
	if err != nil {
		return nil, err
	}

	f, err := c.tempFile()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	w := bufio.NewWriterSize(f, streamBufferBytes)
	enc, err := ltx.NewEncoder(w)
	if err != nil {
		return nil, fmt.Errorf("create ltx encoder: %w", err)
	}
	enc.SetSpillDir(c.StagingDir)
	defer func() { err = errors.Join(err, enc.Cleanup()) }()

	m := &merger{enc: enc, minTXID: job.minTXID}
	for i, info := range job.inputs {
		dec := ltx.NewDecoder(ltxfile.NewGuard(readers[i]))
		dec.SetRetainPageIndex(false)
		m.inputs = append(m.inputs, &mergeInput{info: info, dec: dec})
	}
	used, err := m.start(try.checksums)
	if err == nil {
		err = m.run(ctx)
	}
	if serr := src.streamErr(); serr != nil && err != nil {
		// The connection broke; the file may be whole.
		return nil, serr
	}
	if err != nil {
		return nil, diskError(err)
	}
	if err := w.Flush(); err != nil {
		return nil, diskError(fmt.Errorf("write merged file: %w", err))
	}
	return &mergedFile{file: f, size: enc.N(), header: enc.Header(), used: used}, nil
}

// inputSource makes the inputs of a merge readable with two descriptors and
// one connection, however many they are: the largest is streamed, all others
// are copied one after the other into one staging file.
type inputSource struct {
	c      *Compactor
	local  bool
	spool  *os.File
	stream *countingReader
}

// open returns a reader for each file.
func (s *inputSource) open(ctx context.Context, infos []*ltx.FileInfo) ([]io.Reader, error) {
	readers := make([]io.Reader, len(infos))
	largest := 0
	for i, info := range infos {
		if info.Size >= infos[largest].Size {
			largest = i
		}
	}
	if len(infos) > 1 {
		f, err := s.c.tempFile()
		if err != nil {
			return nil, err
		}
		s.spool = f
	}
	var offset int64
	for i, info := range infos {
		if i == largest {
			continue
		}
		n, err := s.copyInput(ctx, info)
		if err != nil {
			return nil, err
		}
		section := io.NewSectionReader(s.spool, offset, n)
		readers[i] = bufio.NewReaderSize(section, stagedBufferBytes)
		offset += n
	}
	// The stream is opened last: no connection waits for the copies.
	stream, err := s.openInput(ctx, infos[largest])
	if err != nil {
		return nil, err
	}
	s.stream = stream
	readers[largest] = bufio.NewReaderSize(stream, streamBufferBytes)
	return readers, nil
}

// copyInput appends a file to the staging file and returns its size.
func (s *inputSource) copyInput(ctx context.Context, info *ltx.FileInfo) (n int64, err error) {
	r, err := s.openInput(ctx, info)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	n, err = io.Copy(s.spool, r)
	if rerr := r.failure(); rerr != nil {
		return 0, rerr
	} else if err != nil {
		return 0, diskError(fmt.Errorf("stage compaction input: %w", err))
	}
	return n, nil
}

// openInput opens the local copy of a file, else the one on the replica.
func (s *inputSource) openInput(ctx context.Context, info *ltx.FileInfo) (*countingReader, error) {
	if s.local {
		if rc, err := s.c.LocalFile(info.Level, info.MinTXID, info.MaxTXID); err == nil {
			return &countingReader{ReadCloser: rc, info: info, local: true}, nil
		}
	}
	rc, err := s.c.client.OpenLTXFile(ctx, info.Level, info.MinTXID, info.MaxTXID, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s of level %d: %w", ltx.FormatFilename(info.MinTXID, info.MaxTXID), info.Level, err)
	}
	return &countingReader{ReadCloser: rc, info: info}, nil
}

// streamErr returns why the streamed input ended early, if it did.
func (s *inputSource) streamErr() error {
	if s.stream == nil {
		return nil
	}
	return s.stream.failure()
}

// Close closes the staging file and the stream.
func (s *inputSource) Close() error {
	var errs []error
	if s.spool != nil {
		errs = append(errs, s.spool.Close())
	}
	if s.stream != nil {
		errs = append(errs, s.stream.Close())
	}
	return errors.Join(errs...)
}

// countingReader tells a broken connection from a file whose content is bad.
type countingReader struct {
	io.ReadCloser
	info  *ltx.FileInfo
	local bool
	n     int64
	err   error
	eof   bool
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	if errors.Is(err, io.EOF) {
		r.eof = true
	} else if err != nil {
		r.err = err
	}
	return n, err
}

// failure returns why the file could not be read to its end, if so. For a
// local copy that is a damaged file, for any other a broken connection.
func (r *countingReader) failure() error {
	info := r.info
	switch {
	case r.err != nil && r.local:
		return &LTXError{Op: "read", Level: info.Level, MinTXID: info.MinTXID, MaxTXID: info.MaxTXID, Err: r.err}
	case r.err != nil:
		return fmt.Errorf("read %s of level %d: %w", ltx.FormatFilename(info.MinTXID, info.MaxTXID), info.Level, r.err)
	case r.eof && !r.local && r.n < info.Size:
		return fmt.Errorf("read %s of level %d: %d of %d bytes: %w",
			ltx.FormatFilename(info.MinTXID, info.MaxTXID), info.Level, r.n, info.Size, io.ErrUnexpectedEOF)
	}
	return nil
}

// tempFile makes a file without a name in the staging folder.
func (c *Compactor) tempFile() (*os.File, error) {
	f, err := os.CreateTemp(c.StagingDir, ".litestream-compact-*.tmp")
	if err != nil {
		return nil, diskError(fmt.Errorf("create staging file: %w", err))
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("unlink staging file: %w", err), f.Close())
	}
	return f, nil
}

// diskError adds ErrDiskFull where the file system has no room.
func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}
