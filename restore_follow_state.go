package litestream

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// Files beside a followed database. The first is Litestream v0.5's: 16
// hexadecimal digits and a newline. The second is ours (docs/formats/follow.md).
const (
	followTXIDSuffix  = "-txid"
	followStateSuffix = "-follow"
)

// Offsets in the database header (SQLite file format, section 1.3).
const (
	headerVersions = 18 // write version and read version: 1 rollback journal, 2 write-ahead log
	headerCounter  = 24 // file change counter
	headerPageN    = 28 // database size in pages, if headerValidFor equals headerCounter
	headerValidFor = 92 // change counter for which headerPageN is right
)

// followHeader is what of page 1 differs between a source and what follows it:
// versions, change counter and valid-for number, one after the other.
type followHeader [10]byte

func takeFollowHeader(page []byte) (h followHeader) {
	copy(h[:2], page[headerVersions:])
	copy(h[2:6], page[headerCounter:])
	copy(h[6:], page[headerValidFor:])
	return h
}

func (h followHeader) put(page []byte) {
	copy(page[headerVersions:], h[:2])
	copy(page[headerCounter:], h[2:6])
	copy(page[headerValidFor:], h[6:])
}

// withCounter returns the header that a followed database gets. Readers must
// not look for a write-ahead log, and the counter is what tells them that
// their cache is stale. SQLite trusts the size in the header while both
// numbers are equal.
func (h followHeader) withCounter(counter uint32) followHeader {
	valid := bytes.Equal(h[2:6], h[6:])
	h[0], h[1] = 1, 1
	binary.BigEndian.PutUint32(h[2:], counter)
	if valid {
		binary.BigEndian.PutUint32(h[6:], counter)
	}
	return h
}

func (h followHeader) counter() uint32 { return binary.BigEndian.Uint32(h[2:]) }

// newCounter returns a change counter by which a state is recognised. Programs
// that write count up by one, so they do not arrive at it by chance.
func newCounter(old uint32) uint32 {
	for {
		if n := rand.Uint32(); n-old > 1<<20 {
			return n
		}
	}
}

// followMark is one state of a followed database.
type followMark struct {
	txid    ltx.TXID
	counter uint32 // change counter by which the state is recognised

	// What the source has at this position; both zero if that is not known,
	// because another program brought the database here.
	checksum ltx.Checksum
	source   followHeader
}

// followState is the last step of a follower: it is durable before a page
// changes, and says afterwards on which side of the step the database is.
type followState struct {
	from, to followMark
}

// followMarkJSON is a followMark as the state file holds it.
type followMarkJSON struct {
	TXID     string `json:"txid"`
	Counter  uint32 `json:"counter"`
	Checksum string `json:"checksum"`
	Source   string `json:"source"`
}

type followStateJSON struct {
	Version int            `json:"version"`
	From    followMarkJSON `json:"from"`
	To      followMarkJSON `json:"to"`
}

const followStateVersion = 1

func (m followMark) toJSON() followMarkJSON {
	return followMarkJSON{m.txid.String(), m.counter, m.checksum.String(), hex.EncodeToString(m.source[:])}
}

func (j followMarkJSON) mark() (m followMark, err error) {
	if m.txid, err = ltx.ParseTXID(j.TXID); err != nil {
		return m, err
	}
	if m.checksum, err = ltx.ParseChecksum(j.Checksum); err != nil {
		return m, err
	}
	b, err := hex.DecodeString(j.Source)
	if err != nil || len(b) != len(m.source) {
		return m, errors.New("invalid source header")
	}
	m.counter, m.source = j.Counter, followHeader(b)
	return m, nil
}

// writeFollowState makes a state durable, except for the folder's entry.
func writeFollowState(output string, st followState) error {
	b, err := json.Marshal(followStateJSON{followStateVersion, st.from.toJSON(), st.to.toJSON()})
	if err != nil {
		return fmt.Errorf("encode follow state: %w", err)
	}
	return replaceFile(output+followStateSuffix, append(b, '\n'))
}

// readFollowState returns nil if there is no state, or none that can be read:
// then nobody knows who changed the database last.
func readFollowState(output string) (*followState, error) {
	b, err := os.ReadFile(output + followStateSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read follow state: %w", err)
	}
	return decodeFollowState(b), nil
}

func decodeFollowState(b []byte) *followState {
	var j followStateJSON
	if err := json.Unmarshal(b, &j); err != nil || j.Version != followStateVersion {
		return nil
	}
	var st followState
	var errFrom, errTo error
	st.from, errFrom = j.From.mark()
	st.to, errTo = j.To.mark()
	if errFrom != nil || errTo != nil {
		return nil
	}
	return &st
}

// writeFollowTXID makes a position durable, in the form that Litestream v0.5
// reads.
func writeFollowTXID(output string, txid ltx.TXID) error {
	if err := replaceFile(output+followTXIDSuffix, []byte(txid.String()+"\n")); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(output))
}

// readFollowTXID returns the saved position, or 0 if there is none.
func readFollowTXID(output string) (ltx.TXID, error) {
	b, err := os.ReadFile(output + followTXIDSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("read txid file for crash recovery: %w", err)
	}
	txid, err := ltx.ParseTXID(string(bytes.TrimSpace(b)))
	if err != nil {
		return 0, fmt.Errorf("read txid file for crash recovery: parse txid file: %w (delete %s and %s to restore again)",
			err, output, output+followTXIDSuffix)
	}
	return txid, nil
}

// replaceFile writes a small file that is whole at any moment. The folder has
// to be synced afterwards.
func replaceFile(path string, data []byte) (err error) {
	temp := path + restoreTempSuffix
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return outputError("write position of", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return outputError("write position of", err)
	}
	return nil
}

// locateFollow says where a database stands. saved is the content of the -txid
// file, st the last step we made, header that of the database after SQLite has
// rolled back what a crash left.
//
// The counter decides, because it changes together with the pages. A -txid
// file that names neither side of the step was written by another follower
// since: what it left is taken as it is.
func locateFollow(output string, saved ltx.TXID, st *followState, header followHeader) (followMark, error) {
	counter := header.counter()
	if st == nil || saved != st.from.txid && saved != st.to.txid {
		return followMark{txid: saved, counter: counter}, nil
	}
	for _, m := range []followMark{st.to, st.from} {
		if m.counter == counter {
			return m, nil
		}
	}
	return followMark{}, modifiedError(output, saved, fmt.Sprintf("its change counter is %d, not %d", counter, st.to.counter))
}

// readDatabaseHeader reads the first bytes of a followed database.
func readDatabaseHeader(f *os.File) (followHeader, sqlitefile.Header, error) {
	var b [sqlitefile.HeaderSize]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return followHeader{}, sqlitefile.Header{}, fmt.Errorf("%w: read header of %s: %w", ErrNotDatabase, f.Name(), err)
	}
	hdr, err := sqlitefile.ParseHeader(b[:])
	if err != nil {
		return followHeader{}, sqlitefile.Header{}, fmt.Errorf("read header of %s: %w", f.Name(), err)
	}
	return takeFollowHeader(b[:]), hdr, nil
}
