package faults_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/knob"
	"github.com/benbjohnson/litestream/tests/servers"
)

// How many databases a daemon replicates, of each kind.
const (
	listedN = 2
	foundN  = 2
)

// waitTime is how long a test waits for anything.
const waitTime = 3 * time.Minute

// maxGoroutines bounds the goroutines of a daemon: of its pools, of the SQLite
// driver and of its connections, of which each has two.
const maxGoroutines = 90

// A daemon replicates databases, listed and found by pattern, through a bad
// network, while applications write to them.
type daemon struct {
	t     *testing.T
	name  string
	place *place
	tcp   *servers.Proxy
	http  *servers.HTTPProxy // nil where the server speaks no HTTP
	log   logLines
	seed  uint64
	rng   *rand.Rand

	store   *litestream.Store
	m       *litestream.MultiDBManager
	release func()
	apps    []*app

	direct        litestream.ReplicaClient // past the proxies
	releaseDirect func()

	wg     sync.WaitGroup
	ending chan struct{}

	goroutines atomic.Int64 // most that were seen
}

// An app is an application with its database.
type app struct {
	d     *daemon
	path  string
	under string // path of the replica below that of all
	db    *sql.DB
	found bool // by pattern

	mu    sync.Mutex // guards the rest
	n     int        // rows that were committed
	marks []mark
}

// A mark is a position that the replica acknowledged, and how many rows there
// were at most when it was seen.
type mark struct {
	txid ltx.TXID
	most int
}

func newDaemon(t *testing.T, b *backend, seed uint64, durable bool) *daemon {
	t.Helper()
	d := &daemon{
		t: t, name: t.Name(), place: b.start(t, durable), seed: seed, rng: rand.New(rand.NewPCG(seed, 2)),
		ending: make(chan struct{}),
	}
	d.log.t = t
	target := d.place.target
	if b.busy != nil {
		d.http = servers.NewHTTPProxy(t, target, seed)
		target = d.http.Addr
	}
	d.tcp = servers.NewProxy(t, target)
	var base litestream.ReplicaClient
	base, d.release = d.place.client(d.tcp.Addr, patience)
	direct := d.place.target
	if u, err := url.Parse(direct); err == nil && u.Host != "" {
		direct = u.Host
	}
	d.direct, d.releaseDirect = d.place.client(direct, waitTime)
	d.open(base)
	return d
}

func (d *daemon) open(base litestream.ReplicaClient) {
	d.t.Helper()
	dir := d.t.TempDir()
	data := filepath.Join(dir, "found")
	if err := os.MkdirAll(data, 0o755); err != nil {
		d.t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(&d.log, nil))
	levels := litestream.CompactionLevels{{Level: 0}, {Level: 1, Interval: 2 * time.Second}, {Level: 2, Interval: 6 * time.Second}}
	prefixer := base.(litestream.Prefixer)
	var dbs []*litestream.DB
	for i := range listedN {
		a := d.newApp(filepath.Join(dir, fmt.Sprintf("listed%d.db", i)), fmt.Sprintf("base/listed%d", i), false)
		db := litestream.NewDB(a.path)
		db.MonitorInterval, db.Logger = 100*time.Millisecond, logger
		db.Replica = litestream.NewReplicaWithClient(db, d.under(prefixer, a.under))
		db.Replica.SyncInterval = 100 * time.Millisecond
		dbs = append(dbs, db)
	}
	for i := range foundN {
		d.newApp(filepath.Join(data, fmt.Sprintf("t%d.db", i)), fmt.Sprintf("base/fleet/t%d", i), true)
	}

	cfg := litestream.NewMultiDBConfig()
	cfg.Patterns, cfg.ReplicaPath, cfg.StateDir = []string{data + "/{{tenant}}.db"}, "base/fleet/{{tenant}}", filepath.Join(dir, "state")
	cfg.ScanInterval, cfg.HotDuration = 300*time.Millisecond, 2*time.Second
	cfg.MaxHotDatabases = 1 // the others have to wait
	cfg.Limits = litestream.MultiDBLimits{Connections: 4, MonitorWorkers: 4, SnapshotWorkers: 2, ReplicaWorkers: 8, S3Connections: maxConns}
	d.store = litestream.NewStore(dbs, levels)
	d.store.MonitorWorkers, d.store.SnapshotWorkers, d.store.ReplicaWorkers = 4, 2, 8
	d.store.Connections, d.store.Logger = 4, logger
	d.store.ShutdownSyncTimeout = waitTime
	d.store.Tune(knob.Store{RetryDelay: 50 * time.Millisecond, LogInterval: 3 * time.Second})
	m, err := litestream.NewMultiDBManager(cfg, d.store, litestream.TenantClients{
		Root: d.under(prefixer, "base/fleet"),
		Tenant: func(t *litestream.Tenant) (litestream.ReplicaClient, error) {
			return d.under(prefixer, t.ReplicaPath), nil
		},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	m.Tune(knob.Fleet{Monitor: 100 * time.Millisecond, RetryMax: 300 * time.Millisecond})
	m.Levels, m.SyncInterval, m.Logger = levels, 100*time.Millisecond, logger
	d.m = m

	// Whatever the daemon starts inherits the label.
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("daemon", d.name)))
	err = m.Open(context.Background())
	pprof.SetGoroutineLabels(context.Background())
	if err != nil {
		d.t.Fatal(err)
	}
	d.wg.Go(d.write)
	d.wg.Go(d.watch)
	d.t.Cleanup(func() { // after a failure
		d.tcp.Resume()
		d.endWriters()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = m.Close(ctx)
		d.release()
		d.releaseDirect()
	})
}

// under returns a client of a path on the server.
func (d *daemon) under(p litestream.Prefixer, path string) litestream.ReplicaClient {
	return p.WithPrefix(d.place.root + path)
}

func (d *daemon) newApp(path, under string, found bool) *app {
	d.t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=10000&_journal_mode=WAL&_synchronous=NORMAL")
	if err != nil {
		d.t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	a := &app{d: d, path: path, under: under, db: db, found: found}
	if _, err := db.Exec("CREATE TABLE ledger (n INTEGER PRIMARY KEY, what BLOB)"); err != nil {
		d.t.Fatal(err)
	}
	d.apps = append(d.apps, a)
	return a
}

// row is the content of a row, of some hundred to some thousand bytes.
func (a *app) row(n int) []byte {
	sum := sha256.Sum256(fmt.Append(nil, a.d.seed, a.under, n))
	b := make([]byte, 300+10*int(sum[0]))
	_, _ = rand.NewChaCha8(sum).Read(b) // never fails
	return b
}

func (a *app) commit() error {
	a.mu.Lock()
	n := a.n + 1
	a.mu.Unlock()
	if _, err := a.db.Exec("INSERT INTO ledger VALUES (?, ?)", n, a.row(n)); err != nil {
		return err
	}
	a.mu.Lock()
	a.n = n
	a.mu.Unlock()
	return nil
}

// rows returns how many rows were committed.
func (a *app) rows() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

// acked returns the newest position that the daemon says the replica holds.
func (a *app) acked() ltx.TXID {
	if !a.found {
		return a.d.store.FindDB(a.path).Replica.Pos().TXID
	}
	info, err := a.d.m.Tenant(a.path)
	if err != nil {
		return 0 // it was not found yet
	}
	return info.TXID
}

// note remembers what is acknowledged now.
func (a *app) note() {
	txid := a.acked()
	a.mu.Lock()
	defer a.mu.Unlock()
	if k := len(a.marks); txid > 0 && (k == 0 || a.marks[k-1].txid < txid) {
		a.marks = append(a.marks, mark{txid, a.n})
	}
}

// write lets all applications write until the end.
func (d *daemon) write() {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-d.ending:
			return
		case <-tick.C:
		}
		a := d.apps[i%len(d.apps)]
		if err := a.commit(); err != nil {
			d.t.Errorf("write to %s: %v", a.path, err)
			return
		}
		for _, a := range d.apps {
			a.note()
		}
	}
}

// watch counts the daemon's goroutines from time to time.
func (d *daemon) watch() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-d.ending:
			return
		case <-tick.C:
		}
		d.goroutines.Store(max(d.goroutines.Load(), int64(d.countGoroutines())))
	}
}

// countGoroutines returns how many goroutines the daemon has.
func (d *daemon) countGoroutines() int {
	n, err := profile.count(d.name)
	if err != nil {
		d.t.Errorf("read goroutine profile: %v", err)
	}
	return n
}

// goroutineProfile counts the goroutines of all daemons at once, as a profile
// is dear.
type goroutineProfile struct {
	mu     sync.Mutex // guards the rest
	at     time.Time
	counts map[string]int // by daemon
}

var profile goroutineProfile

func (p *goroutineProfile) count(name string) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) < 500*time.Millisecond {
		return p.counts[name], nil
	}
	var buf bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&buf, 1); err != nil {
		return 0, err
	}
	p.at, p.counts = time.Now(), make(map[string]int)
	n := 0 // of the stack that the lines are about
	for line := range strings.Lines(buf.String()) {
		if count, _, ok := strings.Cut(line, " @ "); ok {
			var err error
			if n, err = strconv.Atoi(count); err != nil {
				return 0, err
			}
		} else if label, ok := strings.CutPrefix(line, `# labels: {"daemon":"`); ok {
			label, _, _ = strings.Cut(label, `"`)
			p.counts[label] += n
		}
	}
	return p.counts[name], nil
}

func (d *daemon) endWriters() {
	select {
	case <-d.ending:
		return
	default:
	}
	close(d.ending)
	d.wg.Wait()
	for _, a := range d.apps {
		if err := a.db.Close(); err != nil {
			d.t.Error(err)
		}
	}
}

// finish ends everything and compares all there is.
func (d *daemon) finish() {
	d.t.Helper()
	d.endWriters()
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	if err := d.m.Close(ctx); err != nil {
		d.t.Errorf("close: %v", err)
	}
	d.release()
	d.await("goroutines to end", func() bool { return d.countGoroutines() == 0 })
	restored := 0
	for _, a := range d.apps {
		last, err := a.restore(d.direct, 0)
		if want := a.rows(); err != nil || last != want {
			d.t.Errorf("%s: %d rows restored of %d: %v", a.under, last, want, err)
		}
		a.compare()
		restored += a.restoreMarks()
	}
	d.t.Logf("%d rows, %d positions restored, at most %d goroutines", d.apps[0].rows(), restored, d.goroutines.Load())
	if most := d.goroutines.Load(); most > maxGoroutines || most == 0 {
		d.t.Errorf("there were up to %d goroutines, want 1 to %d", most, maxGoroutines)
	}
}

// marksN is how many positions of a database are restored at the end.
const marksN = 4

// restoreMarks restores some of the positions that were acknowledged.
func (a *app) restoreMarks() int {
	t := a.d.t
	t.Helper()
	a.d.rng.Shuffle(len(a.marks), func(i, j int) { a.marks[i], a.marks[j] = a.marks[j], a.marks[i] })
	marks := a.marks[:min(len(a.marks), marksN)]
	slices.SortFunc(marks, func(x, y mark) int { return int(x.txid) - int(y.txid) })
	before := 0
	for _, mk := range marks {
		n, err := a.restore(a.d.direct, mk.txid)
		if err != nil || n < before || n > mk.most {
			t.Errorf("%s at %s: %d rows, want %d to %d: %v", a.under, mk.txid, n, before, mk.most, err)
		}
		before = n
	}
	return len(marks)
}

// restore restores a position, or the newest, and returns how many rows it
// has. Other rows than the first ones are an error.
func (a *app) restore(base litestream.ReplicaClient, txid ltx.TXID) (n int, err error) {
	dir, err := os.MkdirTemp(a.d.t.TempDir(), "restore")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	out := filepath.Join(dir, "out.db")
	if err := a.restoreTo(base, out, txid); err != nil {
		return 0, err
	}
	db, err := sql.Open("sqlite3", "file:"+out)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		return 0, fmt.Errorf("integrity check: %s: %w", verdict, err)
	}
	rows, err := db.Query("SELECT n, what FROM ledger ORDER BY n")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var k int
		var what []byte
		if err := rows.Scan(&k, &what); err != nil {
			return 0, err
		}
		if n++; k != n || !bytes.Equal(what, a.row(k)) {
			return 0, fmt.Errorf("row %d at place %d, with right content: %t", k, n, bytes.Equal(what, a.row(k)))
		}
	}
	return n, rows.Err()
}

func (a *app) restoreTo(base litestream.ReplicaClient, out string, txid ltx.TXID) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	opt := litestream.NewRestoreOptions()
	opt.OutputPath, opt.TXID = out, txid
	_, err := litestream.Restore(ctx, a.d.under(base.(litestream.Prefixer), a.under), opt)
	return err
}

// compare compares the newest restored database with the source, byte by byte.
// Nobody uses either any more.
func (a *app) compare() {
	t := a.d.t
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+a.path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "newest.db")
	if err := a.restoreTo(a.d.direct, out, 0); err != nil {
		t.Errorf("%s: %v", a.under, err)
		return
	}
	want, err := os.ReadFile(a.path)
	got, err2 := os.ReadFile(out)
	if err := errors.Join(err, err2); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: restored %d bytes are not the source's %d: %v", a.under, len(got), len(want), err)
	}
}

// await waits until something is so.
func (d *daemon) await(what string, cond func() bool) {
	d.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(waitTime); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			for _, a := range d.apps {
				info, _ := d.m.Tenant(a.path) // the zero value of a listed one
				d.t.Logf("%s: %d rows, acknowledged %s, %+v", a.under, a.rows(), a.acked(), info)
			}
			d.t.Fatalf("waited %s for %s; the log:\n%s", waitTime, what, d.log.all())
		}
	}
}

// healed waits until the replica holds everything that was committed before.
func (d *daemon) healed() {
	d.t.Helper()
	for _, a := range d.apps {
		want, seen, n, err := a.rows(), ltx.TXID(0), 0, error(nil)
		var at time.Time
		d.await(fmt.Sprintf("%d rows of %s on the replica", want, a.under), func() bool {
			if txid := a.acked(); txid != seen && time.Since(at) > 500*time.Millisecond {
				seen, at = txid, time.Now()
				if n, err = a.restore(d.direct, 0); err != nil {
					d.t.Errorf("%s: %v", a.under, err)
				}
			}
			return n >= want || d.t.Failed()
		})
	}
}

// logLines are the lines of a daemon's log.
type logLines struct {
	t     *testing.T
	mu    sync.Mutex // guards lines
	lines []string
}

// Write implements io.Writer.
func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// len returns how many lines there are.
func (l *logLines) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

// since returns the lines from a place on of which some text is a part.
func (l *logLines) since(n int, texts ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines[n:] {
		if slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(line, s) }) {
			found = append(found, line)
		}
	}
	return found
}

func (l *logLines) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
