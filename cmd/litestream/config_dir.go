package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/benbjohnson/litestream"
)

// entryProblem finds keys of a `dbs` entry that do not go together, in the
// words of Litestream v0.5 where it has some.
func (db *DBConfig) entryProblem() (key, reason string) {
	_, badPattern := filepath.Match(db.Pattern, "")
	switch {
	case db.Path == "" && db.Dir == "":
		return "path", "must specify either 'path' or 'dir'"
	case db.Path != "" && db.Dir != "":
		return "dir", "cannot specify both 'path' and 'dir'"
	case db.Dir != "" && db.Pattern == "":
		return "dir", "'pattern' is required when using 'dir'"
	case db.Dir == "" && db.Watch:
		return "watch", "'watch' can only be enabled with a directory"
	case db.Dir == "" && db.MetaDir != "":
		return "meta-dir", "'meta-dir' can only be used with a directory"
	case db.MetaPath != "" && db.MetaDir != "":
		return "meta-dir", "cannot specify both 'meta-path' and 'meta-dir'"
	case badPattern != nil:
		return "pattern", badPattern.Error()
	case db.Dir != "" && strings.Contains(db.Pattern, "/"):
		return "pattern", "is compared with base names, which hold no slash: name the folder in 'dir', and set 'recursive' for those below"
	default:
		return "", ""
	}
}

// name returns what an entry stands for: a path, or a directory.
func (db *DBConfig) name() string {
	if db.Dir != "" {
		return db.Dir
	}
	return db.Path
}

// field returns a key of the entry as messages call it.
func (db *DBConfig) field(key string) string { return fmt.Sprintf("dbs[%d].%s", db.index, key) }

// splitDirs moves the entries with `dir` from DBs to Dirs.
func (c *Config) splitDirs() {
	paths := c.DBs[:0:0]
	for _, db := range c.DBs {
		if db.Dir != "" {
			c.Dirs = append(c.Dirs, db)
		} else {
			paths = append(paths, db)
		}
	}
	c.DBs = paths
}

// entries returns all of `dbs` in the order of the file.
func (c *Config) entries() []*DBConfig {
	all := slices.Concat(c.DBs, c.Dirs)
	slices.SortStableFunc(all, func(a, b *DBConfig) int { return a.index - b.index })
	return all
}

// normalizeDir expands the paths of a directory's entry and prepares the client
// that its databases share.
func (c *Config) normalizeDir(db *DBConfig) error {
	for _, p := range []struct {
		key   string
		value *string
	}{{"dir", &db.Dir}, {"meta-path", &db.MetaPath}, {"meta-dir", &db.MetaDir}} {
		if *p.value == "" {
			continue
		}
		expanded, err := expandPath(*p.value)
		if err != nil {
			return &configError{Field: db.field(p.key), Line: db.keyLine(p.key), Reason: err.Error()}
		}
		*p.value = expanded
	}
	if err := db.Replica.normalize(db.field("replica"), &c.ReplicaSettings); err != nil {
		return err
	}
	base := *db.Replica
	db.Replica.shared = litestream.NewS3ClientPool(func(string) (litestream.ReplicaClient, error) { return newReplicaClient(&base) })
	if db.RestoreIfDBNotExists {
		c.warn(db.field("restore-if-db-not-exists"), db.keyLine("restore-if-db-not-exists"),
			"not used: nobody knows which databases a directory misses; restore them by their paths")
	}
	return nil
}

// warnPathKeys warns about keys of a directory in the entry of a path.
func (c *Config) warnPathKeys(db *DBConfig) {
	for key, set := range map[string]bool{"pattern": db.Pattern != "", "recursive": db.Recursive} {
		if set {
			c.warn(db.field(key), db.keyLine(key), "not used: it belongs to 'dir'")
		}
	}
}

// files returns what a store needs to know of the entry. newDB may be nil
// where nothing is replicated.
func (db *DBConfig) files(newDB func(path string) (*litestream.DB, error)) *litestream.DirConfig {
	d := &litestream.DirConfig{
		Path: db.Dir, Pattern: db.Pattern, Recursive: db.Recursive, Watch: db.Watch,
		SkipMeta: db.MetaDir != "", NewDB: newDB,
	}
	places := []string{db.MetaPath, db.MetaDir}
	if db.Replica.replicaType() == replicaTypeFile {
		places = append(places, db.Replica.filePath())
	}
	for _, place := range places {
		if place != "" && place != db.Dir {
			d.Skip = append(d.Skip, place)
		}
	}
	return d
}

// dbInDir returns the entry of a file that an entry with `dir` stands for, or
// nil.
func (c *Config) dbInDir(path string) *DBConfig {
	for _, db := range c.Dirs {
		if !db.files(nil).Covers(path) {
			continue
		}
		if file, err := db.forFile(path); err == nil {
			return file
		}
	}
	return nil
}

// forFile returns the entry that a file of the directory would have had: its
// metadata and its replica lie where Litestream v0.5 has them.
func (db *DBConfig) forFile(file string) (*DBConfig, error) {
	rel, err := filepath.Rel(db.Dir, file)
	if err != nil {
		return nil, err
	}
	one, replica := *db, *db.Replica
	one.Path, one.Replica = file, &replica
	one.Dir, one.Pattern, one.MetaDir, one.Recursive, one.Watch, one.RestoreIfDBNotExists = "", "", "", false, false, false
	switch {
	case db.MetaDir != "":
		one.MetaPath = filepath.Join(db.MetaDir, rel+litestream.MetaDirSuffix)
	case db.MetaPath != "":
		one.MetaPath = defaultMetaPath(filepath.Join(db.MetaPath, rel))
	default:
		one.MetaPath = defaultMetaPath(file)
	}
	rel = filepath.ToSlash(rel)
	if replica.URL != "" {
		replica.URL = appendURLPath(replica.URL, rel)
	} else {
		replica.Path = path.Join(replica.Path, rel)
	}
	return &one, nil
}

// appendURLPath appends a path to that of a URL and leaves its query.
func appendURLPath(s, rel string) string {
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" { // such as an access point's ARN
		base, query, hasQuery := strings.Cut(s, "?")
		s = strings.TrimSuffix(base, "/") + "/" + (&url.URL{Path: rel}).EscapedPath()
		if hasQuery {
			s += "?" + query
		}
		return s
	}
	u.Path, u.RawPath = path.Join(u.Path, rel), ""
	return u.String()
}

// sharedClient returns a client of the replica's own path that shares the
// connections of its directory.
func (c *ReplicaConfig) sharedClient() (litestream.ReplicaClient, error) {
	if c.replicaType() == replicaTypeFile {
		return c.shared.Client(replicaTypeFile, c.filePath())
	}
	place := c.Path
	if c.URL != "" {
		var err error
		if _, _, place, _, _, err = litestream.ParseReplicaURL(c.URL); err != nil {
			return nil, err
		}
		place = belowBucket(c.replicaType(), place)
	}
	return c.shared.Client(c.replicaType(), place)
}

// validateDirs checks the entries with `dir`, also against the other ones.
func (c *Config) validateDirs() []error {
	var errs []error
	for _, db := range c.Dirs {
		errs = append(errs, db.validate(db.index)...)
		if _, err := db.Replica.checkClient(db.field("replica")); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, c.checkDir(db)...)
	}
	return errs
}

func (c *Config) checkDir(db *DBConfig) (errs []error) {
	fail := func(key, reason, got string) {
		errs = append(errs, &configError{Field: db.field(key), Line: db.keyLine(key), Reason: reason, Got: got})
	}
	files := db.files(nil)
	if db.Replica.replicaType() == replicaTypeFile && db.Replica.filePath() == db.Dir {
		fail("replica", "the replicas would lie where the databases are", db.Dir)
	}
	for _, other := range c.DBs {
		if files.Covers(other.Path) {
			fail("dir", fmt.Sprintf("database %s (%s) lies in it, too: remove that entry, or move the file", other.Path, other.field("path")), db.Dir)
		}
	}
	for _, other := range c.Dirs {
		if other.index >= db.index {
			break
		}
		if problem := db.overlap(other); problem != "" {
			fail("dir", problem, db.Dir)
		}
	}
	return errs
}

// overlap tells why two directories cannot stand beside each other, or "".
// Whether two different patterns match one name is seen when it is met.
func (db *DBConfig) overlap(other *DBConfig) string {
	within := func(outer, inner *DBConfig) bool {
		return outer.Dir == inner.Dir || outer.Recursive && strings.HasPrefix(inner.Dir, strings.TrimSuffix(outer.Dir, "/")+"/")
	}
	if db.Pattern == other.Pattern && (within(db, other) || within(other, db)) {
		return fmt.Sprintf("overlaps %s with the same pattern: its databases would be replicated twice", other.field("dir"))
	}
	mine, err := newReplicaClient(db.Replica)
	theirs, err2 := newReplicaClient(other.Replica)
	if err == nil && err2 == nil && db.Dir != other.Dir && redactedLocation(mine) == redactedLocation(theirs) {
		return fmt.Sprintf("has the same replica destination as %s: databases of one name would overwrite each other", other.field("dir"))
	}
	return ""
}

// errPatternToo means that multi-db has a pattern for a file of a directory.
var errPatternToo = errors.New("a pattern of multi-db matches it, too: exclude it there, or in 'pattern'")

// storeDir returns a directory whose databases the store makes.
func (c *Config) storeDir(ctx context.Context, db *DBConfig, logger *slog.Logger) *litestream.DirConfig {
	return db.files(func(path string) (*litestream.DB, error) {
		if m := c.MultiDB; m != nil && m.Enabled {
			if _, err := m.tenants.Lookup(path); err == nil {
				return nil, errPatternToo
			}
		}
		file, err := db.forFile(path)
		if err != nil {
			return nil, err
		}
		return newDB(ctx, c, file, logger)
	})
}

// eachFile calls fn for the databases that lie in a directory now.
func (db *DBConfig) eachFile(ctx context.Context, fn func(file *DBConfig) error) error {
	return db.files(nil).Files(ctx, func(path string) error {
		file, err := db.forFile(path)
		if err != nil {
			return err
		}
		return fn(file)
	})
}
