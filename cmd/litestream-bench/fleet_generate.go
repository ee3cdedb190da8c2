//go:build linux

package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fleetProjects  = 10
	fleetDatabases = 10 // of each project

	smallPages  = 3 // 12 KB
	mediumPages = mib / pageSize
	mediumPart  = 100 // one tenant in so many is of 1 MB
)

// tenantMark is a place in every template that is overwritten with the number
// of the tenant, so that no two databases have the same content and one that
// was restored can be told from another.
const (
	tenantMark     = "tenant-??????"
	tenantMarkStem = "tenant-"
)

// fleet is a tree of tenants' databases:
// DIR/data/pPP/databases/dD/branches/main/tenants/tNNNNNN.db.
type fleet struct {
	dir        string
	n          int
	large      int // how many are of largePages
	largePages int
	withWAL    bool // each rests with a -wal beside it
}

// group returns the project and the database of a tenant.
func (f *fleet) group(i int) (project, database int) {
	g := i % (fleetProjects * fleetDatabases)
	return g / fleetDatabases, g % fleetDatabases
}

func (f *fleet) root() string { return filepath.Join(f.dir, "data") }

// relPath returns where a tenant lies below the root.
func (f *fleet) relPath(i int) string {
	project, database := f.group(i)
	return fmt.Sprintf("p%02d/databases/d%d/branches/main/tenants/t%06d.db", project, database, i)
}

func (f *fleet) path(i int) string { return filepath.Join(f.root(), f.relPath(i)) }

// pattern matches every tenant, as multi-db takes it.
func (f *fleet) pattern() string {
	return f.root() + "/*/databases/*/branches/*/tenants/*.db"
}

// replicaPath returns what replicaTemplate gives for a tenant.
func (f *fleet) replicaPath(i int) string {
	project, database := f.group(i)
	return fmt.Sprintf("p%02d/d%d/main/t%06d", project, database, i)
}

// replicaTemplate is the path of each tenant's replica.
const replicaTemplate = "{{project}}/{{database}}/{{branch}}/{{tenant}}"

// tenantOf finds the tenant in a path of the fleet or of its replica.
func tenantOf(path string) (int, bool) {
	for elem := range strings.SplitSeq(path, "/") {
		elem = strings.TrimSuffix(elem, ".db")
		if len(elem) == 7 && elem[0] == 't' {
			if i, err := strconv.Atoi(elem[1:]); err == nil {
				return i, true
			}
		}
	}
	return 0, false
}

// leafDirs are the directories that hold tenants.
func (f *fleet) leafDirs() (dirs []string) {
	for i := range min(f.n, fleetProjects*fleetDatabases) {
		dirs = append(dirs, filepath.Dir(f.path(i)))
	}
	return dirs
}

// pages returns the size of a tenant. The large ones are spread evenly.
func (f *fleet) pages(i int) int {
	if f.large > 0 {
		every := max(1, f.n/f.large)
		if i%every == every/2 && i/every < f.large {
			return f.largePages
		}
	}
	if i%mediumPart == mediumPart/4 {
		return mediumPages
	}
	return smallPages
}

// template is a database whose bytes make those of every tenant of one size.
type template struct {
	main, wal []byte
	markAt    int // where tenantMark lies in main
}

// generate makes all databases of the fleet, which nobody has open afterwards.
func (f *fleet) generate(ctx context.Context) error {
	templates := make(map[int]*template)
	for i := range f.n {
		if pages := f.pages(i); templates[pages] == nil {
			t, err := f.makeTemplate(ctx, pages)
			if err != nil {
				return fmt.Errorf("make template of %d pages: %w", pages, err)
			}
			templates[pages] = t
		}
	}
	for _, dir := range f.leafDirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	const writers = 4
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		errs [writers]error
	)
	for w := range writers {
		wg.Go(func() {
			// A copy of each small template, into which the mark is written.
			scratch := make(map[int][]byte)
			for errs[w] == nil && ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= f.n {
					return
				}
				t, pages := templates[f.pages(i)], f.pages(i)
				if scratch[pages] == nil && pages <= mediumPages {
					scratch[pages] = bytes.Clone(t.main)
				}
				errs[w] = f.writeTenant(i, t, scratch[pages])
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs[:], ctx.Err())...)
}

// writeTenant makes one database out of a template, which it does not change,
// with a copy of it, or without one if it is large.
func (f *fleet) writeTenant(i int, t *template, scratch []byte) (err error) {
	file, err := os.OpenFile(f.path(i), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	mark := fmt.Appendf(nil, "%s%06d", tenantMarkStem, i)
	parts := [][]byte{t.main[:t.markAt], mark, t.main[t.markAt+len(tenantMark):]}
	if scratch != nil {
		copy(scratch[t.markAt:], mark)
		parts = [][]byte{scratch}
	}
	for _, part := range parts {
		if _, err := file.Write(part); err != nil {
			return err
		}
	}
	if t.wal == nil {
		return nil
	}
	return os.WriteFile(f.path(i)+"-wal", t.wal, 0o644)
}

// makeTemplate makes a database of about so many pages in WAL mode, with an
// empty ledger. With a log its last transaction is only in there.
func (f *fleet) makeTemplate(ctx context.Context, pages int) (_ *template, err error) {
	dir, err := os.MkdirTemp(f.dir, "template-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "db")
	u := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "_journal_mode=WAL&_synchronous=OFF"}
	db, err := sql.Open("sqlite3", u.String())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if err := fillTemplate(ctx, db, pages); err != nil {
		return nil, err
	}
	t := &template{}
	if f.withWAL {
		if _, err := db.ExecContext(ctx, `INSERT INTO ledger VALUES (0, 'only in the log')`); err != nil {
			return nil, err
		}
		if t.wal, err = os.ReadFile(path + "-wal"); err != nil {
			return nil, err
		}
	}
	if t.main, err = os.ReadFile(path); err != nil {
		return nil, err
	}
	if n := bytes.Count(t.main, []byte(tenantMark)); n != 1 {
		return nil, fmt.Errorf("mark found %d times", n)
	}
	t.markAt = bytes.Index(t.main, []byte(tenantMark))
	return t, nil
}

// fillTemplate makes the tables and leaves all of it in the main file.
func fillTemplate(ctx context.Context, db *sql.DB, pages int) error {
	for _, q := range []string{
		`CREATE TABLE ledger (seq INTEGER PRIMARY KEY, v TEXT)`,
		`CREATE TABLE info (id INTEGER PRIMARY KEY, v TEXT)`,
		`INSERT INTO info VALUES (1, '` + tenantMark + `')`,
	} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	filler := &application{DB: db, rand: rand.New(rand.NewPCG(uint64(pages), 2))}
	for n := 0; n < pages; {
		if n > 0 {
			if err := addFiller(ctx, filler, pages-n); err != nil {
				return err
			}
		}
		if err := db.QueryRowContext(ctx, `PRAGMA page_count`).Scan(&n); err != nil {
			return err
		}
	}
	var busy, log, checkpointed int
	err := db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &log, &checkpointed)
	if err == nil && busy != 0 {
		err = errors.New("checkpoint was busy")
	}
	return err
}

// addFiller adds rows that fill about so many pages.
func addFiller(ctx context.Context, a *application, pages int) error {
	tx, err := a.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for range pages {
		if _, err := tx.ExecContext(ctx, `INSERT INTO info (v) VALUES (?)`, a.text(pageSize*9/10)); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// timed runs f and returns how long it took.
func timed(f func() error) (time.Duration, error) {
	begin := time.Now()
	err := f()
	return time.Since(begin), err
}
