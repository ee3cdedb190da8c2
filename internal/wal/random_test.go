package wal_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// soak is how long a randomized test runs: LITESTREAM_SOAK, or the default.
func soak(t *testing.T, short, normal time.Duration) time.Duration {
	t.Helper()
	if s := os.Getenv("LITESTREAM_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if testing.Short() {
		return short
	}
	return normal
}

// seedOf returns LITESTREAM_SEED or a fresh seed, and prints it.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("LITESTREAM_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("LITESTREAM_SEED=%d", seed)
	return seed
}

// counts is how looks ended, by kind of step.
type counts map[string]map[wal.Reason]int

func (c counts) add(kind string, reason wal.Reason) {
	if c[kind] == nil {
		c[kind] = map[wal.Reason]int{}
	}
	c[kind][reason]++
}

func (c counts) total(kind string) (n int) {
	for _, v := range c[kind] {
		n += v
	}
	return n
}

// session is one random schedule on one database.
type session struct {
	*database
	t       *testing.T
	rng     *rand.Rand
	size    int // of pages
	conns   []*conn
	busy    map[*conn]bool // inside a transaction
	kid     *child
	unclean bool // a process died; the log may hold what nobody checkpointed
	persist bool // the last close leaves the log
	pic     *picture
	scratch string // a folder
	trace   []string
	counts  counts
}

// TestRandom compares, after each step of a random schedule, what the tails
// made of a picture with what SQLite reads.
func TestRandom(t *testing.T) {
	seed := seedOf(t)
	all := counts{}
	deadline := time.Now().Add(soak(t, time.Second, 5*time.Second))
	steps := 0
	for n := uint64(0); time.Now().Before(deadline); n++ {
		ok := t.Run(fmt.Sprint(n), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, n))
			s := &session{
				database: newDatabase(t), t: t, rng: rng, size: 512 << rng.IntN(4),
				busy: map[*conn]bool{}, counts: all, scratch: t.TempDir(),
			}
			defer func() {
				if t.Failed() {
					t.Logf("last steps: %q", s.trace[max(0, len(s.trace)-25):])
				}
			}()
			s.start()
			for i := 0; i < 250 && time.Now().Before(deadline); i++ {
				s.step()
				steps++
			}
		})
		if !ok {
			return
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		t.Logf("%-8s %5d looks: %v", kind, all.total(kind), all[kind])
	}
	t.Logf("%d steps", steps)
	// Behind the very same header nothing but a phantom may break the chain. A
	// restart is proven if the log had grown past what was captured at once.
	if got, all := all["same"][""], all.total("same"); all == 0 || got < all*99/100 {
		t.Errorf("%d of %d looks under the same header are proven, want all", got, all)
	}
	if all["restart"][""] == 0 {
		t.Error("no look over one restart is proven")
	}
}

func (s *session) start() {
	c := s.open(fmt.Sprintf("PRAGMA page_size=%d", s.size), fmt.Sprintf("PRAGMA auto_vacuum=%d", s.rng.IntN(3)), "PRAGMA journal_mode=wal")
	c.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, b)")
	for range 20 {
		c.exec("INSERT INTO t(b) VALUES(randomblob(200))")
	}
	s.conns = append(s.conns, c)
	s.configure(c)
	s.pic = s.take(wal.Options{})
}

func (s *session) configure(c *conn) {
	limits := []int64{-1, 0, frame(10, uint32(s.size)), frame(25, uint32(s.size)), 20000}
	c.exec("PRAGMA cache_size=5", "PRAGMA synchronous=off",
		fmt.Sprintf("PRAGMA wal_autocheckpoint=%d", []int{0, 0, 5, 40}[s.rng.IntN(4)]),
		fmt.Sprintf("PRAGMA journal_size_limit=%d", limits[s.rng.IntN(len(limits))]))
	s.persist = s.rng.IntN(4) == 0
	if s.persist {
		if err := c.SetFileControlInt("main", sqlite3.SQLITE_FCNTL_PERSIST_WAL, 1); err != nil {
			s.t.Fatal(err)
		}
	}
}

// do runs a statement that may find the database locked.
func (s *session) do(c *conn, query string) {
	s.t.Helper()
	err := c.try(query)
	s.busy[c] = !c.AutoCommit()
	if err != nil && !tolerable(err) {
		s.t.Fatalf("%s: %v", query, err)
	}
}

// idle returns a connection outside a transaction, or nil.
func (s *session) idle() *conn {
	for _, i := range s.rng.Perm(len(s.conns)) {
		if c := s.conns[i]; !s.busy[c] {
			return c
		}
	}
	return nil
}

// step does something at random, then usually looks.
func (s *session) step() {
	kind := "other"
	var name string
	c := s.idle()
	switch n := s.rng.IntN(100); {
	case c == nil && s.kid == nil && len(s.conns) == 0 && n < 20:
		name = "delete log"
		s.deleteLog()
	case c == nil:
		name = "open"
		s.connect()
	case n < 66:
		name, kind = randomWrite(s.rng), "write"
		s.do(c, name)
		if !c.AutoCommit() && s.rng.IntN(3) > 0 { // failed half way
			s.do(c, "ROLLBACK")
		}
	case n < 74:
		name = randomCheckpoint(s.rng)
		s.do(c, name)
	case n < 80:
		name = s.lifecycle(c)
	case n < 82:
		name = []string{"VACUUM", "PRAGMA incremental_vacuum(3)"}[s.rng.IntN(2)]
		s.do(c, name)
	case n < 90:
		name = s.transaction(c)
	default:
		name = s.process()
	}
	s.trace = append(s.trace, name)
	if s.rng.IntN(4) > 0 {
		s.lookAndCompare(kind)
	}
}

func (s *session) connect() {
	if len(s.conns) < 4 {
		c := s.open()
		s.configure(c)
		s.conns = append(s.conns, c)
	}
}

// lifecycle opens and closes connections and switches the journal mode.
func (s *session) lifecycle(c *conn) string {
	switch n := s.rng.IntN(8); {
	case n < 3:
		s.connect()
		return "open"
	case n < 5:
		c.Close()
		s.conns = slices.DeleteFunc(s.conns, func(x *conn) bool { return x == c })
		return "close"
	case n < 6:
		for _, c := range s.conns { // the last one to close cleans up
			c.Close()
		}
		s.conns, s.busy = nil, map[*conn]bool{}
		return "close all"
	case n < 7:
		s.configure(c)
		return "configure"
	default:
		// Only the last connection can switch; the others see "locked".
		mode := []string{"delete", "truncate", "persist"}[s.rng.IntN(3)]
		s.do(c, "PRAGMA journal_mode="+mode)
		if s.rng.IntN(3) > 0 {
			s.do(c, randomWrite(s.rng))
			if !c.AutoCommit() {
				s.do(c, "ROLLBACK")
			}
			s.lookAndCompare("other")
		}
		s.do(c, "PRAGMA journal_mode=wal")
		return "journal mode " + mode
	}
}

// transaction begins one that stays open over some steps, or ends one.
func (s *session) transaction(c *conn) string {
	for busy, in := range s.busy {
		if in && s.rng.IntN(2) == 0 {
			s.do(busy, []string{"COMMIT", "ROLLBACK"}[s.rng.IntN(2)])
			if s.busy[busy] {
				s.do(busy, "ROLLBACK")
			}
			return "end"
		}
	}
	if len(s.conns) < 2 || s.journalMode(c) != "wal" {
		return "nothing"
	}
	if s.rng.IntN(2) == 0 {
		s.do(c, "BEGIN")
		s.do(c, "SELECT count(*) FROM t")
		return "begin to read"
	}
	s.do(c, "BEGIN IMMEDIATE")
	s.do(c, fmt.Sprintf("UPDATE t SET b=randomblob(%d) WHERE id%%%d=0", s.rng.IntN(900), 1+s.rng.IntN(9)))
	return "begin to spill"
}

func (s *session) journalMode(c *conn) string {
	mode, _ := c.row("PRAGMA journal_mode")[0].(string)
	return mode
}

// process lets another process come, write, go or die.
func (s *session) process() string {
	if s.kid == nil {
		s.kid = startChild(s.t, s.path)
		s.kid.do("exec PRAGMA wal_autocheckpoint=%d", []int{0, 5, 1000}[s.rng.IntN(3)])
		s.kid.do("exec SELECT count(*) FROM t")
		return "child starts"
	}
	switch s.rng.IntN(8) {
	case 0:
		s.kid.close()
		s.kid = nil
		return "child ends"
	case 1:
		s.kid.killInside(s.rng.Uint64(), s.rng.IntN(20))
		s.kid, s.unclean = nil, true
		s.afterKill()
		return "child killed"
	default:
		s.kid.do("run %d %d", s.rng.Uint64(), 1+s.rng.IntN(4))
		return "child writes"
	}
}

// afterKill captures what the dead process left, a phantom perhaps. What the
// bytes say and what SQLite counts may differ until somebody writes.
func (s *session) afterKill() {
	if s.rng.IntN(2) == 0 {
		s.look("killed")
	}
	for s.idle() == nil {
		s.connect()
		if len(s.conns) == 4 {
			for c, in := range s.busy {
				if in {
					s.do(c, "ROLLBACK")
				}
			}
		}
	}
	for c, in := range s.busy {
		if in {
			s.do(c, "ROLLBACK")
		}
	}
	s.idle().exec("INSERT INTO t(b) VALUES(randomblob(300))")
	s.lookAndCompare("killed")
}

// deleteLog removes a log that a clean last close left behind.
func (s *session) deleteLog() {
	if s.unclean {
		return
	}
	for _, p := range []string{sqlitefile.WALPath(s.path), sqlitefile.SHMPath(s.path)} {
		if err := os.Remove(p); err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
	}
}

// look tails, and takes the whole picture if that is refused.
func (s *session) look(kind string) {
	s.t.Helper()
	if b, err := os.ReadFile(sqlitefile.WALPath(s.path)); err == nil && s.pic.cur.HasFrames() && kind != "killed" {
		if h, err := wal.ParseHeader(b); err == nil {
			salt1, _ := s.pic.cur.Salts()
			switch {
			case h.Raw == s.pic.cur.Header:
				kind = "same"
			case h.Salt1 == salt1+1:
				kind = "restart"
			}
		}
	}
	opt := wal.Options{SpoolDir: s.scratch}
	if s.rng.IntN(3) == 0 {
		opt.SpoolMemory = 1 + s.rng.IntN(20*s.size)
	}
	reason := s.tail(s.pic, opt)
	s.counts.add(kind, reason)
	s.trace = append(s.trace, "look: "+string(reason))
	if reason != "" {
		s.pic = s.take(opt)
	}
}

func (s *session) lookAndCompare(kind string) {
	s.t.Helper()
	s.look(kind)
	if got := differ(s.pic.bytes(), s.truth(), s.size); got != "" {
		s.t.Fatalf("%s look: %s", kind, got)
	}
}

// truth is the database as SQLite reads it. Nothing is opened or closed on a
// database that rests: a copy is.
func (s *session) truth() []byte {
	s.t.Helper()
	switch c := s.idle(); {
	case c != nil && s.journalMode(c) == "wal":
		return c.image()
	case c != nil:
		// With a rollback journal, pages that became free are changed in the
		// writer's cache only: read with another connection.
		fresh := openConn(s.t, s.path)
		defer fresh.Close()
		return fresh.image()
	case s.kid != nil:
		file := filepath.Join(s.scratch, "dump")
		s.kid.do("dump %s", file)
		b, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		return b
	case len(s.conns) > 0:
		s.connect()
		return s.conns[len(s.conns)-1].image()
	}
	st, err := s.raw.Stat()
	if err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, st.Size())
	if _, err := s.raw.ReadAt(b, 0); err != nil {
		s.t.Fatal(err)
	}
	clone := filepath.Join(s.scratch, "clone")
	if err := os.WriteFile(clone, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if b, err := os.ReadFile(sqlitefile.WALPath(s.path)); err == nil {
		if err := os.WriteFile(sqlitefile.WALPath(clone), b, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	c := openConn(s.t, clone)
	defer func() {
		c.Close() // removes the log, unless it was empty
		if err := os.RemoveAll(sqlitefile.WALPath(clone)); err != nil {
			s.t.Error(err)
		}
	}()
	return c.image()
}

// runner keeps one process writing, and can pause it between statements.
type runner struct {
	kid    *child
	paused sync.Mutex // held while it must not write
	stop   atomic.Bool
	done   chan error
}

func startRunner(t *testing.T, path string, seed uint64) *runner {
	t.Helper()
	r := &runner{kid: startChild(t, path), done: make(chan error, 1)}
	r.kid.do("exec PRAGMA busy_timeout=1000; PRAGMA wal_autocheckpoint=%d", 10+seed%50)
	go func() {
		for n := seed; ; n++ {
			r.paused.Lock()
			err := r.kid.send("run %d 20", n)
			if err == nil {
				err = r.kid.wait()
			}
			r.paused.Unlock()
			if err != nil || r.stop.Load() {
				r.done <- err
				return
			}
		}
	}()
	return r
}

// TestRandom_FreeWriters tails while two processes write and checkpoint as
// they like. They are paused only to compare, and to take a whole picture
// where a tail is refused.
func TestRandom_FreeWriters(t *testing.T) {
	seed := seedOf(t)
	d := newDatabase(t)
	c := d.open("PRAGMA page_size=512", "PRAGMA auto_vacuum=2", "PRAGMA journal_mode=wal", "CREATE TABLE t(id INTEGER PRIMARY KEY, b)")
	c.exec(fmt.Sprintf(generate, 100) + "INSERT INTO t(b) SELECT randomblob(200) FROM g")
	p := d.take(wal.Options{})
	runners := []*runner{startRunner(t, d.path, seed), startRunner(t, d.path, seed+1<<32)}
	pause := func(f func()) {
		for _, r := range runners {
			r.paused.Lock()
			defer r.paused.Unlock()
		}
		f()
	}
	reasons := counts{}
	compared := 0
	deadline := time.Now().Add(soak(t, time.Second, 3*time.Second))
	for n := 0; time.Now().Before(deadline); n++ {
		reason := d.tail(p, wal.Options{})
		reasons.add("free", reason)
		if reason == "" && n%20 != 0 {
			continue
		}
		pause(func() {
			if reason := d.tail(p, wal.Options{}); reason != "" {
				reasons.add("paused", reason)
				p = d.take(wal.Options{})
			} else {
				compared++
				reasons.add("paused", "")
			}
			p.check(c)
		})
	}
	for _, r := range runners {
		r.stop.Store(true)
		if err := <-r.done; err != nil {
			t.Errorf("runner: %v", err)
		}
		r.kid.close()
	}
	if d.tail(p, wal.Options{}) != "" {
		p = d.take(wal.Options{})
	}
	p.check(c)
	t.Logf("%d proven pictures compared; %v", compared, reasons)
	if compared == 0 {
		t.Error("no proven picture was compared")
	}
}
