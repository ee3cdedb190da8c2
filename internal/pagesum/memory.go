package pagesum

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/superfly/ltx"
)

// MaxMemoryPages is the largest database, in pages, whose volatile ledger is
// kept in memory: 32 KiB of sums.
const MaxMemoryPages = 4096

// refMagic begins what Marshal returns of a ledger in a file: the hash that
// ends the file follows.
const (
	refMagic = "LTSPREF\x00"
	refBytes = len(refMagic) + hashBytes
)

// InMemory reports whether the ledger has no file.
func (l *Ledger) InMemory() bool { return l.inMemory }

// Marshal encodes the ledger for somebody who keeps it elsewhere while nobody
// works on the database. A ledger in memory is encoded whole, as a ledger file
// would hold it. One in a file is flushed, and the file's hash returned: the
// file stays and is read again by Unmarshal.
func (l *Ledger) Marshal() ([]byte, error) {
	if !l.inMemory {
		if err := l.Flush(); err != nil {
			return nil, err
		}
		return append([]byte(refMagic), l.hash[:]...), nil
	}
	b := make([]byte, 0, l.hdr.fileBytes())
	b = appendHead(b)
	var roll rolling
	lockPgno := l.lockPgno()
	for i, c := range l.sums {
		b = binary.BigEndian.AppendUint64(b, uint64(c))
		if uint32(i)+1 != lockPgno {
			roll.add(c)
		}
	}
	if computed := roll.value(); computed != 0 {
		l.hdr.Rolling = computed // pages that were unknown may be known again
	}
	b = appendFoot(b, l.hdr)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// Unmarshal returns the volatile ledger that Marshal encoded; path is where its
// file lies, or will when it gets too large for memory. The error is, by
// errors.Is, ErrInvalid if it cannot be used, and fs.ErrNotExist if the file
// that it speaks of is gone.
func Unmarshal(b []byte, path string) (*Ledger, error) {
	if want, ok := bytes.CutPrefix(b, []byte(refMagic)); ok && len(b) == refBytes {
		l, err := Open(path)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(l.hash[:], want) {
			return nil, fmt.Errorf("open page ledger %s: %w: it is not the one that was kept", path, ErrInvalid)
		}
		l.volatile = true
		return l, nil
	}
	var sums []ltx.Checksum
	if n := len(b); n > minBytes {
		pageN := int64(binary.BigEndian.Uint32(b[n-hashBytes-12:]))
		sums = make([]ltx.Checksum, 0, min(pageN, int64(n-minBytes)/sumBytes))
	}
	h, _, err := scanBase(bytes.NewReader(b), int64(len(b)), &sums)
	if err != nil {
		return nil, readError("in memory", err)
	}
	return &Ledger{path: path, hdr: h, sums: sums, inMemory: true, volatile: true}, nil
}

// replaceInMemory is replace for a ledger without a file.
func (l *Ledger) replaceInMemory(changes []Change, h Header) error {
	if n := int(h.PageN); n <= len(l.sums) {
		l.sums = l.sums[:n]
	} else {
		l.sums = append(l.sums, make([]ltx.Checksum, n-len(l.sums))...)
	}
	for _, c := range changes {
		l.sums[c.Pgno-1] = c.Sum
	}
	l.hdr = h.clone()
	l.charge(l.OverlayBytes())
	if h.PageN <= MaxMemoryPages && (l.budget == nil || !l.budget.mustFlush(l.charged)) {
		return nil
	}
	if err := l.rewrite(); err != nil {
		return errors.Join(ErrFlush, err)
	}
	return nil
}
