package litestream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// journalMagic begins a rollback journal that is complete (SQLite file format,
// section 3).
const journalMagic = "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"

// journalSector is the size of the journal's header, and the sector size that
// it names.
const journalSector = 512

// rollbackJournal holds the pages of a database before they are changed, in
// SQLite's own format: whoever opens the database after a crash, a reader or
// this program, lets SQLite put them back before it sees a page.
type rollbackJournal struct {
	path     string
	pageSize uint32
	nonce    uint32
	n        uint32 // records
	f        *os.File
	w        *bufio.Writer
}

// createJournal creates the journal of a database of so many pages. The caller
// holds SQLite's exclusive lock on it, so that a journal that is there already
// is one that nobody needs.
func createJournal(db *os.File, pageSize, pageN uint32) (*rollbackJournal, error) {
	info, err := db.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat database: %w", err)
	}
	j := &rollbackJournal{
		path:     sqlitefile.JournalPath(db.Name()),
		pageSize: pageSize,
		// The last record must not look like the end of a super-journal's
		// name, which is the magic: its checksum has the top bit set instead.
		nonce: rand.Uint32()&0x3fffffff | 0x80000000,
	}
	if j.f, err = os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, info.Mode().Perm()); err != nil {
		return nil, outputError("create journal of", err)
	}
	j.matchOwner(info)
	j.w = bufio.NewWriterSize(j.f, 256<<10)
	var hdr [journalSector]byte
	copy(hdr[:], journalMagic)
	// The number of records stays 0 until they are durable.
	binary.BigEndian.PutUint32(hdr[12:], j.nonce)
	binary.BigEndian.PutUint32(hdr[16:], pageN)
	binary.BigEndian.PutUint32(hdr[20:], journalSector)
	binary.BigEndian.PutUint32(hdr[24:], pageSize)
	if _, err := j.w.Write(hdr[:]); err != nil {
		return nil, errors.Join(outputError("write journal of", err), j.discard())
	}
	return j, nil
}

// matchOwner lets those who may write the database roll it back too, whatever
// the umask. As in SQLite, it is no error if that is not ours to give.
func (j *rollbackJournal) matchOwner(info os.FileInfo) {
	_ = j.f.Chmod(info.Mode().Perm())
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		_ = j.f.Chown(int(st.Uid), int(st.Gid))
	}
}

// add appends a page as it is in the database.
func (j *rollbackJournal) add(pgno uint32, page []byte) error {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], pgno)
	_, err := j.w.Write(b[:])
	if err == nil {
		_, err = j.w.Write(page)
	}
	// SQLite's pager_cksum: a sum of every 200th byte from the end.
	sum := j.nonce
	for i := int(j.pageSize) - 200; i > 0; i -= 200 {
		sum += uint32(page[i])
	}
	binary.BigEndian.PutUint32(b[:], sum)
	if err == nil {
		_, err = j.w.Write(b[:])
	}
	if err != nil {
		return outputError("write journal of", err)
	}
	j.n++
	return nil
}

// arm makes the journal durable and valid. After that the database may be
// changed. The records come before their number, because a record that a power
// cut tore could pass SQLite's weak checksum.
func (j *rollbackJournal) arm() error {
	if err := j.w.Flush(); err != nil {
		return outputError("write journal of", err)
	}
	if err := j.f.Sync(); err != nil {
		return outputError("sync journal of", err)
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], j.n)
	if _, err := j.f.WriteAt(b[:], 8); err != nil {
		return outputError("write journal of", err)
	}
	if err := j.f.Sync(); err != nil {
		return outputError("sync journal of", err)
	}
	return syncFolder(filepath.Dir(j.path))
}

// commit deletes the journal: from here on the changed pages count.
func (j *rollbackJournal) commit() error {
	if err := os.Remove(j.path); err != nil {
		return fmt.Errorf("delete journal: %w", err)
	}
	return errors.Join(syncFolder(filepath.Dir(j.path)), j.close())
}

// discard deletes a journal although no page has changed.
func (j *rollbackJournal) discard() error {
	err := os.Remove(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, j.close())
}

// close leaves the journal where it is. It may be called twice.
func (j *rollbackJournal) close() error {
	if j.f == nil {
		return nil
	}
	f := j.f
	j.f = nil
	return f.Close()
}
