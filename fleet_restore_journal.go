package litestream

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fleetJournalFile    = "journal"
	fleetJournalVersion = 1
)

// fleetJournalHead is the first line of a journal: what is restored.
type fleetJournalHead struct {
	Version   int       `json:"version"`
	Source    string    `json:"source"`
	Timestamp time.Time `json:"timestamp,omitzero"`
}

// fleetJournalLine is any other line. One with a path says that the file of that
// path has this content if this restore has put it there; it is on the disk
// before the file gets its name.
type fleetJournalLine struct {
	Run    string    `json:"run,omitempty"` // begins; names its temporary files
	End    string    `json:"end,omitempty"` // has left no temporary file
	Path   string    `json:"path,omitempty"`
	TXID   string    `json:"txid,omitempty"`
	At     time.Time `json:"timestamp,omitzero"`
	Bytes  int64     `json:"bytes,omitempty"`
	SHA256 string    `json:"sha256,omitempty"`
}

// fleetJournal is the durable progress of a fleet restore (docs/formats/
// restore-journal.md). One process at a time has it open.
type fleetJournal struct {
	dir   string
	f     *os.File
	index []fleetJournalPlace // of earlier runs, by hash, the newest first
	old   []string            // earlier runs that may have left temporary files
	buf   bytes.Buffer
}

type fleetJournalPlace struct {
	hash   uint64 // of the path
	offset int64  // of the line
}

// openFleetJournal opens the journal in a folder, or makes it, and begins a run.
func openFleetJournal(dir, run string, head fleetJournalHead) (j *fleetJournal, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create journal of the restore: %w (-journal names another folder)", err)
	}
	name := filepath.Join(dir, fleetJournalFile)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal of the restore: %w (-journal names another folder)", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("another restore is running: it has %s open", name)
	} else if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	head.Version = fleetJournalVersion
	j = &fleetJournal{dir: dir, f: f}
	if err := j.load(head); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if err := j.append(fleetJournalLine{Run: run}); err != nil {
		return nil, err
	}
	return j, syncFolder(dir)
}

// load reads what earlier runs wrote, and cuts off a line that the last one was
// killed in.
func (j *fleetJournal) load(head fleetJournalHead) error {
	r := bufio.NewReaderSize(j.f, 256<<10)
	var off int64
	for first := true; ; first = false {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // what has no end was never synced
		} else if err != nil {
			return err
		}
		if !first {
			j.note(line, off)
		} else if err := checkJournalHead(line, head); err != nil {
			return err
		}
		off += int64(len(line))
	}
	slices.SortFunc(j.index, func(a, b fleetJournalPlace) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(b.offset, a.offset))
	})
	if err := j.f.Truncate(off); err != nil {
		return err
	}
	if _, err := j.f.Seek(off, io.SeekStart); err != nil {
		return err
	}
	if off > 0 {
		return nil
	}
	data, err := json.Marshal(head)
	if err != nil {
		return err
	}
	_, err = j.f.Write(append(data, '\n'))
	return err
}

func checkJournalHead(line []byte, want fleetJournalHead) error {
	var got fleetJournalHead
	if err := json.Unmarshal(line, &got); err != nil {
		return fmt.Errorf("it is no journal: %w (move it away)", err)
	}
	switch {
	case got.Version != want.Version:
		return fmt.Errorf("version %d of the journal is not known (finish with the litestream that began)", got.Version)
	case got.Source != want.Source || !got.Timestamp.Equal(want.Timestamp):
		return fmt.Errorf("it belongs to another restore, from %s, timestamp %s (finish that one, restore to another folder, or move the journal away to begin anew)",
			got.Source, cmp.Or(fleetTimeText(got.Timestamp), "newest"))
	default:
		return nil
	}
}

func fleetTimeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// note keeps the place of a line. One that cannot be read is of no use, and does
// no harm: its file counts as one of somebody else.
func (j *fleetJournal) note(line []byte, off int64) {
	var l fleetJournalLine
	switch err := json.Unmarshal(line, &l); {
	case err != nil:
	case l.Path != "":
		j.index = append(j.index, fleetJournalPlace{fleetHash(l.Path), off})
	case l.Run != "":
		j.old = append(j.old, l.Run)
	case l.End != "":
		j.old = slices.DeleteFunc(j.old, func(run string) bool { return run == l.End })
	}
}

// find returns what an earlier run restored at a path. It is safe for
// concurrent use.
func (j *fleetJournal) find(path string) (l fleetJournalLine, ok bool, err error) {
	hash := fleetHash(path)
	i, _ := slices.BinarySearchFunc(j.index, hash, func(p fleetJournalPlace, hash uint64) int { return cmp.Compare(p.hash, hash) })
	for ; i < len(j.index) && j.index[i].hash == hash; i++ {
		r := bufio.NewReaderSize(io.NewSectionReader(j.f, j.index[i].offset, 1<<20), 1<<10)
		line, err := r.ReadBytes('\n')
		if err != nil {
			return l, false, fmt.Errorf("read journal of the restore: %w", err)
		}
		l = fleetJournalLine{}
		if err := json.Unmarshal(line, &l); err != nil {
			return l, false, fmt.Errorf("read journal of the restore: %w", err)
		}
		if l.Path == path {
			return l, true, nil
		}
	}
	return fleetJournalLine{}, false, nil
}

// hasOthers reports whether earlier runs restored databases that are not among
// items: another choice of the same restore still needs its lines.
func (j *fleetJournal) hasOthers(items []fleetItem) bool {
	hashes := make([]uint64, len(items))
	for i, it := range items {
		hashes[i] = it.hash
	}
	slices.Sort(hashes)
	return slices.ContainsFunc(j.index, func(p fleetJournalPlace) bool {
		_, found := slices.BinarySearch(hashes, p.hash)
		return !found
	})
}

// append writes lines and returns when they are on the disk.
func (j *fleetJournal) append(lines ...fleetJournalLine) error {
	j.buf.Reset()
	enc := json.NewEncoder(&j.buf)
	enc.SetEscapeHTML(false)
	for i := range lines {
		if err := enc.Encode(&lines[i]); err != nil {
			return fmt.Errorf("write journal of the restore: %w", err)
		}
	}
	if _, err := j.f.Write(j.buf.Bytes()); err != nil {
		return fmt.Errorf("write journal of the restore: %w", outputError("note", err))
	}
	if err := j.f.Sync(); err != nil {
		return fmt.Errorf("sync journal of the restore: %w", err)
	}
	return nil
}

// end ends a run that has left no temporary file. With nothing left to do the
// journal is removed.
func (j *fleetJournal) end(run string, complete bool) error {
	if !complete {
		return j.append(fleetJournalLine{End: run})
	}
	if err := os.Remove(j.f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove journal of the restore: %w", err)
	}
	_ = os.Remove(j.dir) // unless something else lies there
	return nil
}

// Close ends the journal.
func (j *fleetJournal) Close() error { return j.f.Close() }
