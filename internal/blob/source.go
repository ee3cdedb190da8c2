package blob

import (
	"fmt"
	"io"

	"github.com/superfly/ltx"
)

// Source is an LTX file that is to be uploaded. Exactly one field is set.
type Source struct {
	Section *io.SectionReader // what can be read at any place, any number of times
	Stream  io.Reader         // what can be read once
}

// NewSource reads the LTX header of r, which stays part of the source. What r
// was read already of is not part of it.
func NewSource(r io.Reader) (Source, ltx.Header, error) {
	if ra, ok := r.(interface {
		io.ReaderAt
		io.Seeker
	}); ok {
		pos, err := ra.Seek(0, io.SeekCurrent)
		if err != nil {
			return Source{}, ltx.Header{}, fmt.Errorf("find size: %w", err)
		}
		end, err := ra.Seek(0, io.SeekEnd)
		if err != nil {
			return Source{}, ltx.Header{}, fmt.Errorf("find size: %w", err)
		}
		section := io.NewSectionReader(ra, pos, end-pos)
		hdr, _, err := ltx.PeekHeader(section)
		if err != nil {
			return Source{}, hdr, fmt.Errorf("read ltx header: %w", err)
		}
		return Source{Section: section}, hdr, nil
	}
	hdr, r, err := ltx.PeekHeader(r)
	if err != nil {
		return Source{}, hdr, fmt.Errorf("read ltx header: %w", err)
	}
	return Source{Stream: r}, hdr, nil
}
