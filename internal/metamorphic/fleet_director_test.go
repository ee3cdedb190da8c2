package metamorphic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxTenants bounds the paths of a fleet.
const maxTenants = 230

// direct lets things happen until ctx ends.
func (f *fleet) direct(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, between(f.rng, 5*time.Millisecond, 60*time.Millisecond))
		if err := f.event(ctx); err != nil {
			_ = f.fail("%v", err)
		}
		if err := f.checkNames(); err != nil {
			_ = f.fail("%v", err)
		}
	}
}

// event is one random thing that happens to the fleet.
func (f *fleet) event(ctx context.Context) error {
	switch n := f.rng.IntN(100); {
	case n < 20:
		tenants := f.all()
		f.rng.Shuffle(len(tenants), func(i, j int) { tenants[i], tenants[j] = tenants[j], tenants[i] })
		_, err := f.claim(ctx, tenants[:min(25, len(tenants))])
		return err
	case n < 26:
		return f.order(fmt.Sprintf("faults %d %d %d %d %d", oneOf(f.rng, 0, 0, 20, 100, 100),
			oneOf(f.rng, 0, 0, 20), oneOf(f.rng, 0, 30), oneOf(f.rng, 0, 0, 20), oneOf(f.rng, 0, 0, 10)))
	case n < 32:
		return f.order("faults 0 0 0 0")
	case n < 38:
		return f.restart(ctx)
	case n < 44:
		return f.killApp(ctx)
	default:
		return f.tenantEvent(ctx)
	}
}

// restart lets another manager go on, with more or less of what the last one
// left.
func (f *fleet) restart(ctx context.Context) error {
	if f.rng.IntN(3) == 0 {
		if err := f.order("faults 0 0 0 0"); err != nil { // else it takes all its time
			return err
		}
		f.closeManager()
	} else {
		f.killReplicator()
	}
	var err error
	switch f.rng.IntN(12) {
	case 0, 1:
		f.mcfg.Boot++
		f.logf("another boot")
	case 2:
		f.logf("state directory deleted")
		err = os.RemoveAll(f.mcfg.State)
	case 3:
		f.logf("registry deleted")
		for _, suffix := range []string{"", "-wal", "-shm"} {
			err = errors.Join(err, removeIf(filepath.Join(f.mcfg.State, "registry.db"+suffix)))
		}
	case 4:
		f.logf("epoch deleted")
		err = removeIf(filepath.Join(f.mcfg.Replica, "!litestream", "epoch"))
	case 5:
		err = f.loseReplica(ctx)
	}
	f.mcfg.Faults = oneOf(f.rng, "0 0 0 0", "0 0 0 0", "100 0 0 0", "20 20 20 20 10")
	return errors.Join(err, f.startManager())
}

// closeManager stops it as a signal would, and notes what it did.
func (f *fleet) closeManager() {
	answer, err := f.repl.order("metrics")
	if err != nil {
		_ = f.fail("ask manager for its metrics: %v", err)
		return
	}
	for field := range strings.FieldsSeq(answer) {
		i := strings.LastIndexByte(field, '=')
		n, _ := strconv.ParseFloat(field[i+1:], 64)
		f.reached[field[:i]] += int(n)
	}
	f.closeReplicator()
}

// loseReplica empties the storage of all.
func (f *fleet) loseReplica(ctx context.Context) error {
	for _, t := range f.all() {
		_, blind := t.blindness()
		if err := t.loseReplica(ctx); err != nil {
			return err
		}
		t.txid = 0
		if blind {
			t.beginBlindness(0)
		}
	}
	return os.RemoveAll(f.mcfg.Replica)
}

// killApp kills an application in the middle of what it does, or in a large
// transaction. Another one goes on.
func (f *fleet) killApp(ctx context.Context) error {
	a := oneOf(f.rng, f.apps...)
	t := oneOf(f.rng, f.all()...)
	if a.names[t.name] && f.rng.IntN(2) == 0 {
		f.logf("application has a large transaction in %s", t.name)
		if err := a.order("spill " + t.name); err != nil {
			return err
		}
		pause(ctx, between(f.rng, 0, 200*time.Millisecond))
	}
	f.logf("application %d killed", a.cmd.Process.Pid)
	a.end(true)
	return f.startApp(a)
}

// drop makes all applications close a database.
func (f *fleet) drop(t *tenant) error {
	for _, a := range f.apps {
		if !a.names[t.name] {
			continue
		}
		delete(a.names, t.name)
		if a.child == nil {
			continue
		}
		if err := a.order("drop " + t.name); err != nil {
			return err
		}
	}
	t.resting = true
	return nil
}

// take gives a database to one application, or to two.
func (f *fleet) take(t *tenant) {
	t.resting = false
	i := f.rng.IntN(len(f.apps))
	for range 1 + f.rng.IntN(6)/5 {
		a := f.apps[i%len(f.apps)]
		i++
		a.names[t.name] = true
		if a.child != nil {
			_, _ = fmt.Fprintln(a.in, "take", t.name) // one that ended gets it with its next start
		}
	}
}

// tenantEvent does something with one database while its application is down.
func (f *fleet) tenantEvent(ctx context.Context) error {
	t := oneOf(f.rng, f.all()...)
	switch t.kind {
	case tenantAbsent:
		if f.rng.IntN(4) == 0 {
			return f.putJunk(t)
		}
		return f.comeBack(ctx, t)
	case tenantJunk:
		if f.rng.IntN(4) == 0 {
			return f.remove(t)
		}
		return f.comeBack(ctx, t)
	case tenantHere:
	}
	if t.resting && f.rng.IntN(2) == 0 {
		f.take(t)
		return nil
	}
	if err := f.drop(t); err != nil {
		return err
	}
	if err := t.unharmed(); err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	if err := f.changeFile(ctx, t); isBusy(err) {
		t.logf("busy: %v", err)
	} else if err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	if t.kind == tenantHere && f.rng.IntN(4) > 0 {
		f.take(t)
	}
	return nil
}

// changeFile does something with the file of a database that nobody has open.
func (f *fleet) changeFile(ctx context.Context, t *tenant) error {
	switch n := f.rng.IntN(20); {
	case n < 2:
		return t.deleteLog()
	case n < 4:
		return t.leaveWAL()
	case n < 7:
		return f.replace(ctx, t)
	case n < 10:
		return f.copyOver(ctx, t)
	case n < 12:
		return f.remove(t)
	case n < 14:
		return f.rename(ctx, t)
	case n < 15:
		return f.putJunk(t)
	case n < 17:
		if err := f.remove(t); err != nil {
			return err
		}
		return f.comeBack(ctx, t)
	default:
		return nil
	}
}

// comeBack puts a database where none lies.
func (f *fleet) comeBack(ctx context.Context, t *tenant) (err error) {
	switch n := f.rng.IntN(4); {
	case n == 0 && t.kind == tenantAbsent && t.claimedNow() != (moment{}) && !t.mortal.Load():
		err = f.restoreInPlace(ctx, t)
	case n < 3:
		err = f.replace(ctx, t)
	default:
		err = f.createInPlace(t)
	}
	if err == nil && t.kind == tenantHere && t.resting && f.rng.IntN(3) > 0 {
		f.take(t)
	}
	return err
}

// spareDatabase makes a database of a new epoch that lies nowhere yet.
func (f *fleet) spareDatabase(t *tenant) (path string, m moment, err error) {
	path = filepath.Join(f.spare, fmt.Sprintf("%s-%d", t.name, t.seq.Add(1)))
	epoch := f.nextEpoch()
	if err := t.makeDatabase(path, epoch); err != nil {
		return "", moment{}, err
	}
	c, err := openWriter(path, f.seed)
	if err != nil {
		return "", moment{}, err
	}
	if f.rng.IntN(12) == 0 { // large enough for its files to be merged
		err = c.exec(`CREATE TABLE ballast (b BLOB); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 50)
			INSERT INTO ballast SELECT randomblob(20000) FROM n`)
	}
	m = moment{Epoch: epoch}
	t.try(m)
	for range f.rng.IntN(4) {
		if err == nil {
			err = c.commit(forkLedger{t.world, &m})
		}
	}
	return path, m, errors.Join(err, c.close())
}

// forkLedger takes down commits to a file that is not in its place yet.
type forkLedger struct {
	w *world
	m *moment
}

func (l forkLedger) try(m moment) { l.w.try(m) }
func (l forkLedger) ack(m moment) { *l.m = m }

// create makes the first database of a path.
func (f *fleet) create(t *tenant) error {
	path, m, err := f.spareDatabase(t)
	if err != nil {
		return err
	}
	if err := os.Rename(path, t.cfg.DB); err != nil {
		return err
	}
	t.ack(m)
	t.kind = tenantHere
	f.take(t)
	return nil
}

// beginBlindness says that what is captured from now on may be of no database
// at all, until the next claim.
func (t *tenant) blindNow() {
	if _, now := t.blindness(); !now {
		t.beginBlindness(t.txid)
	}
}

// removeLogs removes what lies beside a database that nobody has open. A log
// with something in it is a part of the database, which is none without it.
func (t *tenant) removeLogs() error {
	if st, err := os.Stat(t.cfg.DB + "-wal"); err == nil && st.Size() > 0 {
		t.logf("log with %d bytes removed", st.Size())
		t.blindNow()
	}
	if st, err := os.Stat(t.cfg.DB + "-journal"); err == nil && st.Size() > 0 {
		t.logf("journal with %d bytes removed", st.Size())
		t.blindNow()
	}
	return errors.Join(removeIf(t.cfg.DB+"-wal"), removeIf(t.cfg.DB+"-shm"), removeIf(t.cfg.DB+"-journal"))
}

// replace puts another database in the place of this one, or of none.
func (f *fleet) replace(ctx context.Context, t *tenant) error {
	path, m, err := f.spareDatabase(t)
	if err != nil {
		return err
	}
	t.logf("replaced by %s", m)
	if st, err := os.Stat(t.cfg.DB + "-wal"); err == nil && st.Size() > 0 && f.rng.IntN(2) == 0 {
		t.logf("with the old log beside it for a while")
		t.blindNow()
		if err := os.Rename(path, t.cfg.DB); err != nil {
			return err
		}
		pause(ctx, between(f.rng, 0, 100*time.Millisecond))
	}
	if err := t.removeLogs(); err != nil {
		return err
	}
	if err := ignoreMissing(os.Rename(path, t.cfg.DB)); err != nil {
		return err
	}
	return f.arrived(t, m)
}

// arrived says that a database lies at a path now.
func (f *fleet) arrived(t *tenant, m moment) error {
	t.ack(m)
	t.kind, t.resting = tenantHere, true
	return nil
}

// copyOver writes another database into the file of this one.
func (f *fleet) copyOver(ctx context.Context, t *tenant) error {
	path, m, err := f.spareDatabase(t)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	t.logf("copied over by %s", m)
	t.blindNow()
	if err := errors.Join(t.removeLogs(), os.Remove(path)); err != nil {
		return err
	}
	w, err := os.OpenFile(t.cfg.DB, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	half := len(b) / 2
	_, err = w.Write(b[:half])
	pause(ctx, between(f.rng, 0, 30*time.Millisecond))
	if err == nil {
		_, err = w.Write(b[half:])
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	return f.arrived(t, m)
}

// createInPlace lets an application make a database step by step.
func (f *fleet) createInPlace(t *tenant) error {
	m := moment{Epoch: f.nextEpoch()}
	t.logf("is created in place at %s", m)
	t.blindNow()
	if t.kind == tenantJunk {
		if err := os.Truncate(t.cfg.DB, 0); err != nil {
			return err
		}
	}
	t.try(m)
	if err := t.makeDatabase(t.cfg.DB, m.Epoch); err != nil {
		return err
	}
	return f.arrived(t, m)
}

// remove deletes a database, in the order of a wildcard.
func (f *fleet) remove(t *tenant) error {
	t.logf("deleted")
	if err := os.Remove(t.cfg.DB); err != nil {
		return err
	}
	f.left(t)
	return t.removeLogs()
}

// left says that nothing lies at a path any more.
func (f *fleet) left(t *tenant) {
	t.kind = tenantAbsent
	if f.mcfg.DeletedRetention > 0 {
		t.storage.Lock()
		t.mortal.Store(true)
		t.storage.Unlock()
	}
}

// rename moves a database to another path, where there may be one already.
func (f *fleet) rename(ctx context.Context, t *tenant) error {
	tenants := f.all()
	to := oneOf(f.rng, tenants...)
	if f.rng.IntN(2) == 0 && len(tenants) < maxTenants {
		to = f.addTenant(fmt.Sprintf("t%03d.db", len(tenants)))
		if err := os.MkdirAll(to.dir, 0o700); err != nil {
			return err
		}
	}
	if to == t {
		return nil
	}
	if err := f.drop(to); err != nil {
		return err
	}
	m, err := t.held()
	if err != nil {
		return err
	}
	epoch := f.nextEpoch()
	f.fork(epoch, m)
	m.Epoch = epoch
	if err := t.rebase(t.cfg.DB, m); err != nil {
		return err
	}
	if st, err := os.Stat(t.cfg.DB + "-wal"); err == nil && st.Size() > 0 {
		return nil // somebody reads it
	}
	t.logf("renamed to %s at %s", to.name, m)
	to.logf("%s is renamed to this at %s", t.name, m)
	to.try(m)
	if err := to.removeLogs(); err != nil {
		return err
	}
	if err := f.move(ctx, t, to); err != nil {
		return err
	}
	f.left(t)
	if err := t.removeLogs(); err != nil {
		return err
	}
	if err := f.arrived(to, m); err != nil {
		return err
	}
	if f.rng.IntN(3) > 0 {
		f.take(to)
	}
	return nil
}

// move moves a file, at once or with two paths to it for a while.
func (f *fleet) move(ctx context.Context, t, to *tenant) error {
	if f.rng.IntN(3) > 0 {
		return os.Rename(t.cfg.DB, to.cfg.DB)
	}
	if err := errors.Join(removeIf(to.cfg.DB), os.Link(t.cfg.DB, to.cfg.DB)); err != nil {
		return err
	}
	pause(ctx, between(f.rng, 0, 500*time.Millisecond))
	return os.Remove(t.cfg.DB)
}

// unharmed makes sure that a database holds what its applications wrote.
func (t *tenant) unharmed() error {
	_, err := t.held()
	return err
}

// held is the moment that a database is at, with the table that belongs to it.
func (t *tenant) held() (m moment, err error) {
	acked := t.ackedNow()
	c, err := openApp(t.cfg.DB, "mode=rw&_busy_timeout=2000")
	if err != nil {
		return moment{}, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if m, err = t.inspectConn(c); err != nil {
		return m, fmt.Errorf("database of an application: %w", err)
	}
	if m.less(acked) {
		return m, fmt.Errorf("database of an application holds %s, but %s was acknowledged", m, acked)
	}
	return m, nil
}

// putJunk puts a file that is no database where one may lie.
func (f *fleet) putJunk(t *tenant) error {
	var b []byte
	if f.rng.IntN(2) == 0 {
		b = make([]byte, 1+f.rng.IntN(5000))
		for i := range b {
			b[i] = byte(f.rng.Uint32())
		}
	}
	t.logf("junk of %d bytes", len(b))
	t.blindNow()
	if err := t.removeLogs(); err != nil {
		return err
	}
	t.kind, t.resting = tenantJunk, true
	return os.WriteFile(t.cfg.DB, b, 0o600)
}

// restoreInPlace brings a database back from its replica.
func (f *fleet) restoreInPlace(ctx context.Context, t *tenant) error {
	path := filepath.Join(f.spare, fmt.Sprintf("%s-%d", t.name, t.seq.Add(1)))
	want := wish{name: "disaster", output: path, atLeast: t.claimedNow(), promised: true}
	if txid, ok := t.pick(ctx, 1); ok && f.rng.IntN(3) == 0 {
		want.txid, want.atLeast, want.promised = txid, moment{}, false
	}
	got, txid, err := t.restore(ctx, want)
	if err != nil {
		return t.broken()
	}
	m := moment{f.nextEpoch(), got.K}
	f.fork(m.Epoch, got)
	c := &world{cfg: replicatorConfig{DB: path}}
	if err := c.rebase(path, m); err != nil {
		return err
	}
	t.logf("restored %s of %s, put in place at %s", txid, got, m)
	t.try(m)
	if err := os.Rename(path, t.cfg.DB); err != nil {
		return err
	}
	return f.arrived(t, m)
}
