package metamorphic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/knob"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// A rig is one database with a replica in memory and a replicator that is
// driven by hand. Its application's ledger is the model's.
type rig struct {
	*testing.T
	dir, path string
	client    *testutil.MemClient
	model     *model
	last      moment
	boot      byte
	db        *litestream.DB
}

func newRig(t *testing.T, pageSize int) *rig {
	t.Helper()
	r := &rig{T: t, dir: t.TempDir(), client: testutil.NewMemClient(), boot: 1}
	if root := tempRoot(); root != "" {
		var err error
		//nolint:usetesting // in memory
		if r.dir, err = os.MkdirTemp(root, "litestream-rig-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(r.dir) })
	}
	r.path = filepath.Join(r.dir, "db")
	seed := chosenSeed()
	t.Logf("seed %d", seed)
	r.model = newModel(seed)
	r.make(r.path, 1, pageSize)
	return r
}

// make makes an empty database.
func (r *rig) make(path string, epoch uint64, pageSize int) {
	r.Helper()
	c, err := openApp(path, "mode=rwc")
	r.must(err)
	r.model.beginEpoch(epoch, pageSize)
	r.must(c.exec(fmt.Sprintf("PRAGMA page_size=%d; PRAGMA journal_mode=wal", pageSize)))
	r.must(c.create(moment{Epoch: epoch}))
	r.must(c.close())
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) try(moment)   {}
func (r *rig) ack(m moment) { r.last = m }

// app opens a connection that does not checkpoint by itself.
func (r *rig) app() *appConn {
	r.Helper()
	c, err := openWriter(r.path, r.model.seed)
	r.must(err)
	r.must(c.exec("PRAGMA wal_autocheckpoint=0"))
	return c
}

func (r *rig) commits(c *appConn, n int) {
	r.Helper()
	for range n {
		r.must(c.commit(r))
	}
}

// fork begins an epoch at the moment that the database holds.
func (r *rig) fork(c *appConn) {
	r.Helper()
	m, err := c.moment()
	r.must(err)
	epoch := r.last.Epoch + 1
	r.model.fork(epoch, m)
	r.must(c.exec("UPDATE moment SET epoch = ?", int64(epoch)))
	r.last = moment{epoch, m.K}
}

// open starts the replicator.
func (r *rig) open() {
	r.Helper()
	r.db = litestream.NewDB(r.path)
	r.db.Tune(knob.DB{BootID: [16]byte{r.boot}, Now: func() time.Time { return time.Now().Add(1900 * time.Millisecond) }})
	r.db.MinCheckpointPageN = 1 << 20 // the scenario checkpoints
	r.db.CheckpointInterval = 0
	r.db.Replica = litestream.NewReplicaWithClient(r.db, r.client)
	r.must(r.db.Open(context.Background()))
}

// sync brings everything to the replica.
func (r *rig) sync() {
	r.Helper()
	ctx := context.Background()
	r.must(r.db.Replica.Sync(ctx))
	r.must(r.db.SyncFully(ctx))
	r.must(r.db.Replica.Sync(ctx))
}

func (r *rig) close() {
	r.Helper()
	r.must(r.db.Close(context.Background()))
}

// check restores the newest position and compares it with the source.
func (r *rig) check() {
	r.Helper()
	got := r.restoreTo(filepath.Join(r.dir, "restored"), 0)
	if got != r.last {
		r.Fatalf("restored %s, want %s", got, r.last)
	}
	w := world{cfg: replicatorConfig{DB: r.path}}
	r.must(w.comparePages(filepath.Join(r.dir, "restored")))
}

// restoreTo restores a position and compares its table with the model's.
func (r *rig) restoreTo(path string, txid ltx.TXID) moment {
	r.Helper()
	opt := litestream.NewRestoreOptions()
	opt.OutputPath, opt.TXID, opt.Force, opt.IntegrityCheck = path, txid, true, litestream.IntegrityCheckFull
	_, err := litestream.Restore(context.Background(), r.client, opt)
	r.must(err)
	w := &world{model: r.model}
	got, err := w.inspect(path)
	r.must(err)
	return got
}

// A shell is an application in another process, which obeys SQL.
type shell struct {
	*child
	r *rig
}

func (r *rig) shell() *shell {
	r.Helper()
	c, err := startChild("shell", r.path, filepath.Join(r.dir, "shell.err"))
	r.must(err)
	return &shell{c, r}
}

func (s *shell) exec(query string) {
	s.r.Helper()
	_, err := fmt.Fprintln(s.in, query)
	s.r.must(err)
	answer, err := s.out.ReadString('\n')
	s.r.must(err)
	if answer != "ok\n" {
		s.r.Fatalf("%.60s: %s", query, answer)
	}
}

func (s *shell) sigkill() {
	s.r.Helper()
	s.kill()
	s.r.must(s.wait())
}

// runShell is the child process of a shell.
func runShell(path string) error {
	c, err := openWriter(path, 0)
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if err := c.exec(in.Text()); err != nil {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("ok")
		}
	}
	return errors.Join(in.Err(), c.close())
}

const spill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 60) INSERT INTO data SELECT -i, 0, randomblob(2000) FROM n"

// A power cut brings back older blocks of the log and of the main file. The
// cursor of the boot before is no proof then, whatever it finds.
func TestScenario_PowerCut(t *testing.T) {
	type files struct{ main, log []byte }
	read := func(r *rig) files {
		r.Helper()
		main, err := os.ReadFile(r.path)
		r.must(err)
		log, err := os.ReadFile(r.path + "-wal")
		r.must(err)
		return files{main, log}
	}
	for _, tt := range []struct {
		name string
		cut  func(old, now files) files
	}{
		{"nothing lost", func(_, now files) files { return now }},
		{"log cut", func(_, now files) files { now.log = now.log[:len(now.log)/2]; return now }},
		{"log cut at a frame", func(_, now files) files { now.log = now.log[:32+5*(24+1024)]; return now }},
		{"blocks missing", func(_, now files) files { clear(now.log[8192:12288]); return now }},
		{"last block missing", func(_, now files) files { clear(now.log[len(now.log)-512:]); return now }},
		{"older log", func(old, now files) files { now.log = old.log; return now }},
		{"older log and main file", func(old, _ files) files { return old }},
		{"log header only", func(_, now files) files { now.log = now.log[:32]; return now }},
		{"no log", func(_, now files) files { now.log = nil; return now }},
	} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/killed=%v", tt.name, killed), func(t *testing.T) {
				r := newRig(t, 1024)
				app := r.app()
				r.commits(app, 5)
				r.must(app.exec("PRAGMA wal_checkpoint"))
				r.commits(app, 5) // a new lineage
				r.open()
				old := read(r)
				r.sync()
				r.commits(app, 7)
				r.sync()
				r.must(app.c.SetFileControlInt("main", sqlite3.SQLITE_FCNTL_PERSIST_WAL, 1))
				now := read(r)
				var meta string
				if killed { // what it would write at a stop never gets there
					meta = filepath.Join(r.dir, "meta")
					r.must(os.CopyFS(meta, os.DirFS(r.db.MetaPath())))
				}
				r.close()
				r.must(app.close())
				if killed {
					r.must(os.RemoveAll(r.db.MetaPath()))
					r.must(os.Rename(meta, r.db.MetaPath()))
				}

				back := tt.cut(old, now)
				r.must(os.WriteFile(r.path, back.main, 0o600))
				r.must(os.WriteFile(r.path+"-wal", back.log, 0o600))
				r.must(removeIf(r.path + "-shm"))
				r.boot++
				r.open()
				app = r.app()
				r.sync()
				r.fork(app)
				r.commits(app, 1)
				r.sync()
				r.check()
				r.commits(app, 12) // over the old cursor
				r.sync()
				r.check()
				r.must(app.close())
				r.close()
			})
		}
	}
}

// A writer that is killed in the middle of a transaction leaves frames behind
// that never counted.
func TestScenario_WriterKilled(t *testing.T) {
	for _, pageSize := range []int{512, 4096} {
		t.Run(fmt.Sprint(pageSize), func(t *testing.T) {
			r := newRig(t, pageSize)
			app := r.app()
			r.open()
			rng := rand.New(rand.NewPCG(r.model.seed, 2))
			for i := range 12 {
				r.commits(app, 1+rng.IntN(3))
				if i%3 == 0 {
					r.sync()
				}
				if i%4 == 1 {
					r.must(app.exec("PRAGMA wal_checkpoint"))
				}
				victim := r.shell()
				victim.exec("BEGIN IMMEDIATE")
				victim.exec(spill)
				r.sync()
				victim.sigkill()
				r.sync()
				r.check()
				r.commits(app, 1+rng.IntN(3))
				r.sync()
				r.check()
			}
			r.must(app.close())
			r.close()
		})
	}
}

// Large transactions spill into the log before they are taken back; others
// overwrite what they left there.
func TestScenario_RolledBack(t *testing.T) {
	r := newRig(t, 1024)
	app := r.app()
	// Nobody works at the same time: what the replicator's pin keeps from a
	// checkpoint it keeps for as long as that waits.
	r.must(app.exec("PRAGMA busy_timeout=0"))
	r.open()
	rng := rand.New(rand.NewPCG(r.model.seed, 3))
	for range 25 {
		r.commits(app, rng.IntN(3))
		r.must(app.exec("BEGIN IMMEDIATE"))
		r.must(app.exec(spill))
		r.must(app.exec("UPDATE data SET body = randomblob(300)"))
		r.sync()
		r.must(app.exec("ROLLBACK"))
		if rng.IntN(2) == 0 {
			r.sync()
		}
		if rng.IntN(3) == 0 {
			r.must(app.exec("PRAGMA wal_checkpoint(" + oneOf(rng, "PASSIVE", "FULL") + ")"))
		}
		r.commits(app, 1+rng.IntN(2))
		r.sync()
		r.check()
	}
	r.must(app.close())
	r.close()
}

// Fifty disasters: each time the restored database goes on with the replica it
// came from, which is sent what changed and not the database again.
func TestScenario_RestoreAndGoOn(t *testing.T) {
	const cycles, pageSize, ballast = 50, 1024, 600
	r := newRig(t, pageSize)
	app := r.app()
	r.must(app.exec("CREATE TABLE ballast (x)"))
	for range ballast {
		r.must(app.exec("INSERT INTO ballast VALUES (randomblob(900))"))
	}
	r.commits(app, 3)
	r.open()
	r.sync()
	r.must(app.close())
	r.close()
	meta := r.db.MetaPath()

	var changed int64
	first := r.client.BytesSent()
	for i := range cycles {
		for _, path := range []string{r.path, r.path + "-wal", r.path + "-shm"} {
			r.must(removeIf(path))
		}
		r.must(os.RemoveAll(meta))
		r.must(os.MkdirAll(meta, 0o700))
		opt := litestream.NewRestoreOptions()
		opt.OutputPath, opt.LedgerPath = r.path, litestream.LedgerPath(meta)
		opt.LedgerReplica = litestream.ReplicaIdentity(r.client)
		_, err := litestream.Restore(context.Background(), r.client, opt)
		r.must(err)
		app := r.app()
		if got, err := app.moment(); err != nil || got != r.last {
			t.Fatalf("cycle %d: restored %s (%v), want %s", i, got, err, r.last)
		}
		r.commits(app, 1+i%3)
		changed += logBytes(r)
		r.open()
		r.sync()
		r.must(app.close())
		r.close()
	}
	r.check()
	sent := r.client.BytesSent() - first
	// Each file has a header, an index and the page of the last frame twice.
	if limit := changed + cycles*4*pageSize; sent > limit {
		t.Errorf("%d bytes sent for %d bytes of frames, want at most %d (the database has %d)", sent, changed, limit, first)
	}
	t.Logf("%d bytes sent for %d bytes of frames; the first copy has %d", sent, changed, first)
}

func logBytes(r *rig) int64 {
	r.Helper()
	st, err := os.Stat(r.path + "-wal")
	r.must(err)
	return st.Size()
}

// While the replica is away the application writes many times what may be
// staged. What is staged and the log stay bounded; nothing is lost.
func TestScenario_ReplicaAway(t *testing.T) {
	const limit, pageSize = 1 << 20, 4096
	r := newRig(t, pageSize)
	var away atomic.Bool
	r.client.Fail = func(op string, level int, minTXID, maxTXID ltx.TXID) error {
		if away.Load() {
			return errFault
		}
		return nil
	}
	db := litestream.NewDB(r.path)
	db.Tune(knob.DB{Now: func() time.Time { return time.Now().Add(1900 * time.Millisecond) }})
	db.MonitorInterval, db.MinCheckpointPageN = 5*time.Millisecond, 100
	db.Replica = litestream.NewReplicaWithClient(db, r.client)
	db.Replica.SyncInterval = 5 * time.Millisecond
	store := litestream.NewStore([]*litestream.DB{db}, nil)
	store.Tune(knob.Store{RetryDelay: 10 * time.Millisecond})
	store.MaxStagedBytes = limit
	r.must(store.Open(context.Background()))
	r.db = db

	app := r.app()
	r.must(app.exec("PRAGMA wal_autocheckpoint=100"))
	r.commits(app, 5)
	r.waitUntil("the first backup", func() bool { return db.Replica.Pos().TXID > 0 })
	away.Store(true)
	const total = 12 << 20
	var written, mostLog, mostStaged int64
	for written < total {
		before := db.Status().TXID
		r.must(app.exec("INSERT INTO data SELECT max(id) + 1, 0, randomblob(50000) FROM data UNION ALL SELECT -1, 0, x'' LIMIT 1"))
		r.must(app.exec("DELETE FROM data WHERE k = 0"))
		r.commits(app, 1)
		written += 50000
		mostLog = max(mostLog, logBytes(r))
		mostStaged = max(mostStaged, folderBytes(t, db.L0Dir()))
		// On a busy machine looks are late, and what they hold grows.
		r.waitUntil("a look", func() bool {
			st := db.Status()
			return st.Suspended || st.TXID > before
		})
	}
	t.Logf("%d bytes written: the log had at most %d, %d were staged", written, mostLog, mostStaged)
	if mostStaged > 2*limit {
		t.Errorf("%d bytes were staged, want at most %d and one file", mostStaged, limit)
	}
	if mostLog > 4<<20 {
		t.Errorf("the log grew to %d bytes of %d written, want it bounded", mostLog, written)
	}
	away.Store(false)
	r.waitUntil("the replica to follow", func() bool { return !db.Status().Suspended })
	r.sync()
	r.check()
	r.must(app.close())
	r.must(store.Close(context.Background()))
	r.check()
}

func folderBytes(tb testing.TB, dir string) (n int64) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreMissing(err)
		}
		st, err := e.Info()
		if err == nil {
			n += st.Size()
		}
		return ignoreMissing(err)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (r *rig) waitUntil(what string, cond func() bool) {
	r.Helper()
	for range 3000 {
		if cond() {
			return
		}
		pause(context.Background(), 10*time.Millisecond)
	}
	r.Fatalf("waited half a minute for %s", what)
}

// Another database takes the place of the one that is replicated. The next
// look takes it, and the old one's positions stay restorable.
func TestScenario_FileReplaced(t *testing.T) {
	for _, pageSize := range []int{1024, 4096} {
		t.Run(fmt.Sprint(pageSize), func(t *testing.T) {
			r := newRig(t, 1024)
			app := r.app()
			r.commits(app, 6)
			r.open()
			r.sync()
			before, txid := r.last, r.db.Replica.Pos().TXID
			r.must(app.close())

			other := filepath.Join(r.dir, "other")
			r.make(other, 2, pageSize)
			c, err := openWriter(other, r.model.seed)
			r.must(err)
			r.commits(c, 4)
			r.must(c.close())
			r.must(removeIf(r.path + "-wal"))
			r.must(removeIf(r.path + "-shm"))
			r.must(os.Rename(other, r.path))
			r.sync()
			r.check()
			app = r.app()
			r.commits(app, 4)
			r.sync()
			r.check()
			r.must(app.close())
			r.close()
			if got := r.restoreTo(filepath.Join(r.dir, "old"), txid); got != before {
				t.Errorf("position %s of the old file holds %s, want %s", txid, got, before)
			}
		})
	}
}
