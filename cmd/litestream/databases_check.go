package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/scan"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// finding is a problem that a check found.
type finding struct {
	Severity string `json:"severity"` // error or warning
	Path     string `json:"path"`     // of the file or directory, or a pattern
	Problem  string `json:"problem"`
}

// databaseCheck finds what would go wrong before a byte is written. Of each
// database it reads the header, without a lock, and keeps two numbers: whose
// clash is looked into in a second scan.
type databaseCheck struct {
	*databaseList
	out    listWriter[finding]
	errors int
	seed   maphash.Seed

	places map[uint64]bool // hashes of replica locations and inodes; true: met again

	networkFS func(dir string) (string, error) // the name of a network file system
	dir       string                           // of the last database
	network   string                           // what that lies on
}

// checkDatabases prints the problems of all databases.
func (a *app) checkDatabases(ctx context.Context, l *databaseList) error {
	c := &databaseCheck{databaseList: l, out: &textFindings{a.stdout}, seed: maphash.MakeSeed(), places: make(map[uint64]bool), networkFS: sqlitefile.NetworkFS}
	if l.asJSON {
		c.out = &jsonListWriter[finding]{w: a.stdout}
	}
	if err := c.run(ctx); err != nil {
		return err
	}
	if err := c.out.end(); err != nil {
		return err
	}
	switch c.errors {
	case 0:
		return nil
	case 1:
		return errors.New("1 problem found")
	default:
		return fmt.Errorf("%d problems found", c.errors)
	}
}

func (c *databaseCheck) run(ctx context.Context) error {
	for _, db := range c.cfg.DBs {
		if err := c.checkDB(db); err != nil {
			return err
		}
	}
	for _, dir := range c.cfg.Dirs {
		if err := c.checkDir(ctx, dir); err != nil {
			return err
		}
	}
	if err := c.checkTenants(ctx); err != nil {
		return err
	}
	for _, again := range c.places {
		if again {
			return c.nameClashes(ctx)
		}
	}
	return nil
}

// checkTenants looks at what multi-db finds.
func (c *databaseCheck) checkTenants(ctx context.Context) error {
	m := c.cfg.MultiDB
	if m == nil {
		return nil
	}
	if err := checkStateDir(m.StateDir); err != nil {
		if err := c.report("error", m.StateDir, "state directory: "+err.Error()); err != nil {
			return err
		}
	}
	res, err := m.eachTenant(ctx, c.checkTenant)
	if err != nil {
		return err
	}
	return c.reportScan(&res)
}

func (c *databaseCheck) report(severity, path, problem string) error {
	if severity == "error" {
		c.errors++
	}
	return c.out.write(&finding{severity, path, problem})
}

func (c *databaseCheck) reportScan(res *scan.Result) error {
	var errs []error
	for _, e := range res.Errors {
		errs = append(errs, c.report("error", e.Path, "is not readable: "+e.Err.Error()))
	}
	if n := res.ErrorN - len(res.Errors); n > 0 {
		errs = append(errs, c.report("error", "", fmt.Sprintf("%d more paths are not readable", n)))
	}
	for i, n := range res.Matches {
		if n == 0 {
			errs = append(errs, c.report("warning", c.cfg.MultiDB.Patterns[i].node.Value, "pattern matches no file"))
		}
	}
	if n := res.Special; n > 0 {
		errs = append(errs, c.report("warning", "", fmt.Sprintf("%d matching names are no files and are skipped", n)))
	}
	if n := res.Links; n > 0 {
		errs = append(errs, c.report("warning", "", fmt.Sprintf("%d symbolic links are not followed: they loop, lead nowhere, or stand behind another", n)))
	}
	return errors.Join(errs...)
}

// checkDB looks at an entry of `dbs`, whose keys were checked when the file was
// read.
func (c *databaseCheck) checkDB(db *DBConfig) error {
	client, err := newReplicaClient(db.Replica)
	if err != nil {
		return err
	}
	c.meet(redactedLocation(client))
	var st unix.Stat_t
	if err := unix.Stat(db.Path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return c.report("warning", db.Path, "does not exist yet")
		}
		return c.report("error", db.Path, err.Error())
	}
	c.meet(inodeKey(uint64(st.Dev), st.Ino))
	return nil
}

// checkDir looks at the databases of a directory.
func (c *databaseCheck) checkDir(ctx context.Context, dir *DBConfig) error {
	n := 0
	var stop error
	err := dir.eachFile(ctx, func(file *DBConfig) error {
		n++
		if stop = c.checkDB(file); stop != nil {
			return stop
		}
		if m := c.cfg.MultiDB; m != nil {
			if _, err := m.tenants.Lookup(file.Path); err == nil {
				stop = c.report("error", file.Path, errPatternToo.Error())
			}
		}
		if err := unix.Faccessat(unix.AT_FDCWD, file.Path, unix.R_OK, unix.AT_EACCESS); err != nil {
			stop = errors.Join(stop, c.report("error", file.Path, "is not readable: "+err.Error()))
		}
		return stop
	})
	switch {
	case stop != nil:
		return stop
	case err != nil:
		return c.report("error", dir.Dir, err.Error())
	case n == 0 && !dir.Watch:
		return c.report("error", dir.Dir, "holds no SQLite database that matches "+dir.Pattern+": replicate ends with an error, because watch is off")
	case n == 0:
		return c.report("warning", dir.Dir, "holds no SQLite database that matches "+dir.Pattern)
	default:
		return nil
	}
}

func (c *databaseCheck) checkTenant(e *scan.Entry, t *litestream.Tenant, err error) error {
	if !c.matches(t.Path) {
		return nil
	}
	if err != nil {
		return c.report("error", t.Path, err.Error())
	}
	client, err := c.cfg.MultiDB.client(t)
	if err != nil {
		return err
	}
	c.meet(redactedLocation(client))
	c.meet(inodeKey(e.Main.ID.Dev, e.Main.ID.Ino))
	if err := c.checkNetwork(t.Path); err != nil {
		return err
	}
	switch err := readHeader(t.Path); {
	case errors.Is(err, sqlitefile.ErrFormat):
		return c.report("error", t.Path, err.Error()+": exclude it")
	case err != nil && !errors.Is(err, sqlitefile.ErrEmpty): // its size tells that
		return c.report("error", t.Path, "is not readable: "+err.Error())
	}
	if problem := suspiciousFile(path.Base(t.Path), e.Main.Size); problem != "" {
		return c.report("warning", t.Path, problem)
	}
	return nil
}

// checkNetwork reports a database on a network file system. It asks once for
// the databases of one folder, which a scan tells of together.
func (c *databaseCheck) checkNetwork(file string) error {
	if c.cfg.MultiDB.AllowNetworkFS {
		return nil
	}
	if dir := path.Dir(file); dir != c.dir {
		name, err := c.networkFS(dir)
		if err != nil {
			return c.report("error", dir, err.Error())
		}
		c.dir, c.network = dir, name
	}
	if c.network == "" {
		return nil
	}
	return c.report("error", file, "lies on the network file system "+c.network+": "+litestream.NetworkFSAdvice)
}

// readHeader reads the first 100 bytes of a database. This process holds no
// lock on it that the end of the reading could drop.
func readHeader(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a pipe by now
	if err != nil {
		return errors.Unwrap(err) // without the path
	}
	_, err = sqlitefile.ReadHeader(f)
	return errors.Join(err, f.Close())
}

func inodeKey(dev, ino uint64) string { return fmt.Sprintf("inode %d %d", dev, ino) }

func (c *databaseCheck) hash(key string) uint64 { return maphash.String(c.seed, key) }

func (c *databaseCheck) meet(key string) {
	h := c.hash(key)
	_, again := c.places[h]
	c.places[h] = again
}

// nameClashes goes over all databases again and names those that share a
// replica or an inode, each with the first that has it.
func (c *databaseCheck) nameClashes(ctx context.Context) error {
	first := make(map[string]string)
	meet := func(path, key, problem string) error {
		if !c.places[c.hash(key)] {
			return nil
		}
		if other, ok := first[key]; ok {
			return c.report("error", path, fmt.Sprintf(problem, other))
		}
		first[key] = path
		return nil
	}
	const (
		sameReplica = "has the same replica as %s"
		sameFile    = "is the same file as %s, by a link"
	)
	meetDB := func(db *DBConfig) error {
		client, err := newReplicaClient(db.Replica)
		if err != nil {
			return err
		}
		err = meet(db.Path, redactedLocation(client), sameReplica)
		var st unix.Stat_t
		if unix.Stat(db.Path, &st) == nil {
			err = errors.Join(err, meet(db.Path, inodeKey(uint64(st.Dev), st.Ino), sameFile))
		}
		return err
	}
	for _, db := range c.cfg.DBs {
		if err := meetDB(db); err != nil {
			return err
		}
	}
	for _, dir := range c.cfg.Dirs {
		var stop error
		_ = dir.eachFile(ctx, func(file *DBConfig) error { // what it cannot read was reported
			stop = meetDB(file)
			return stop
		})
		if stop != nil {
			return stop
		}
	}
	if c.cfg.MultiDB == nil {
		return nil
	}
	_, err := c.cfg.MultiDB.eachTenant(ctx, func(e *scan.Entry, t *litestream.Tenant, err error) error {
		if err != nil || !c.matches(t.Path) {
			return nil //nolint:nilerr // reported in the first scan
		}
		client, err := c.cfg.MultiDB.client(t)
		if err != nil {
			return err
		}
		loc := redactedLocation(client)
		return errors.Join(
			meet(t.Path, loc, sameReplica+", "+strings.ReplaceAll(loc, "%", "%%")),
			meet(t.Path, inodeKey(e.Main.ID.Dev, e.Main.ID.Ino), sameFile))
	})
	return err
}

// foreignExtensions are those of files that lie beside databases and are none.
var foreignExtensions = []string{".bak", ".gz", ".json", ".lock", ".log", ".lz4", ".old", ".sql", ".swp", ".tar", ".tmp", ".txt", ".xz", ".yaml", ".yml", ".zip", ".zst"}

// suspiciousFile tells from name and size that a file can hardly be a database.
func suspiciousFile(name string, size int64) string {
	const smallestPage = 512
	switch ext := strings.ToLower(path.Ext(name)); {
	case slices.Contains(foreignExtensions, ext), strings.HasSuffix(name, "~"):
		return "has a name that databases do not have: exclude it if it is none"
	case size == 0:
		return "is empty: it counts as a database once something is written to it"
	case size%smallestPage != 0:
		return fmt.Sprintf("has %d bytes, which no SQLite database has: exclude it", size)
	default:
		return ""
	}
}

// checkStateDir reports whether the state directory can be written to or made.
func checkStateDir(dir string) error {
	for existing := dir; ; existing = filepath.Dir(existing) {
		fi, err := os.Stat(existing)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return err
		case !fi.IsDir():
			return fmt.Errorf("%s is not a directory", existing)
		}
		if err := unix.Faccessat(unix.AT_FDCWD, existing, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
			return fmt.Errorf("%s is not writable: %w", existing, err)
		}
		return nil
	}
}

// textFindings prints findings as lines.
type textFindings struct{ w io.Writer }

func (t *textFindings) write(f *finding) error {
	where := ""
	if f.Path != "" {
		where = printable(f.Path) + ": "
	}
	_, err := fmt.Fprintf(t.w, "%s: %s%s\n", f.Severity, where, f.Problem)
	return err
}

func (t *textFindings) end() error { return nil }
