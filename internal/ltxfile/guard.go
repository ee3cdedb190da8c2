package ltxfile

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/superfly/ltx"
)

// frameHeaderBytes is a page header and the length of its data.
const frameHeaderBytes = ltx.PageHeaderSize + 4

// guard is a reader of an LTX file that looks at the length of each page frame
// as it passes.
type guard struct {
	r      io.Reader
	head   [ltx.HeaderSize]byte // collects the file header, then frame headers
	have   int                  // bytes in head
	want   int                  // bytes needed in head; 0: nothing is checked any more
	skip   int64                // bytes of page data still to come
	limit  uint32               // largest length of page data
	inFile bool                 // the file header has passed
}

// NewGuard returns a reader of r's bytes for an ltx.Decoder. It fails before a
// page frame whose length no page of the file can have. The decoder of ltx
// v0.5.3 allocates what that field says, up to 4 GiB, before it reads; one
// damaged byte on a replica would so end a process of limited memory.
func NewGuard(r io.Reader) io.Reader {
	return &guard{r: r, want: ltx.HeaderSize}
}

// Read reads from the underlying reader. Bytes behind a bad length are never
// delivered.
func (g *guard) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if gerr := g.check(p[:n]); gerr != nil {
		return 0, gerr
	}
	return n, err
}

func (g *guard) check(p []byte) error {
	for len(p) > 0 && g.want > 0 {
		if g.skip > 0 {
			n := min(g.skip, int64(len(p)))
			g.skip -= n
			p = p[n:]
			continue
		}
		n := copy(g.head[g.have:g.want], p)
		g.have += n
		p = p[n:]
		if g.have < g.want {
			return nil
		}
		if err := g.header(); err != nil {
			return err
		}
	}
	return nil
}

// header acts on the bytes collected in head.
func (g *guard) header() error {
	switch {
	case !g.inFile:
		pageSize := binary.BigEndian.Uint32(g.head[8:])
		if !ltx.IsValidPageSize(pageSize) {
			g.want = 0 // the decoder says so, and reads no page
			return nil
		}
		// LZ4 makes a block that does not compress longer by 1/255 and 16.
		g.limit = pageSize + pageSize/128 + 64
		g.inFile = true
	case g.have == ltx.PageHeaderSize:
		if binary.BigEndian.Uint16(g.head[4:])&ltx.PageHeaderFlagSize == 0 {
			// The end of the pages, or a file of an old writer, whose frames
			// have no length that could lie.
			g.want = 0
			return nil
		}
		g.want = frameHeaderBytes
		return nil
	default:
		n := binary.BigEndian.Uint32(g.head[ltx.PageHeaderSize:])
		if n > g.limit {
			pgno := binary.BigEndian.Uint32(g.head[:])
			return fmt.Errorf("%w: page %d claims %d compressed bytes", ltx.ErrInvalidFile, pgno, n)
		}
		g.skip = int64(n)
	}
	g.have, g.want = 0, ltx.PageHeaderSize
	return nil
}
