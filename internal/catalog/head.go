package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Names of objects, relative to the folder of all replicas.
const (
	IndexName = "!litestream/catalogs"
	folder    = "!litestream/catalog/"
)

// HeadName returns the name of the head of a catalog.
func HeadName(id string) string { return folder + id + "/head" }

// ObjectName returns the name of an object that a head names.
func ObjectName(id, name string) string { return folder + id + "/" + name }

// What begins a head and an index: a line of text with the version and the
// SHA-256 of what follows the line.
const (
	headMagic  = "litestream-catalog"
	indexMagic = "litestream-catalogs"
)

// Limits of a head. What has more was not written by us.
const (
	MaxOld      = 1 << 12
	maxLayers   = 1 << 10
	maxSegments = 1 << 12
)

// Head names all that is in force.
type Head struct {
	Generation uint64    `json:"generation"` // one more with each head that is written
	Owner      string    `json:"owner"`      // the process that wrote it
	Epoch      string    `json:"epoch"`      // of the replica that it belongs to
	Host       string    `json:"host,omitempty"`
	Template   string    `json:"template"` // of the replicas' paths, relative
	WrittenAt  time.Time `json:"written_at"`

	// Layers are in ascending order: an entry hides those of the same path in
	// the layers before. The first Base of them are the base.
	Layers []Layer `json:"layers"`
	Base   int     `json:"base"`

	// Old are objects that earlier heads named. They are deleted when nobody
	// can be reading by those heads any more.
	Old []OldObject `json:"old,omitempty"`
}

// Layer is one sorted run of entries in segments.
type Layer struct {
	Segments []Segment `json:"segments"`
}

// Segment is one object.
type Segment struct {
	Name    string   `json:"name"` // relative to the head
	Size    int64    `json:"size"`
	Entries int      `json:"entries"`
	SHA256  Checksum `json:"sha256"`
}

// OldObject is an object that is not in force any more.
type OldObject struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
}

// Checksum is a SHA-256, in hexadecimal as text.
type Checksum [sha256.Size]byte

// MarshalText returns hexadecimal digits.
func (c Checksum) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, c[:]), nil }

// UnmarshalText takes what MarshalText returns.
func (c *Checksum) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(c) {
		return fmt.Errorf("checksum of %d digits", len(b))
	}
	_, err := hex.Decode(c[:], b)
	return err
}

// Entries returns how many entries the layer has.
func (l *Layer) Entries() (n int) {
	for i := range l.Segments {
		n += l.Segments[i].Entries
	}
	return n
}

// Size returns how many bytes the layer has.
func (l *Layer) Size() (n int64) {
	for i := range l.Segments {
		n += l.Segments[i].Size
	}
	return n
}

// NewSegment describes an object with the bytes of a segment.
func NewSegment(name string, data []byte, entries int) Segment {
	return Segment{Name: name, Size: int64(len(data)), Entries: entries, SHA256: sha256.Sum256(data)}
}

// Check returns an error that is ErrDamaged unless data are the bytes of the
// segment.
func (s *Segment) Check(data []byte) error {
	if int64(len(data)) != s.Size {
		return fmt.Errorf("%w: %s has %d bytes, not %d", ErrDamaged, s.Name, len(data), s.Size)
	}
	if sha256.Sum256(data) != s.SHA256 {
		return fmt.Errorf("%w: checksum of %s", ErrDamaged, s.Name)
	}
	return nil
}

// EncodeHead returns the bytes of a head.
func EncodeHead(h *Head) ([]byte, error) { return seal(headMagic, h) }

// DecodeHead reads the bytes of a head. The error is ErrDamaged or ErrVersion.
func DecodeHead(b []byte) (*Head, error) {
	var h Head
	if err := unseal(headMagic, b, &h); err != nil {
		return nil, err
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	return &h, nil
}

// EncodeIndex returns the bytes of the list of all catalogs of a replica.
func EncodeIndex(names []string) ([]byte, error) { return seal(indexMagic, names) }

// DecodeIndex reads the list of all catalogs of a replica. The error is
// ErrDamaged or ErrVersion.
func DecodeIndex(b []byte) (names []string, err error) {
	if err := unseal(indexMagic, b, &names); err != nil {
		return nil, err
	}
	if len(names) > maxSegments {
		return nil, fmt.Errorf("%w: %d catalogs", ErrDamaged, len(names))
	}
	for _, name := range names {
		if !validName(name) {
			return nil, fmt.Errorf("%w: name %q", ErrDamaged, name)
		}
	}
	return names, nil
}

// seal returns v as JSON, behind a line with the version and a checksum.
func seal(magic string, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", magic, err)
	}
	body = append(body, '\n')
	return append(fmt.Appendf(nil, "%s %d %x\n", magic, Version, sha256.Sum256(body)), body...), nil
}

func unseal(magic string, b []byte, v any) error {
	line, body, _ := bytes.Cut(b, []byte("\n"))
	var version uint32
	var sum string
	if n, err := fmt.Sscanf(string(line), magic+" %d %s", &version, &sum); n == 0 {
		return fmt.Errorf("%w: it is no %s", ErrDamaged, magic)
	} else if version > Version {
		return fmt.Errorf("%w: %s of version %d, up to %d can be read", ErrVersion, magic, version, Version)
	} else if err != nil || version == 0 || sum != fmt.Sprintf("%x", sha256.Sum256(body)) {
		return fmt.Errorf("%w: checksum of %s", ErrDamaged, magic)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, magic, err)
	}
	return nil
}

func (h *Head) check() error {
	if len(h.Layers) > maxLayers || h.Base < 0 || h.Base > len(h.Layers) {
		return fmt.Errorf("%w: %d layers", ErrDamaged, len(h.Layers))
	}
	n := 0
	for _, l := range h.Layers {
		n += len(l.Segments)
		for _, s := range l.Segments {
			if !validName(s.Name) || s.Size < 0 || s.Entries < 0 {
				return fmt.Errorf("%w: segment %q", ErrDamaged, s.Name)
			}
		}
	}
	for _, o := range h.Old {
		if !validName(o.Name) {
			return fmt.Errorf("%w: object %q", ErrDamaged, o.Name)
		}
	}
	if n > maxSegments || len(h.Old) > MaxOld {
		return fmt.Errorf("%w: %d segments, %d old objects", ErrDamaged, n, len(h.Old))
	}
	return nil
}

// validName reports whether an object lies beside the head, so that a head
// cannot let anybody delete or read what is not of the catalog.
func validName(name string) bool {
	return name != "" && len(name) <= 64 && strings.Trim(name, "0123456789abcdefghijklmnopqrstuvwxyz-") == ""
}
