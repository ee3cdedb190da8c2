package litestream

import (
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"math/bits"
	"strings"
	"time"

	"github.com/superfly/ltx"
)

// TenantState says where a database found by pattern stands:
//
//	unknown → clean ⇄ queued → hot → clean      failed      gone
type TenantState uint8

// States of a database found by pattern.
const (
	TenantUnknown TenantState = iota // not compared with anything yet
	TenantClean                      // the replica holds what the last scan saw
	TenantQueued                     // changed, and waits for a place among the hot ones
	TenantHot                        // open and replicated all the time
	TenantFailed                     // left alone for a while; the reason is in the registry
	TenantGone                       // its file was deleted; the replica stays
)

// String returns the name that status and metrics show.
func (s TenantState) String() string {
	switch s {
	case TenantUnknown:
		return "unknown"
	case TenantClean:
		return "clean"
	case TenantQueued:
		return "queued"
	case TenantHot:
		return "hot"
	case TenantFailed:
		return "failed"
	case TenantGone:
		return "gone"
	default:
		return fmt.Sprintf("TenantState(%d)", uint8(s))
	}
}

// tenantFlags are facts about a database beside its state.
type tenantFlags uint16

const (
	// tenantSettled: the fingerprint was older than the clock margin when it was
	// taken, so that an equal one proves that nothing changed. SetFingerprint
	// sets it.
	tenantSettled tenantFlags = 1 << iota
	// tenantRecheck: counts as clean, but has to be looked at once since the
	// machine or the daemon did not stop in an orderly way.
	tenantRecheck
	// tenantDeleted: the file was gone at the last scan, whatever the state.
	tenantDeleted
	// tenantDoomed: its replica is being deleted, so that nothing may be added to
	// it before that is done.
	tenantDoomed
	// tenantStopped: somebody asked for it not to be replicated until it is
	// started. It lasts as long as the process.
	tenantStopped

	// tenantLost: another writer goes on with its replica, so that nothing is done
	// about it until a takeover. The registry keeps it.
	tenantLost

	// These two are the table's own.
	tenantPrinted // there is a fingerprint
	tenantOwner   // the record stands in the index of inodes
)

// DBState is the record of one database found by pattern. There are 100,000 of
// them, so it holds no pointer and no more than is needed to tell whether the
// database changed. It belongs to a table, stays at its address until it is
// removed, and is not safe for concurrent use.
type DBState struct {
	// Of the main file, at the last acknowledged capture (SetFingerprint).
	// Without tenantPrinted only ino counts, and only with tenantOwner.
	ino   uint64
	size  int64
	mtime int64 // nanoseconds since the epoch
	ctime int64

	txid ltx.TXID // newest acknowledged

	wal     uint32 // its print in the table, plus one; 0: there was no log
	devices uint32 // of both files, in the table

	changedAt, since, syncedAt unixSeconds
	provenAt                   unixSeconds // see Replica.proven; not in the registry

	dir, name uint32 // in the table
	group     uint32 // SetGroup; 0: none
	nameLen   uint8
	state     TenantState
	flags     tenantFlags
}

// State returns where the database stands.
func (s *DBState) State() TenantState { return s.state }

// TXID returns the newest transaction that the replica acknowledged.
func (s *DBState) TXID() ltx.TXID { return s.txid }

// ChangedAt returns when the oldest change was seen that is not acknowledged,
// in whole seconds, or the zero time.
func (s *DBState) ChangedAt() time.Time { return s.changedAt.Time() }

// Since returns when the state last changed, in whole seconds.
func (s *DBState) Since() time.Time { return s.since.Time() }

// SyncedAt returns when the newest transaction was acknowledged, in whole
// seconds, or the zero time.
func (s *DBState) SyncedAt() time.Time { return s.syncedAt.Time() }

func (s *DBState) has(f tenantFlags) bool { return s.flags&f != 0 }

func (s *DBState) set(f tenantFlags, on bool) {
	if on {
		s.flags |= f
	} else {
		s.flags &^= f
	}
}

// unixSeconds is a time in seconds since 1970, up to the year 2106. 0 is the
// zero time.
type unixSeconds uint32

// secondsOf rounds down; times before 1970 become 0 and those after 2106 the
// last second.
func secondsOf(t time.Time) unixSeconds {
	return unixSeconds(min(max(t.Unix(), 0), 1<<32-1))
}

// Time returns the time in UTC.
func (u unixSeconds) Time() time.Time {
	if u == 0 {
		return time.Time{}
	}
	return time.Unix(int64(u), 0).UTC()
}

// Limits of what a table takes. Linux allows no longer names and paths
// (limits.h). maxTenants also bounds what a damaged registry can ask for.
const (
	maxTenantName = 255
	maxTenantDir  = 4096
	maxTenants    = 1 << 24
)

// Errors of adding to a table.
var (
	errTenantExists = errors.New("path is in the table already")
	errTenantSlot   = errors.New("number is in use already, or out of range")
	errTenantName   = errors.New("directory or file name is empty, relative or too long")
	errTableFull    = errors.New("table of databases is full")
)

// dbTable holds a DBState for each database found by pattern, addressed by a
// number that stays the same until Remove and is reused afterwards. Find and
// Matches, which a scan calls for each file, allocate nothing. It is not safe
// for concurrent use.
type dbTable struct {
	seed    maphash.Seed
	records slab[DBState]
	used    bitset
	free    uint32 // no smaller number is free
	n       int
	index   hashIndex // by directory and name
	names   arena
	dirs    *interner
	groups  *interner // NUL, project, NUL, database; 0 is that of neither
	recent  dirCache
	seen    bitset // in the scan that runs

	devices  deviceTable
	inodes   hashIndex // of records with tenantOwner
	logs     slab[logPrint]
	logN     uint32 // made so far
	logsFree uint32 // head of the list of free ones, plus one
}

func newDBTable() *dbTable {
	t := &dbTable{seed: maphash.MakeSeed(), dirs: newInterner('/'), groups: newInterner(0)}
	t.groups.acquire("\x00")
	return t
}

// dirCache holds the directories that were looked for last: a scanner reports
// the files of a directory together, from several directories in turn.
type dirCache struct {
	dirs [4]struct {
		dir string
		i   uint32
	}
	next int
}

func (c *dirCache) find(dir string) (uint32, bool) {
	for i := range c.dirs {
		if e := &c.dirs[i]; e.dir == dir {
			return e.i, dir != ""
		}
	}
	return 0, false
}

func (c *dirCache) add(dir string, i uint32) {
	e := &c.dirs[c.next%len(c.dirs)]
	e.dir, e.i = dir, i
	c.next++
}

// Len returns how many records there are.
func (t *dbTable) Len() int { return t.n }

// At returns a record, or nil if there is none of that number.
func (t *dbTable) At(i uint32) *DBState {
	if !t.used.has(i) {
		return nil
	}
	return t.records.at(i)
}

// All iterates over the records in the order of their numbers. The one that it
// stands at may be removed.
func (t *dbTable) All() iter.Seq2[uint32, *DBState] { return t.From(0) }

// From is All for the numbers from first on.
func (t *dbTable) From(first uint32) iter.Seq2[uint32, *DBState] {
	return func(yield func(uint32, *DBState) bool) {
		skip := ^uint64(0) << (first % 64)
		for w := int(first / 64); w < len(t.used); w++ {
			for word := t.used[w] & skip; word != 0; word &= word - 1 {
				i := uint32(w*64 + bits.TrailingZeros64(word))
				if t.used.has(i) && !yield(i, t.records.at(i)) {
					return
				}
			}
			skip = ^uint64(0)
		}
	}
}

// findDir returns the number of a directory in which records lie.
func (t *dbTable) findDir(dir string) (uint32, bool) {
	if d, ok := t.recent.find(dir); ok {
		return d, true
	}
	d, ok := t.dirs.find(dir)
	if ok {
		t.recent.add(dir, d)
	}
	return d, ok
}

func (t *dbTable) hashName(dir uint32, name []byte) uint64 {
	hi, lo := bits.Mul64(maphash.Bytes(t.seed, name)^uint64(dir), 0x9E3779B97F4A7C15)
	return hi ^ lo
}

func (t *dbTable) nameOf(s *DBState) []byte { return t.names.get(s.name, int(s.nameLen)) }

func (t *dbTable) hashRecord(i uint32) uint64 {
	s := t.records.at(i)
	return t.hashName(s.dir, t.nameOf(s))
}

// Find returns the number of the database called name in a directory, both as
// in scan.Entry.
func (t *dbTable) Find(dir string, name []byte) (i uint32, ok bool) {
	d, ok := t.findDir(dir)
	if !ok {
		return 0, false
	}
	h := t.hashName(d, name)
	i, pos, ok := t.index.next(h, t.index.seek(h))
	for ok {
		if s := t.records.at(i); s.dir == d && string(t.nameOf(s)) == string(name) {
			return i, true
		}
		i, pos, ok = t.index.next(h, pos)
	}
	return 0, false
}

// FindPath is Find for a whole path.
func (t *dbTable) FindPath(path string) (i uint32, ok bool) {
	dir, name, ok := splitTenantPath(path)
	if !ok {
		return 0, false
	}
	return t.Find(dir, []byte(name))
}

// Add makes a record, in state TenantUnknown, under a number that was free.
func (t *dbTable) Add(dir string, name []byte) (uint32, error) {
	if _, ok := t.Find(dir, name); ok {
		return 0, errTenantExists
	}
	i := t.used.firstMissing(t.free)
	if i >= maxTenants {
		return 0, errTableFull
	}
	if err := t.insert(i, dir, name); err != nil {
		return 0, err
	}
	t.free = i + 1
	return i, nil
}

// AddAt makes a record under a number that the caller knows, such as that of
// a row of the registry.
func (t *dbTable) AddAt(i uint32, path string) error {
	dir, name, ok := splitTenantPath(path)
	if !ok {
		return errTenantName
	}
	if i >= maxTenants || t.used.has(i) {
		return errTenantSlot
	}
	if _, ok := t.Find(dir, []byte(name)); ok {
		return errTenantExists
	}
	return t.insert(i, dir, []byte(name))
}

func (t *dbTable) insert(i uint32, dir string, name []byte) error {
	if !strings.HasPrefix(dir, "/") || len(dir) > maxTenantDir || len(name) == 0 || len(name) > maxTenantName {
		return errTenantName
	}
	d, ok := t.dirs.acquire(dir)
	if !ok {
		return errTableFull
	}
	off, ok := t.names.put(name)
	if !ok {
		t.releaseDir(d)
		return errTableFull
	}
	t.records.make(i)
	*t.records.at(i) = DBState{dir: d, name: off, nameLen: uint8(len(name))}
	t.used.add(i)
	t.index.put(t.hashName(d, name), i, t.hashRecord)
	t.n++
	return nil
}

// Remove forgets a database. Its number may be given to another one.
func (t *dbTable) Remove(i uint32) {
	s := t.At(i)
	if s == nil {
		return
	}
	t.dropFingerprint(s)
	t.disown(i, s)
	t.index.remove(t.hashRecord(i), i, t.hashRecord)
	t.names.dead += int(s.nameLen)
	t.releaseDir(s.dir)
	t.releaseGroup(s.group)
	*s = DBState{}
	t.used.remove(i)
	t.seen.remove(i)
	t.free = min(t.free, i)
	t.n--
	if t.names.wasteful() {
		t.compactNames()
	}
}

func (t *dbTable) releaseDir(d uint32) {
	if t.dirs.release(d) {
		t.recent = dirCache{} // the number may come to mean another one
	}
}

func (t *dbTable) compactNames() {
	var to arena
	for _, s := range t.All() {
		s.name, _ = to.put(t.nameOf(s)) // fits: half of it is gone
	}
	t.names = to
}

// AppendPath appends a database's path to b.
func (t *dbTable) AppendPath(b []byte, i uint32) []byte {
	s := t.At(i)
	if s == nil {
		return b
	}
	start := len(b)
	if b = t.dirs.append(b, s.dir); len(b) > start+1 {
		b = append(b, '/')
	}
	return append(b, t.nameOf(s)...)
}

// Path returns a database's path, or an empty string if there is no record of
// that number.
func (t *dbTable) Path(i uint32) string { return string(t.AppendPath(nil, i)) }

// splitTenantPath cuts a path into directory and name as scan.Entry has them.
func splitTenantPath(path string) (dir, name string, ok bool) {
	n := strings.LastIndexByte(path, '/')
	switch n {
	case -1:
		return "", "", false
	case 0:
		return "/", path[1:], true
	default:
		return path[:n], path[n+1:], true
	}
}

// SetGroup tells which project and database of it a record belongs to, by the
// variables of its path, and returns the number of that group. Equal names
// share a number as long as a record has them; 0 is two empty names.
func (t *dbTable) SetGroup(i uint32, project, database string) (uint32, error) {
	s := t.At(i)
	if s == nil {
		return 0, errTenantSlot
	}
	g, ok := uint32(0), true
	if project != "" || database != "" {
		g, ok = t.groups.acquire("\x00" + project + "\x00" + database)
	}
	if !ok {
		return 0, errTableFull
	}
	t.releaseGroup(s.group)
	s.group = g
	return g, nil
}

func (t *dbTable) releaseGroup(g uint32) {
	if g != 0 {
		t.groups.release(g)
	}
}

// Group returns the names of a group that a record has.
func (t *dbTable) Group(g uint32) (project, database string) {
	project, database, _ = strings.Cut(string(t.groups.append(nil, g)[1:]), "\x00")
	return project, database
}

// BeginScan forgets which records were seen.
func (t *dbTable) BeginScan() { clear(t.seen) }

// See notes that a scan met the record's file.
func (t *dbTable) See(i uint32) { t.seen.add(i) }

// Seen reports whether the scan has met the record's file.
func (t *dbTable) Seen(i uint32) bool { return t.seen.has(i) }

// Unseen iterates over the records whose files a finished scan did not meet,
// leaving out what lies at or below a path that it could not look at: that is
// unknown, not gone. The record that it stands at may be removed.
func (t *dbTable) Unseen(unreadable []string) iter.Seq2[uint32, *DBState] {
	return func(yield func(uint32, *DBState) bool) {
		var path []byte
		for i, s := range t.All() {
			if t.seen.has(i) {
				continue
			}
			if len(unreadable) > 0 {
				if path = t.AppendPath(path[:0], i); liesBelow(path, unreadable) {
					continue
				}
			}
			if !yield(i, s) {
				return
			}
		}
	}
}

// liesBelow reports whether path is one of dirs or in one of them.
func liesBelow(path []byte, dirs []string) bool {
	for _, dir := range dirs {
		n := len(strings.TrimSuffix(dir, "/"))
		if len(path) >= n && string(path[:n]) == dir[:n] && (len(path) == n || path[n] == '/') {
			return true
		}
	}
	return false
}
