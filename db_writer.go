package litestream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// secondWriterFile lies in the metadata directory of a database whose replica
// belongs to another writer, and says why. Its removal is a takeover.
const secondWriterFile = "second-writer"

// maxSecondWriterFile bounds what is read of it.
const maxSecondWriterFile = 16 << 10

// lostReplica is what is known of another writer of a database's replica.
type lostReplica struct {
	mu     sync.Mutex // guards the rest; held while the mark is read or written
	loaded bool
	err    *secondWriterError // nil: there is none
}

// writerID is what the files of a fleet's database say about who wrote them; 0
// for others, whose files are as those of Litestream v0.5.
func (db *DB) writerID() uint64 {
	if db.tenant == nil {
		return 0
	}
	return db.tenant.writer
}

// lostErr returns why nothing is uploaded any more, or nil.
func (db *DB) lostErr() error {
	db.lost.mu.Lock()
	defer db.lost.mu.Unlock()
	if !db.lost.loaded && db.tenant == nil {
		reason, err := readSecondWriter(db.metaPath)
		if err != nil {
			return err
		}
		db.lost.err = reason
	}
	db.lost.loaded = true
	if db.lost.err == nil {
		return nil
	}
	return db.lost.err
}

// markLost takes note, durably, that the replica belongs to another writer. The
// fleet's registry keeps that of its databases.
func (db *DB) markLost(reason *secondWriterError) error {
	db.lost.mu.Lock()
	defer db.lost.mu.Unlock()
	db.lost.err, db.lost.loaded = reason, true
	if db.tenant != nil {
		return nil
	}
	path := filepath.Join(db.metaPath, secondWriterFile)
	return errors.Join(replaceFile(path, []byte(reason.reason+"\n")), syncFolder(db.metaPath))
}

// clearLost takes the note back.
func (db *DB) clearLost() error {
	db.lost.mu.Lock()
	defer db.lost.mu.Unlock()
	if db.tenant == nil {
		if err := removeSecondWriter(db.metaPath); err != nil {
			return err
		}
	}
	db.lost.err, db.lost.loaded = nil, true
	return nil
}

// readSecondWriter returns what a database's metadata directory says about
// another writer, or nil.
func readSecondWriter(metaPath string) (*secondWriterError, error) {
	b, err := os.ReadFile(filepath.Join(metaPath, secondWriterFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // there is none
	} else if err != nil {
		return nil, fmt.Errorf("look for the mark of a second writer: %w", err)
	}
	return &secondWriterError{strings.TrimSpace(string(b[:min(len(b), maxSecondWriterFile)]))}, nil
}

func removeSecondWriter(metaPath string) error {
	err := os.Remove(filepath.Join(metaPath, secondWriterFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the mark of a second writer: %w", err)
	}
	return nil
}
