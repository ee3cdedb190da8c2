package sqlitebtree_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-sqlite3"

	"github.com/benbjohnson/litestream/internal/sqlitebtree"
)

// database is a SQLite database of which the test takes images.
type database struct {
	tb   testing.TB
	db   *sql.DB
	path string
}

func newDatabase(tb testing.TB, pragmas ...string) *database {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "db")
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() { db.Close() })
	d := &database{tb, db, path}
	d.exec("PRAGMA synchronous=off")
	for _, p := range pragmas {
		d.exec("PRAGMA " + p)
	}
	return d
}

func (d *database) exec(query string, args ...any) {
	d.tb.Helper()
	if _, err := d.db.Exec(query, args...); err != nil {
		d.tb.Fatalf("%s: %v", query, err)
	}
}

func (d *database) number(query string) (n int) {
	d.tb.Helper()
	if err := d.db.QueryRow(query).Scan(&n); err != nil {
		d.tb.Fatalf("%s: %v", query, err)
	}
	return n
}

// reserve keeps some bytes at the end of each page free, as extensions that
// encrypt pages do.
func (d *database) reserve(n int) {
	d.tb.Helper()
	conn, err := d.db.Conn(d.tb.Context())
	if err != nil {
		d.tb.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Raw(func(c any) error {
		const reserveBytes = 38 // SQLITE_FCNTL_RESERVE_BYTES
		return c.(*sqlite3.SQLiteConn).SetFileControlInt("main", reserveBytes, n)
	}); err != nil {
		d.tb.Fatal(err)
	}
	if _, err := conn.ExecContext(d.tb.Context(), "VACUUM"); err != nil {
		d.tb.Fatal(err)
	}
}

// statistics returns how many pages SQLite's command line counts for each table
// and index; nil: it is not installed.
func (d *database) statistics() map[string]int {
	d.tb.Helper()
	cli, err := exec.LookPath("sqlite3")
	if err != nil {
		return nil
	}
	out, err := exec.CommandContext(d.tb.Context(), cli, d.path, "SELECT name, count(*) FROM dbstat GROUP BY name").Output()
	if err != nil {
		d.tb.Logf("no statistics: %v", err) // built without dbstat, or older than the database's schema
		return nil
	}
	pages := make(map[string]int)
	for line := range strings.Lines(string(out)) {
		name, n, _ := strings.Cut(strings.TrimSpace(line), "|")
		if pages[name], err = strconv.Atoi(n); err != nil {
			d.tb.Fatal(err)
		}
	}
	return pages
}

// image returns the bytes of the file.
func (d *database) image() []byte {
	d.tb.Helper()
	b, err := os.ReadFile(d.path)
	if err != nil {
		d.tb.Fatal(err)
	}
	return b
}

// rows returns all rows of a table by key.
func (d *database) rows(table, key, columns string) map[string]string {
	d.tb.Helper()
	rows, err := d.db.Query(fmt.Sprintf("SELECT %s, %s FROM %s", key, columns, table))
	if err != nil {
		d.tb.Fatal(err)
	}
	defer rows.Close()
	all := make(map[string]string)
	for rows.Next() {
		var k, v string
		if err := rows.Scan(&k, &v); err != nil {
			d.tb.Fatal(err)
		}
		all[k] = v
	}
	if err := rows.Err(); err != nil {
		d.tb.Fatal(err)
	}
	return all
}

// columns asks SQLite for the primary key of a table.
func (d *database) columns(_ *sqlitebtree.Map, table string) (columns []sqlitebtree.KeyColumn, err error) {
	rows, err := d.db.Query("SELECT coll, \"desc\" FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno", table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c sqlitebtree.KeyColumn
		if err := rows.Scan(&c.Collation, &c.Desc); err != nil {
			return nil, err
		}
		c.Collation = strings.ToUpper(c.Collation)
		columns = append(columns, c)
	}
	return columns, rows.Err()
}

func mapOf(tb testing.TB, image []byte) *sqlitebtree.Map {
	tb.Helper()
	f, err := sqlitebtree.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		tb.Fatal(err)
	}
	m, err := sqlitebtree.NewMap(tb.Context(), f)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func compare(tb testing.TB, before, after []byte) *sqlitebtree.Comparison {
	tb.Helper()
	c, err := sqlitebtree.Compare(tb.Context(), mapOf(tb, before), mapOf(tb, after))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// find returns a change by name; nil: there is none.
func find(c *sqlitebtree.Comparison, name string) *sqlitebtree.Change {
	for i := range c.Changes {
		if c.Changes[i].Name == name {
			return &c.Changes[i]
		}
	}
	return nil
}

// checkPages compares the pages of a comparison with the images.
func checkPages(tb testing.TB, c *sqlitebtree.Comparison, before, after []byte, pageSize int) {
	tb.Helper()
	want := sqlitebtree.PageCounts{Before: len(before) / pageSize, After: len(after) / pageSize}
	want.Added, want.Removed = max(0, want.After-want.Before), max(0, want.Before-want.After)
	for i := range min(want.Before, want.After) {
		if !bytes.Equal(before[i*pageSize:][:pageSize], after[i*pageSize:][:pageSize]) {
			want.Changed++
		}
	}
	if d := cmp.Diff(want, c.Pages()); d != "" {
		tb.Errorf("pages (-want +got):\n%s", d)
	}
	var sum sqlitebtree.PageCounts
	for _, ch := range c.Changes {
		sum.Before += ch.Pages.Before
		sum.After += ch.Pages.After
		if p := ch.Pages; p.Before-p.Removed+p.Added != p.After {
			tb.Errorf("%s: %+v does not add up", ch.Name, p)
		}
	}
	if sum.Before != want.Before || sum.After != want.After {
		tb.Errorf("the changes have %d and %d pages, want %d and %d", sum.Before, sum.After, want.Before, want.After)
	}
}

// model is a database of tables of all kinds that is changed at random.
type model struct {
	*database

	rnd *rand.Rand
}

var modelTables = []struct{ name, key, columns string }{
	{"a", "id", "typeof(v)||coalesce(hex(v),'')||'/'||coalesce(n,'')"}, // substr of an empty blob is NULL
	{"b", "rowid", "hex(v)"},
	{"w", "k", "hex(v)"},
	{"x", "p||'|'||q", "hex(v)"},
}

func newModel(tb testing.TB, rnd *rand.Rand, pageSize int) *model {
	tb.Helper()
	d := newDatabase(tb, fmt.Sprintf("page_size=%d", pageSize), fmt.Sprintf("auto_vacuum=%d", rnd.IntN(3)),
		fmt.Sprintf("encoding='%s'", []string{"UTF-8", "UTF-16le", "UTF-16be"}[rnd.IntN(3)]))
	if rnd.IntN(3) == 0 {
		d.reserve(1 + rnd.IntN(32))
	}
	for _, q := range []string{
		"CREATE TABLE a (id INTEGER PRIMARY KEY, v BLOB, n INT, g AS (n+1) STORED, h AS (n+2))",
		"CREATE INDEX a_n ON a (n, substr(hex(v),1,20))",
		"CREATE TABLE b (v BLOB UNIQUE)",
		"CREATE TABLE w (k TEXT COLLATE NOCASE PRIMARY KEY, v BLOB) WITHOUT ROWID",
		"CREATE TABLE x (v BLOB, p REAL, q TEXT, PRIMARY KEY (q DESC, p)) WITHOUT ROWID",
		"CREATE VIEW vw AS SELECT * FROM a",
		"CREATE VIRTUAL TABLE r USING rtree (id, x0, x1)",
	} {
		d.exec(q)
	}
	return &model{d, rnd}
}

func (m *model) blob() []byte {
	b := make([]byte, []int{0, 10, 100, 2000, 20000}[m.rnd.IntN(5)])
	for i := range b {
		b[i] = byte(m.rnd.Uint32())
	}
	return b
}

func (m *model) change() {
	m.tb.Helper()
	id := m.rnd.IntN(400) - 50
	key := fmt.Sprintf("kEy%d%s", id, strings.Repeat("z", m.rnd.IntN(3)*120))
	switch m.rnd.IntN(12) {
	case 0, 1:
		m.exec("INSERT OR REPLACE INTO a (id, v, n) VALUES (?, ?, ?)", id, m.blob(), id%9)
	case 2:
		m.exec("UPDATE a SET v=? WHERE id=?", m.blob(), id)
	case 3: // the same size: SQLite may write over it
		m.exec("UPDATE a SET v=CAST(substr(v,1,length(v)-1)||? AS BLOB) WHERE id=?", []byte{byte(id)}, id)
	case 4:
		m.exec("DELETE FROM a WHERE id BETWEEN ? AND ?", id, id+m.rnd.IntN(20))
	case 5:
		m.exec("INSERT OR IGNORE INTO b (rowid, v) VALUES (?, ?)", int64(id)<<40, m.blob())
	case 6:
		m.exec("DELETE FROM b WHERE rowid%7=?", m.rnd.IntN(7))
	case 7:
		m.exec("INSERT OR REPLACE INTO w VALUES (?, ?)", key, m.blob())
	case 8:
		m.exec("DELETE FROM w WHERE k=?", strings.ToUpper(key))
	case 9:
		m.exec("INSERT OR REPLACE INTO x VALUES (?, ?, ?)", m.blob(), float64(id)/3, fmt.Sprint(id%5))
	case 10:
		m.exec("DELETE FROM x WHERE p<?", float64(id)/3-10)
	case 11:
		m.exec("INSERT OR REPLACE INTO r VALUES (?, ?, ?)", id, id, id+1)
	}
}

// structure changes more than rows.
func (m *model) structure() {
	m.tb.Helper()
	switch m.rnd.IntN(6) {
	case 0:
		m.exec("VACUUM")
	case 1:
		m.exec("PRAGMA incremental_vacuum")
	case 2:
		m.exec("CREATE INDEX IF NOT EXISTS b_len ON b (length(v))")
	case 3:
		m.exec("DROP INDEX IF EXISTS b_len")
	case 4:
		m.exec("CREATE TABLE IF NOT EXISTS extra (id INTEGER PRIMARY KEY, v)")
		m.exec("INSERT INTO extra (v) VALUES (?)", m.blob())
	case 5:
		m.exec("DROP TABLE IF EXISTS extra")
	}
}

func (m *model) state() (all []map[string]string) {
	m.tb.Helper()
	for _, t := range modelTables {
		all = append(all, m.rows(t.name, t.key, t.columns))
	}
	return all
}

// TestCompare_Random compares random states with what SQLite says of them.
func TestCompare_Random(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	for round := range rounds {
		rnd := rand.New(rand.NewPCG(seed, uint64(round)))
		pageSize := 512 << rnd.IntN(8)
		m := newModel(t, rnd, pageSize)
		for range rnd.IntN(300) {
			m.change()
		}
		before, was := m.image(), m.state()
		for range 1 + rnd.IntN(60) {
			if m.change(); rnd.IntN(20) == 0 {
				m.structure()
			}
		}
		after, is := m.image(), m.state()
		c := compare(t, before, after)
		checkPages(t, c, before, after, pageSize)
		for _, side := range []*sqlitebtree.Map{mapOf(t, before), mapOf(t, after)} {
			if side.DamageN > 0 {
				t.Errorf("round %d: damage %q", round, side.Damage)
			}
		}
		if unused := find(c, sqlitebtree.UnusedPages).Pages; unused.Before+unused.After > 0 {
			t.Errorf("round %d: unreachable pages %+v", round, unused)
		}
		if got, want := find(c, sqlitebtree.FreePages).Pages.After, m.number("PRAGMA freelist_count"); got != want {
			t.Errorf("round %d: %d free pages, want %d", round, got, want)
		}
		for name, want := range m.statistics() {
			if got := find(c, name).Pages.After; got != want {
				t.Errorf("round %d: %s has %d pages, want %d", round, name, got, want)
			}
		}
		for i, table := range modelTables {
			want := sqlitebtree.Rows{}
			for k, v := range is[i] {
				if old, ok := was[i][k]; !ok {
					want.Inserted++
				} else if old != v {
					want.Changed++
				}
			}
			for k := range was[i] {
				if _, ok := is[i][k]; !ok {
					want.Deleted++
				}
			}
			got, err := c.Rows(t.Context(), find(c, table.name), 0, m.columns)
			if err != nil {
				t.Fatalf("round %d: %s: %v", round, table.name, err)
			}
			if d := cmp.Diff(&want, got); d != "" {
				t.Errorf("round %d: rows of %s, page size %d (-want +got):\n%s", round, table.name, pageSize, d)
			}
		}
		if t.Failed() {
			return
		}
	}
}

// TestCompare_Schema changes tables and not only rows.
func TestCompare_Schema(t *testing.T) {
	d := newDatabase(t)
	fill := "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<300)"
	d.exec("CREATE TABLE old (id INTEGER PRIMARY KEY, v)")
	d.exec(fill + " INSERT INTO old SELECT i, hex(randomblob(20)) FROM n")
	d.exec("CREATE TABLE wider (id INTEGER PRIMARY KEY, v)")
	d.exec(fill + " INSERT INTO wider SELECT i, hex(randomblob(20)) FROM n")
	d.exec("CREATE TABLE re (k TEXT PRIMARY KEY)")
	d.exec("CREATE TABLE same (id INTEGER PRIMARY KEY, v)")
	d.exec(fill + " INSERT INTO same SELECT i, 'x' FROM n")
	before := d.image()
	d.exec("DROP TABLE old")
	d.exec("ALTER TABLE wider ADD COLUMN c DEFAULT 5")
	d.exec("UPDATE wider SET c=6 WHERE id=7")
	d.exec("DROP TABLE re")
	d.exec("CREATE TABLE re (k TEXT PRIMARY KEY) WITHOUT ROWID")
	d.exec("CREATE TABLE new (k TEXT, j INT, PRIMARY KEY (k, j)) WITHOUT ROWID")
	d.exec("INSERT INTO new VALUES ('it''s', 2), ('ü" + strings.Repeat("ü", 60) + "', x'ab')")
	d.exec("CREATE VIEW vw AS SELECT 1")
	after := d.image()
	c := compare(t, before, after)
	checkPages(t, c, before, after, 4096)
	rows := func(name string) (string, error) {
		r, err := c.Rows(t.Context(), find(c, name), 2, d.columns)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("+%d -%d ~%d %v", r.Inserted, r.Deleted, r.Changed, r.Keys), nil
	}
	for _, tt := range []struct {
		name          string
		before, after bool
		schema        bool
		rows          string
	}{
		{"old", true, false, false, "+0 -300 ~0 [{deleted 1} {deleted 2}]"},
		{"wider", true, true, true, "+0 -0 ~1 [{changed 7}]"},
		{"same", true, true, false, "+0 -0 ~0 []"},
		{"new", false, true, false, "+2 -0 ~0 [{inserted 'it''s',2} {inserted '" + strings.Repeat("ü", 32) + "'…,x'ab'}]"},
		{"sqlite_autoindex_re_1", true, false, false, ""},
		{"vw", false, true, false, ""},
	} {
		ch := find(c, tt.name)
		if ch == nil || (ch.Before != nil) != tt.before || (ch.After != nil) != tt.after || ch.SchemaDiffers() != tt.schema || ch.Differs() == (tt.name == "same") {
			t.Errorf("%s: got %+v", tt.name, ch)
			continue
		}
		if tt.rows == "" {
			continue
		}
		if got, err := rows(tt.name); got != tt.rows || err != nil {
			t.Errorf("rows of %s: %s, %v; want %s", tt.name, got, err, tt.rows)
		}
	}
	if _, err := rows("re"); !errors.Is(err, sqlitebtree.ErrNoRows) {
		t.Errorf("of a table that lost its rowids: %v, want ErrNoRows", err)
	}
}

// TestCompare_PageSize compares across a VACUUM that changed the size of pages.
func TestCompare_PageSize(t *testing.T) {
	d := newDatabase(t, "page_size=1024")
	d.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
	d.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<200) INSERT INTO t SELECT i, randomblob(i*20) FROM n")
	before := d.image()
	d.exec("UPDATE t SET v=randomblob(5000) WHERE id%10=1")
	d.exec("DELETE FROM t WHERE id>195")
	d.exec("PRAGMA page_size=4096")
	d.exec("VACUUM")
	after := d.image()
	c := compare(t, before, after)
	n, m := len(before)/1024, len(after)/4096
	if d := cmp.Diff(sqlitebtree.PageCounts{Before: n, After: m, Added: m, Removed: n}, c.Pages()); d != "" {
		t.Errorf("pages (-want +got):\n%s", d)
	}
	got, err := c.Rows(t.Context(), find(c, "t"), 0, nil)
	if err != nil || got.Changed != 20 || got.Deleted != 5 || got.Inserted != 0 {
		t.Errorf("rows %+v, error %v; want 20 changed and 5 deleted", got, err)
	}
}

// TestCompare_Collation refuses to compare keys whose order is not known.
func TestCompare_Collation(t *testing.T) {
	d := newDatabase(t)
	d.exec("CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID")
	before := d.image()
	d.exec("INSERT INTO w VALUES ('a', 1), ('B', 1)")
	c := compare(t, before, d.image())
	for _, columns := range []sqlitebtree.KeyColumns{
		func(*sqlitebtree.Map, string) ([]sqlitebtree.KeyColumn, error) {
			return []sqlitebtree.KeyColumn{{Collation: "GERMAN"}}, nil
		},
		func(*sqlitebtree.Map, string) ([]sqlitebtree.KeyColumn, error) { return nil, nil },
		func(*sqlitebtree.Map, string) ([]sqlitebtree.KeyColumn, error) { return nil, io.ErrClosedPipe },
		func(*sqlitebtree.Map, string) ([]sqlitebtree.KeyColumn, error) { // and one that is wrong
			return []sqlitebtree.KeyColumn{{Collation: "BINARY", Desc: true}}, nil
		},
	} {
		if got, err := c.Rows(t.Context(), find(c, "w"), 0, columns); !errors.Is(err, sqlitebtree.ErrNoRows) {
			t.Errorf("got %+v, %v; want ErrNoRows", got, err)
		}
	}
}

// sparse is a file whose end is a hole.
type sparse struct{ data []byte }

func (s sparse) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	if off < int64(len(s.data)) {
		copy(b, s.data[off:])
	}
	return len(b), nil
}

func TestMap_LockPage(t *testing.T) {
	d := newDatabase(t, "page_size=65536", "auto_vacuum=1")
	d.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
	f, err := sqlitebtree.Open(sparse{d.image()}, 1<<30+2<<16)
	if err != nil {
		t.Fatal(err)
	}
	m, err := sqlitebtree.NewMap(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	c, err := sqlitebtree.Compare(t.Context(), m, m)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{sqlitebtree.LockPage: 1, sqlitebtree.PtrMapPages: 2, "t": 1, "sqlite_schema": 1, sqlitebtree.UnusedPages: 1<<14 + 2 - 5} {
		if got := find(c, name).Pages; got != (sqlitebtree.PageCounts{Before: want, After: want}) {
			t.Errorf("%s: %+v, want %d pages", name, got, want)
		}
	}
}

func TestOpen(t *testing.T) {
	good := newDatabase(t)
	good.exec("CREATE TABLE t (a)")
	image := good.image()
	edit := func(at int, b ...byte) []byte {
		e := bytes.Clone(image)
		copy(e[at:], b)
		return e
	}
	for name, data := range map[string][]byte{
		"empty": nil, "short": image[:99], "encrypted": edit(0, 1), "page size": edit(16, 3, 0), "reserved": edit(16, 2, 0, 1, 1, 100), "cut": image[:5000],
	} {
		if _, err := sqlitebtree.Open(bytes.NewReader(data), int64(len(data))); !errors.Is(err, sqlitebtree.ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
}

// TestMap_Damage says of which table pages are wrong, and goes on.
func TestMap_Damage(t *testing.T) {
	d := newDatabase(t, "page_size=512")
	for _, table := range []string{"good", "bad"} {
		d.exec("CREATE TABLE " + table + " (id INTEGER PRIMARY KEY, v)")
		d.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<300) INSERT INTO " + table + " SELECT i, randomblob(100) FROM n")
	}
	image := d.image()
	root := d.number("SELECT rootpage FROM sqlite_schema WHERE name='bad'")
	copy(image[(root-1)*512+8:], []byte{0, 0, 0, byte(root)}) // a loop
	c := compare(t, d.image(), image)
	ch := find(c, "bad")
	if ch.After.Damage != fmt.Sprintf("page %d belongs to table bad too", root) || find(c, "good").After.Damage != "" {
		t.Errorf("damage %q and %q", ch.After.Damage, find(c, "good").After.Damage)
	}
	if _, err := c.Rows(t.Context(), ch, 0, nil); !errors.Is(err, sqlitebtree.ErrNoRows) {
		t.Errorf("rows: %v, want ErrNoRows", err)
	}
	if got := mapOf(t, image); got.DamageN != 1 || !strings.HasPrefix(got.Damage[0], "table bad: ") {
		t.Errorf("damage %q", got.Damage)
	}
}

func TestCompare_Canceled(t *testing.T) {
	d := newDatabase(t, "page_size=512")
	d.exec("CREATE TABLE t (v)")
	d.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<2000) INSERT INTO t SELECT randomblob(400) FROM n")
	image := d.image()
	m := mapOf(t, image)
	f, err := sqlitebtree.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if _, err := sqlitebtree.NewMap(ctx, f); !errors.Is(err, why) {
		t.Errorf("map: %v", err)
	}
	if _, err := sqlitebtree.Compare(ctx, m, m); !errors.Is(err, why) {
		t.Errorf("compare: %v", err)
	}
	empty := newDatabase(t)
	empty.exec("CREATE TABLE t (v)")
	c := compare(t, empty.image(), image)
	if _, err := c.Rows(ctx, find(c, "t"), 0, nil); !errors.Is(err, why) {
		t.Errorf("rows: %v", err)
	}
}

// FuzzCompare walks through damaged databases.
func FuzzCompare(f *testing.F) {
	d := newDatabase(f, "page_size=512", "auto_vacuum=1")
	for _, q := range []string{
		"CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
		"CREATE INDEX t_v ON t (v)",
		"CREATE TABLE w (k PRIMARY KEY, v) WITHOUT ROWID",
		"WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<40) INSERT INTO t SELECT i, zeroblob(i*i) FROM n",
		"INSERT INTO w SELECT v, id FROM t",
		"DELETE FROM t WHERE id>30",
	} {
		d.exec(q)
	}
	base := d.image()
	f.Add(base)
	for _, at := range []int{30, 100, 105, 108, 511, 600, 1030, 1032, 2048, 2056} {
		b := bytes.Clone(base)
		b[at] ^= 0xff
		f.Add(b)
	}
	whole := mapOf(f, base)
	columns := func(*sqlitebtree.Map, string) ([]sqlitebtree.KeyColumn, error) {
		return []sqlitebtree.KeyColumn{{Collation: "BINARY"}}, nil
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := sqlitebtree.Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		m, err := sqlitebtree.NewMap(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		for _, pair := range [][2]*sqlitebtree.Map{{whole, m}, {m, whole}, {m, m}} {
			c, err := sqlitebtree.Compare(t.Context(), pair[0], pair[1])
			if err != nil {
				t.Fatal(err)
			}
			var pages int
			for i := range c.Changes {
				ch := &c.Changes[i]
				pages += ch.Pages.After
				rows, err := c.Rows(t.Context(), ch, 3, columns)
				if err != nil && !errors.Is(err, sqlitebtree.ErrNoRows) {
					t.Fatal(err)
				}
				if err == nil && pair[0] == pair[1] && rows.Inserted+rows.Deleted+rows.Changed > 0 {
					t.Errorf("%s differs from itself: %+v", ch.Name, rows)
				}
			}
			if pages != int(pair[1].File().PageN()) {
				t.Errorf("%d pages, want %d", pages, pair[1].File().PageN())
			}
		}
	})
}
