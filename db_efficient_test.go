package litestream

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// tableModel is dbTable done the simple way.
type tableModel struct {
	records map[uint32]*modelRecord
	paths   map[string]uint32
	owners  map[wal.FileID]uint32
}

type modelRecord struct {
	dir, name         string
	fp                sqlitefile.Fingerprint
	settled           bool
	inode             wal.FileID // owned, or of the fingerprint; else zero
	project, database string
	seen              bool
}

func (m *tableModel) disown(i uint32) {
	if r := m.records[i]; m.owners[r.inode] == i && r.inode != (wal.FileID{}) {
		delete(m.owners, r.inode)
	}
}

func (m *tableModel) claim(i uint32, id wal.FileID) (uint32, bool) {
	r := m.records[i]
	if r.inode != id {
		m.disown(i)
		r.fp, r.settled, r.inode = sqlitefile.Fingerprint{}, false, wal.FileID{}
	}
	if owner, ok := m.owners[id]; ok {
		return owner, owner == i
	}
	m.owners[id], r.inode = i, id
	return i, true
}

func (m *tableModel) setFingerprint(i uint32, fp sqlitefile.Fingerprint, settled bool) {
	r := m.records[i]
	if owner, ok := m.owners[r.inode]; !ok || owner != i {
		r.inode = wal.FileID{}
	}
	r.fp, r.settled = sqlitefile.Fingerprint{}, false
	if fp.Main == (wal.Print{}) {
		return
	}
	m.claim(i, fp.Main.ID)
	r.inode = fp.Main.ID
	if r.fp, r.settled = fp, settled; fp.WAL.Size == 0 {
		r.fp.WAL = wal.Print{}
	}
}

func (m *tableModel) release(i uint32) {
	m.disown(i)
	if r := m.records[i]; r.fp.Main == (wal.Print{}) {
		r.inode = wal.FileID{}
	}
}

func joinTenant(dir, name string) string {
	if dir == "/" {
		return dir + name
	}
	return dir + "/" + name
}

// tableChecker runs random operations on a table and its model.
type tableChecker struct {
	t     *testing.T
	rnd   *rand.Rand
	table *dbTable
	model tableModel
	dirs  []string
}

// pick returns the number of a record, or false if there is none.
func (c *tableChecker) pick() (uint32, bool) {
	for range 50 {
		i := uint32(c.rnd.IntN(len(c.model.records)*2 + 1))
		if c.model.records[i] != nil {
			return i, true
		}
	}
	return 0, false
}

func (c *tableChecker) name() string {
	n := 1 + c.rnd.IntN(3)
	if c.rnd.IntN(4) == 0 {
		n = 1 + c.rnd.IntN(maxTenantName)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(c.rnd.IntN(4)*80 + 1) // few, not UTF-8, never NUL or '/'
	}
	return string(b)
}

func (c *tableChecker) print() wal.Print {
	return wal.Print{
		ID:   wal.FileID{Dev: uint64(c.rnd.IntN(3)), Ino: 1 + uint64(c.rnd.IntN(60))},
		Size: int64(c.rnd.IntN(3)), Mtime: int64(c.rnd.IntN(3)) - 1, Ctime: int64(c.rnd.IntN(3)),
	}
}

func (c *tableChecker) fingerprint() (fp sqlitefile.Fingerprint) {
	if c.rnd.IntN(5) > 0 {
		fp.Main = c.print()
		if c.rnd.IntN(2) == 0 {
			fp.WAL = c.print()
		}
	}
	return fp
}

func (c *tableChecker) add() {
	dir, name := c.dirs[c.rnd.IntN(len(c.dirs))], c.name()
	path := joinTenant(dir, name)
	at := uint32(c.rnd.IntN(2000))
	_, exists := c.model.paths[path]
	var err error
	var want error
	if c.rnd.IntN(3) == 0 {
		switch {
		case c.model.records[at] != nil:
			want = errTenantSlot
		case exists:
			want = errTenantExists
		}
		err = c.table.AddAt(at, path)
	} else {
		if exists {
			want = errTenantExists
		}
		lowest := uint32(0)
		for c.model.records[lowest] != nil {
			lowest++
		}
		if at, err = c.table.Add(dir, []byte(name)); err == nil && at != lowest {
			c.t.Fatalf("Add gave number %d, want the lowest free one, %d", at, lowest)
		}
	}
	if !errors.Is(err, want) {
		c.t.Fatalf("add %q at %d: %v, want %v", path, at, err, want)
	}
	if err == nil {
		c.model.records[at] = &modelRecord{dir: dir, name: name}
		c.model.paths[path] = at
	}
}

func (c *tableChecker) step() {
	op := c.rnd.IntN(20)
	i, ok := c.pick()
	if op < 6 || !ok {
		c.add()
		return
	}
	r := c.model.records[i]
	switch {
	case op < 9:
		c.table.Remove(i)
		c.model.disown(i)
		delete(c.model.paths, joinTenant(r.dir, r.name))
		delete(c.model.records, i)
	case op < 12:
		fp, settled := c.fingerprint(), c.rnd.IntN(2) == 0
		c.table.SetFingerprint(i, &fp, settled)
		c.model.setFingerprint(i, fp, settled)
	case op < 15:
		id := c.print().ID
		owner, ok := c.table.ClaimInode(i, id)
		if want, wantOK := c.model.claim(i, id); owner != want || ok != wantOK {
			c.t.Fatalf("ClaimInode(%d, %v) = %d %v, want %d %v", i, id, owner, ok, want, wantOK)
		}
	case op < 16:
		c.table.ReleaseInode(i)
		c.model.release(i)
	case op < 18:
		r.project, r.database = c.name()[:1], strings.Repeat("d", c.rnd.IntN(3))
		if c.rnd.IntN(5) == 0 {
			r.project, r.database = "", ""
		}
		g, err := c.table.SetGroup(i, r.project, r.database)
		if err != nil || (g == 0) != (r.project == "" && r.database == "") {
			c.t.Fatalf("SetGroup(%q, %q) = %d, %v", r.project, r.database, g, err)
		}
	default:
		c.table.See(i)
		r.seen = true
	}
}

// check compares everything.
func (c *tableChecker) check() {
	t := c.t
	t.Helper()
	if c.table.Len() != len(c.model.records) {
		t.Fatalf("Len = %d, want %d", c.table.Len(), len(c.model.records))
	}
	n := 0
	groups := make(map[uint32]string)
	for i, s := range c.table.All() {
		n++
		r := c.model.records[i]
		if r == nil || c.table.At(i) != s {
			t.Fatalf("All has record %d, which is not there", i)
		}
		if got, want := c.table.Path(i), joinTenant(r.dir, r.name); got != want {
			t.Fatalf("Path(%d) = %q, want %q", i, got, want)
		}
		if got := c.table.Fingerprint(i); got != r.fp {
			t.Fatalf("Fingerprint(%d) = %+v, want %+v", i, got, r.fp)
		}
		if got := s.has(tenantSettled); got != r.settled {
			t.Fatalf("record %d settled = %v, want %v", i, got, r.settled)
		}
		if project, database := c.table.Group(s.group); project != r.project || database != r.database {
			t.Fatalf("Group(%d) = %q %q, want %q %q", s.group, project, database, r.project, r.database)
		}
		if was, ok := groups[s.group]; ok && was != r.project+"/"+r.database {
			t.Fatalf("group %d is %q and %q", s.group, was, r.project+"/"+r.database)
		}
		groups[s.group] = r.project + "/" + r.database
		if c.table.Seen(i) != r.seen {
			t.Fatalf("Seen(%d) = %v, want %v", i, !r.seen, r.seen)
		}
		for _, fp := range []sqlitefile.Fingerprint{r.fp, c.fingerprint(), {}} {
			want := fp.Main != (wal.Print{}) && fp.Main == r.fp.Main && (fp.WAL == r.fp.WAL || fp.WAL.Size+r.fp.WAL.Size == 0)
			if got := c.table.Matches(i, &fp); got != want {
				t.Fatalf("Matches(%d, %+v) = %v, want %v with %+v", i, fp, got, want, r.fp)
			}
		}
	}
	if n != len(c.model.records) {
		t.Fatalf("All has %d records, want %d", n, len(c.model.records))
	}
	for path, want := range c.model.paths {
		r := c.model.records[want]
		if got, ok := c.table.Find(r.dir, []byte(r.name)); !ok || got != want {
			t.Fatalf("Find(%q) = %d %v, want %d", path, got, ok, want)
		}
	}
	for range 50 {
		path := joinTenant(c.dirs[c.rnd.IntN(len(c.dirs))], c.name())
		want, wantOK := c.model.paths[path]
		if got, ok := c.table.FindPath(path); ok != wantOK || ok && got != want {
			t.Fatalf("FindPath(%q) = %d %v, want %d %v", path, got, ok, want, wantOK)
		}
	}
	for dev := range uint64(3) {
		for ino := range uint64(62) {
			id := wal.FileID{Dev: dev, Ino: ino}
			want, wantOK := c.model.owners[id]
			if got, ok := c.table.FindInode(id); ok != wantOK || ok && got != want {
				t.Fatalf("FindInode(%v) = %d %v, want %d %v", id, got, ok, want, wantOK)
			}
		}
	}
}

// TestDBTable_Model compares random operations with the model.
func TestDBTable_Model(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 8 {
		c := &tableChecker{t: t, rnd: rnd, table: newDBTable(), model: tableModel{
			records: map[uint32]*modelRecord{}, paths: map[string]uint32{}, owners: map[wal.FileID]uint32{},
		}}
		c.dirs = []string{"/", "/a", "/a/b", "//", "/a/", "//a", "/a\xff", "/a/b/c/d/e", "/" + strings.Repeat("long/", maxTenantDir/5-1) + "dir"}
		for range rnd.IntN(20) {
			c.dirs = append(c.dirs, "/"+strings.Repeat(c.name(), 1+rnd.IntN(4)))
		}
		slices.Sort(c.dirs)
		c.dirs = slices.Compact(c.dirs)
		for step := range 3000 {
			c.step()
			if step%250 == 0 {
				c.check()
			}
		}
		c.table.BeginScan()
		for _, r := range c.model.records {
			r.seen = false
		}
		c.check()
		for i := range c.table.All() { // what iterates may remove
			c.table.Remove(i)
		}
		if c.table.Len() != 0 || c.table.index.n != 0 || c.table.inodes.n != 0 || c.table.dirs.index.n != 0 || c.table.groups.index.n != 1 {
			t.Fatalf("an empty table still holds something: %+v", c.table)
		}
	}
}

// TestHashIndex_Collisions: hashes that all fall on few places, at the end of
// the index among them, so that searches wrap around.
func TestHashIndex_Collisions(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		places, tags := uint64(1+rnd.IntN(4)), uint64(1+rnd.IntN(3))
		hash := func(i uint32) uint64 { return ^(uint64(i)%places)<<56 | uint64(i)%tags }
		var x hashIndex
		in := make(map[uint32]bool)
		for range 600 {
			i := uint32(rnd.IntN(150))
			if in[i] {
				x.remove(hash(i), i, hash)
			} else {
				x.put(hash(i), i, hash)
			}
			in[i] = !in[i]
			x.remove(hash(500), 500, hash) // not in it
			j := uint32(rnd.IntN(150))
			got, pos, ok := x.next(hash(j), x.seek(hash(j)))
			for ok && got != j {
				got, pos, ok = x.next(hash(j), pos)
			}
			if ok != in[j] {
				t.Fatalf("found %d = %v, want %v", j, ok, in[j])
			}
		}
	}
}

func TestDBTable_Limits(t *testing.T) {
	longName, longDir := strings.Repeat("n", maxTenantName), "/"+strings.Repeat("d", maxTenantDir-1)
	for _, tt := range []struct {
		dir, name string
		want      error
	}{
		{longDir, longName, nil},
		{"/", longName, nil},
		{"/d", longName + "n", errTenantName},
		{longDir + "d", "n", errTenantName},
		{"/d", "", errTenantName},
		{"", "n", errTenantName},
		{"d", "n", errTenantName},
	} {
		tab := newDBTable()
		i, err := tab.Add(tt.dir, []byte(tt.name))
		if !errors.Is(err, tt.want) {
			t.Errorf("Add(%.10q, %.10q) = %v, want %v", tt.dir, tt.name, err, tt.want)
		}
		if got, want := tab.Path(i), joinTenant(tt.dir, tt.name); err == nil && got != want {
			t.Errorf("Path = %q, want %q", got, want)
		}
		if err != nil && (tab.Len() != 0 || tab.dirs.index.n != 0) {
			t.Errorf("Add(%.10q, %.10q) left something behind", tt.dir, tt.name)
		}
	}
	tab := newDBTable()
	for _, tt := range []struct {
		i    uint32
		path string
		want error
	}{
		{maxTenants - 1, "/a/b", nil},
		{maxTenants, "/a/c", errTenantSlot},
		{1<<32 - 1, "/a/c", errTenantSlot},
		{maxTenants - 1, "/a/c", errTenantSlot},
		{7, "/a/b", errTenantExists},
		{7, "b", errTenantName},
		{7, "/a/", errTenantName},
		{7, "/b", nil},
	} {
		if err := tab.AddAt(tt.i, tt.path); !errors.Is(err, tt.want) {
			t.Errorf("AddAt(%d, %q) = %v, want %v", tt.i, tt.path, err, tt.want)
		}
	}
	if tab.At(8) != nil || tab.Path(8) != "" || tab.At(1<<32-1) != nil {
		t.Error("there are records that nobody made")
	}
	tab.Remove(8)
	tab.SetFingerprint(8, &sqlitefile.Fingerprint{Main: wal.Print{Size: 1}}, true)
	tab.ReleaseInode(8)
	if _, err := tab.SetGroup(8, "p", "d"); !errors.Is(err, errTenantSlot) {
		t.Errorf("SetGroup of nothing = %v", err)
	}
	long := strings.Repeat("p", maxText+1)
	for _, names := range [][2]string{{long, "d"}, {"p", long}} {
		if _, err := tab.SetGroup(7, names[0], names[1]); !errors.Is(err, errTableFull) {
			t.Errorf("SetGroup with a name too long = %v", err)
		}
	}
	if tab.groups.index.n != 1 {
		t.Errorf("%d groups are left of none", tab.groups.index.n)
	}
	if g, err := tab.SetGroup(7, "", long[1:]); err != nil || g == 0 {
		t.Errorf("SetGroup with the longest name = %d, %v", g, err)
	}
}

// TestDBTable_Matches: a difference in any field is a difference.
func TestDBTable_Matches(t *testing.T) {
	p := wal.Print{ID: wal.FileID{Dev: 1, Ino: 2}, Size: 3, Mtime: 4, Ctime: 5}
	base := sqlitefile.Fingerprint{Main: p, WAL: p}
	mutations := []func(*wal.Print){
		func(p *wal.Print) { p.ID.Dev++ }, func(p *wal.Print) { p.ID.Ino++ }, func(p *wal.Print) { p.Size++ },
		func(p *wal.Print) { p.Mtime-- }, func(p *wal.Print) { p.Ctime = -p.Ctime }, func(p *wal.Print) { *p = wal.Print{} },
	}
	tab := newDBTable()
	i, err := tab.Add("/d", []byte("n"))
	if err != nil {
		t.Fatal(err)
	}
	if tab.Matches(i, &base) || tab.Matches(i, &sqlitefile.Fingerprint{}) {
		t.Error("something matches before there was a fingerprint")
	}
	for _, set := range []sqlitefile.Fingerprint{base, {Main: p}} {
		tab.SetFingerprint(i, &set, true)
		if !tab.Matches(i, &set) {
			t.Errorf("%+v does not match itself", set)
		}
		for n, mutate := range mutations {
			fp := set
			mutate(&fp.Main)
			if tab.Matches(i, &fp) {
				t.Errorf("main %d: %+v matches %+v", n, fp, set)
			}
			fp = set
			mutate(&fp.WAL)
			if want := fp.WAL.Size == 0 && set.WAL.Size == 0; tab.Matches(i, &fp) != want {
				t.Errorf("wal %d: %+v matches %+v: %v", n, fp, set, !want)
			}
		}
	}
	empty := sqlitefile.Fingerprint{Main: p, WAL: wal.Print{ID: wal.FileID{Dev: 1, Ino: 77}, Mtime: 7}}
	if !tab.Matches(i, &empty) {
		t.Error("an empty log counts as a difference")
	}
	tab.SetFingerprint(i, &sqlitefile.Fingerprint{}, true)
	if tab.Matches(i, &base) || tab.At(i).has(tenantSettled) {
		t.Error("the fingerprint was not dropped")
	}
}

// TestDBTable_Rename: a scan may meet the new name first.
func TestDBTable_Rename(t *testing.T) {
	tab := newDBTable()
	fp := sqlitefile.Fingerprint{Main: wal.Print{ID: wal.FileID{Dev: 1, Ino: 2}, Size: 3}}
	old, _ := tab.Add("/d", []byte("old"))
	tab.SetFingerprint(old, &fp, true)
	tab.BeginScan()
	renamed, _ := tab.Add("/d", []byte("new"))
	owner, ok := tab.ClaimInode(renamed, fp.Main.ID)
	if ok || owner != old || tab.Seen(owner) {
		t.Fatalf("ClaimInode = %d %v, want %d, which was not seen yet", owner, ok, old)
	}
	tab.See(renamed)
	for i := range tab.Unseen(nil) {
		if i != old {
			t.Fatalf("unseen: %d, want %d", i, old)
		}
		tab.ReleaseInode(i)
	}
	if owner, ok := tab.ClaimInode(renamed, fp.Main.ID); !ok {
		t.Fatalf("inode still belongs to %d", owner)
	}
	if !tab.Matches(old, &fp) || tab.Matches(renamed, &fp) {
		t.Error("the fingerprint went with the inode")
	}
	// Moved back: two records for a moment, then the first one again.
	if owner, ok := tab.ClaimInode(old, fp.Main.ID); ok || owner != renamed {
		t.Fatalf("ClaimInode = %d %v, want %d", owner, ok, renamed)
	}
	tab.Remove(renamed)
	if _, ok := tab.ClaimInode(old, fp.Main.ID); !ok || !tab.Matches(old, &fp) {
		t.Error("moved back, but not as it was")
	}
}

func TestDBTable_Unseen(t *testing.T) {
	tests := []struct {
		name       string
		unreadable []string
		want       []string
	}{
		{"nothing unreadable", nil, []string{"/a/b/1", "/a/b/2", "/a/bc/1", "/x"}},
		{"a directory", []string{"/a/b"}, []string{"/a/bc/1", "/x"}},
		{"one above", []string{"/a"}, []string{"/x"}},
		{"a file", []string{"/a/b/2"}, []string{"/a/b/1", "/a/bc/1", "/x"}},
		{"the root", []string{"/"}, nil},
		{"several", []string{"/q", "/x", "/a/bc/1/q", "/a/bc"}, []string{"/a/b/1", "/a/b/2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tab := newDBTable()
			for i, path := range []string{"/a/b/1", "/a/b/2", "/a/b/3", "/a/bc/1", "/x"} {
				if err := tab.AddAt(uint32(i), path); err != nil {
					t.Fatal(err)
				}
			}
			tab.See(1)
			tab.BeginScan()
			tab.See(2)
			var got []string
			for i := range tab.Unseen(tt.unreadable) {
				got = append(got, tab.Path(i))
				tab.Remove(i)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("unseen (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDBTable_Churn: what comes and goes does not make the table grow.
func TestDBTable_Churn(t *testing.T) {
	tab := newDBTable()
	const live = 2000
	want := make(map[uint32]string)
	for n := range 30_000 {
		dir := fmt.Sprintf("/data/p%d/%s", n/10, strings.Repeat("d", n%200))
		name := fmt.Sprintf("%s%d.db", strings.Repeat("t", n%100), n)
		i, err := tab.Add(dir, []byte(name))
		if err != nil {
			t.Fatal(err)
		}
		want[i] = dir + "/" + name
		if _, err := tab.SetGroup(i, dir, name); err != nil {
			t.Fatal(err)
		}
		p := wal.Print{ID: wal.FileID{Dev: 1, Ino: uint64(n)}, Size: 1}
		tab.SetFingerprint(i, &sqlitefile.Fingerprint{Main: p, WAL: p}, true)
		if n >= live {
			tab.Remove((i + live/2) % live)
			delete(want, (i+live/2)%live)
		}
		if i >= live+1 {
			t.Fatalf("number %d with at most %d records", i, live+1)
		}
	}
	got := make(map[uint32]string)
	for i, s := range tab.All() {
		project, database := tab.Group(s.group)
		if got[i] = tab.Path(i); got[i] != project+"/"+database {
			t.Fatalf("group of %q is %q %q", got[i], project, database)
		}
		if at, ok := tab.FindPath(got[i]); !ok || at != i {
			t.Fatalf("FindPath(%q) = %d %v, want %d", got[i], at, ok, i)
		}
		if _, ok := tab.FindInode(tab.Fingerprint(i).Main.ID); !ok {
			t.Fatalf("record %d lost its inode", i)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("paths (-want +got):\n%s", diff)
	}
	pieces := len(tab.names.pieces) + len(tab.dirs.text.pieces) + len(tab.groups.text.pieces)
	if limit := 60; pieces > limit { // ~60 bytes of a name, ~110 of a directory, 170 of a group; twice that while half is dead
		t.Errorf("%d pieces of text for %d records, want at most %d", pieces, tab.Len(), limit)
	}
	if n := len(tab.logs.pieces); n > live/slabLen+1 {
		t.Errorf("%d pieces of log prints, want at most %d", n, live/slabLen+1)
	}
}

// fleet is a number of realistic paths, and what makes a table of them.
type fleet struct {
	dirs  []string
	names [][]byte
	fps   []sqlitefile.Fingerprint
	dirOf func(i int) int
}

func newFleet(n, dirN int, logs bool) *fleet {
	f := &fleet{dirOf: func(i int) int { return i / (n / dirN) }}
	for d := range dirN {
		f.dirs = append(f.dirs, fmt.Sprintf("/data/p%02d/databases/d%d/branches/main/tenants", d/10, d%10))
	}
	if dirN == n {
		for d := range dirN {
			f.dirs[d] = fmt.Sprintf("/data/p%02d/databases/d%d/branches/main/tenants/t%07d", d%10, d/10%10, d)
		}
	}
	for i := range n {
		f.names = append(f.names, fmt.Appendf(nil, "t%07d.db", i))
		now := int64(1_800_000_000_000_000_000) + int64(i)*1_234_567
		fp := sqlitefile.Fingerprint{Main: wal.Print{ID: wal.FileID{Dev: 64769, Ino: uint64(i) * 3}, Size: 12288, Mtime: now, Ctime: now + 1}}
		if logs {
			fp.WAL = wal.Print{ID: wal.FileID{Dev: 64769, Ino: uint64(i)*3 + 1}, Size: 8272, Mtime: now, Ctime: now}
		}
		f.fps = append(f.fps, fp)
	}
	return f
}

func (f *fleet) table(tb testing.TB) *dbTable {
	tb.Helper()
	t := newDBTable()
	for n := range f.names {
		d := f.dirOf(n)
		i, err := t.Add(f.dirs[d], f.names[n])
		if err != nil {
			tb.Fatal(err)
		}
		t.SetFingerprint(i, &f.fps[n], true)
		if _, err := t.SetGroup(i, "p"+strconv.Itoa(d/100), "d"+strconv.Itoa(d/10%10)); err != nil {
			tb.Fatal(err)
		}
		t.See(i)
	}
	return t
}

// heapAfter returns the bytes of the heap in use, and how many were ever
// allocated.
func heapAfter() (live, total uint64) {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the first one may only have queued finalizers
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, m.TotalAlloc
}

// TestDBTable_Memory measures what a cold database costs, all in: record,
// path, share of the indices, directories, groups and inodes, and of the queue
// that it once stood in.
func TestDBTable_Memory(t *testing.T) {
	const n, limit, aim = 100_000, 240, 120
	t.Logf("a record alone has %d bytes", unsafe.Sizeof(DBState{}))
	for _, tt := range []struct {
		name  string
		dirs  int
		logs  bool
		atAim bool
	}{
		{"resting", 100, false, true},
		{"with a log each", 100, true, false},
		{"with a log and a directory each, groups of ten", n, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(n, tt.dirs, tt.logs)
			before, totalBefore := heapAfter()
			tab := f.table(t)
			after, totalAfter := heapAfter()
			var q promotionQueue
			for i := range tab.All() {
				q.Push(i, queueFirst, time.Unix(0, 0))
			}
			for q.Len() > 0 {
				q.Pop(time.Unix(0, 0))
			}
			drained, _ := heapAfter()
			runtime.KeepAlive(f)
			runtime.KeepAlive(tab)
			runtime.KeepAlive(&q)
			per := float64(after-before) / n
			all := float64(drained-before) / n
			t.Logf("%d databases: %.1f bytes each, %.1f with the queue's share (limit %d, aim %d); allocated while growing: %.2f of what stays",
				n, per, all, limit, aim, float64(totalAfter-totalBefore)/float64(after-before))
			if all > limit {
				t.Errorf("%.1f bytes per database, limit %d", all, limit)
			}
			if tt.atAim && all > aim {
				t.Logf("%.1f bytes per database are over the aim of %d", all, aim)
			}
		})
	}
}

// TestDBTable_Growth: growing copies nothing large. All that was ever
// allocated stays near what is in use, so the peak does, too.
func TestDBTable_Growth(t *testing.T) {
	f := newFleet(100_000, 100, true)
	tab := newDBTable()
	before, totalBefore := heapAfter()
	for n := range f.names {
		i, err := tab.Add(f.dirs[f.dirOf(n)], f.names[n])
		if err != nil {
			t.Fatal(err)
		}
		tab.SetFingerprint(i, &f.fps[n], true)
		first := tab.At(0)
		if n%25_000 == 0 {
			defer func() {
				if tab.At(0) != first {
					t.Error("a record moved")
				}
			}()
		}
	}
	after, totalAfter := heapAfter()
	runtime.KeepAlive(f)
	ratio := float64(totalAfter-totalBefore) / float64(after-before)
	t.Logf("allocated %.2f times what stays", ratio)
	if ratio > 1.3 {
		t.Errorf("allocated %.2f times what stays, want at most 1.3", ratio)
	}
}

func TestDBTable_ScanAllocates(t *testing.T) {
	f := newFleet(1000, 10, true)
	tab := f.table(t)
	if got := testing.AllocsPerRun(10, func() { scanOnce(t, f, tab) }); got != 0 {
		t.Errorf("a scan of known files allocates %v times, want 0", got)
	}
}

// scanOnce does for each file what a scan does when nothing changed.
func scanOnce(tb testing.TB, f *fleet, tab *dbTable) {
	tb.Helper()
	tab.BeginScan()
	for n := range f.names {
		i, ok := tab.Find(f.dirs[f.dirOf(n)], f.names[n])
		if !ok || !tab.Matches(i, &f.fps[n]) {
			tb.Fatal("a database is not as it was")
		}
		tab.See(i)
	}
}

func TestDBState_Times(t *testing.T) {
	for _, tt := range []struct{ in, want time.Time }{
		{time.Time{}, time.Time{}},
		{time.Unix(1_800_000_000, 999), time.Unix(1_800_000_000, 0)},
		{time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(1<<32-1, 0)},
	} {
		s := DBState{changedAt: secondsOf(tt.in), since: secondsOf(tt.in), syncedAt: secondsOf(tt.in)}
		for _, got := range []time.Time{s.ChangedAt(), s.Since(), s.SyncedAt()} {
			if !got.Equal(tt.want) {
				t.Errorf("%v became %v, want %v", tt.in, got, tt.want)
			}
		}
	}
}

// TestDBState_Reused: nothing of a database that was removed is left to the
// next one of its number, and fingerprint and flags do not touch each other.
func TestDBState_Reused(t *testing.T) {
	tab := newDBTable()
	i, err := tab.Add("/d", []byte("n"))
	if err != nil {
		t.Fatal(err)
	}
	s := tab.At(i)
	s.state, s.txid = TenantHot, 7
	s.changedAt, s.since, s.syncedAt = 1, 2, 3
	for _, f := range []tenantFlags{tenantRecheck, tenantDeleted, tenantDoomed} {
		s.set(f, true)
	}
	p := wal.Print{ID: wal.FileID{Dev: 1, Ino: 2}, Size: 1}
	for _, fp := range []sqlitefile.Fingerprint{{Main: p, WAL: p}, {}, {Main: p}} {
		tab.SetFingerprint(i, &fp, true)
		if !s.has(tenantRecheck) || !s.has(tenantDeleted) || !s.has(tenantDoomed) || s.TXID() != 7 {
			t.Fatalf("SetFingerprint(%+v) changed something else: %+v", fp, *s)
		}
	}
	if s.set(tenantDeleted, false); s.has(tenantDeleted) || !s.has(tenantRecheck) {
		t.Errorf("flags are %b", s.flags)
	}
	tab.See(i)
	tab.Remove(i)
	again, err := tab.Add("/e", []byte("m"))
	if err != nil || again != i {
		t.Fatalf("Add = %d, %v, want %d", again, err, i)
	}
	want := DBState{dir: s.dir, name: s.name, nameLen: 1}
	if *tab.At(i) != want || tab.Seen(i) {
		t.Errorf("record is %+v, want %+v", *tab.At(i), want)
	}
}

func TestTenantState_String(t *testing.T) {
	want := []string{"unknown", "clean", "queued", "hot", "failed", "gone", "TenantState(6)"}
	for n, want := range want {
		s := DBState{state: TenantState(n)}
		if got := s.State().String(); got != want {
			t.Errorf("state %d is %q, want %q", n, got, want)
		}
	}
}

func BenchmarkDBTable_Scan(b *testing.B) {
	const n = 100_000
	for _, bb := range []struct {
		name    string
		dirs    int
		shuffle bool
		logs    bool
	}{{"resting", 100, false, false}, {"logs", 100, false, true}, {"shuffled", 100, true, true}, {"dirs=100k", n, false, false}} {
		b.Run("dbs=100k/"+bb.name, func(b *testing.B) {
			f := newFleet(n, bb.dirs, bb.logs)
			tab := f.table(b)
			if bb.shuffle { // within each directory
				rnd := rand.New(rand.NewPCG(1, 0))
				for from := 0; from < n; from += n / 100 {
					rnd.Shuffle(n/100, func(i, j int) {
						i, j = from+i, from+j
						f.names[i], f.names[j] = f.names[j], f.names[i]
						f.fps[i], f.fps[j] = f.fps[j], f.fps[i]
					})
				}
				for i, name := range f.names { // as a scanner has them, one behind the other
					f.names[i] = bytes.Clone(name)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				scanOnce(b, f, tab)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/database")
		})
	}
}

func BenchmarkDBTable_Load(b *testing.B) {
	const n = 100_000
	f := newFleet(n, 100, false)
	b.ReportAllocs()
	for b.Loop() {
		f.table(b)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/database")
}
