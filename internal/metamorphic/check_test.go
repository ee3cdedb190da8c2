package metamorphic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// A wish is one restore and what has to be in it.
type wish struct {
	name      string
	txid      ltx.TXID
	timestamp time.Time
	atLeast   moment // acknowledged before the position was
	promised  bool   // retention must not have removed it
	output    string // "" for a file that is removed after the check
	ledger    bool   // leave a page ledger for the output
}

// restore makes a wish come true and checks what came.
func (w *world) restore(ctx context.Context, want wish) (moment, ltx.TXID, error) {
	keep := want.output != ""
	if !keep {
		want.output = filepath.Join(w.dir, fmt.Sprintf("restored-%d", w.seq.Add(1)))
		defer os.Remove(want.output)
	}
	client, err := w.cfg.storage()
	if err != nil {
		return moment{}, 0, w.fail("%v", err)
	}
	opt := litestream.NewRestoreOptions()
	opt.OutputPath, opt.TXID, opt.Timestamp = want.output, want.txid, want.timestamp
	opt.IntegrityCheck = litestream.IntegrityCheckFull
	opt.Parallelism = 2
	opt.Force = keep
	if want.ledger {
		opt.LedgerPath = litestream.LedgerPath(w.metaPath())
		opt.LedgerReplica = litestream.ReplicaIdentity(client)
	}
	blindBefore, blind := w.blindness()
	res, err := litestream.Restore(ctx, client, opt)
	if n, now := w.blindness(); err != nil && want.txid == 0 && (blind || now || n != blindBefore) {
		return moment{}, 0, errTolerated
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return moment{}, 0, ctx.Err()
	case !want.promised && (errors.Is(err, litestream.ErrTxNotAvailable) || errors.Is(err, litestream.ErrNoBackups)):
		w.logf("%s: gone: %v", want.name, err)
		return moment{}, 0, err
	case w.tolerated(want.txid, errTXID(err)):
		return moment{}, 0, err
	default:
		return moment{}, 0, w.fail("%s: restore (txid %s, timestamp %v): %v", want.name, want.txid, want.timestamp, err)
	}
	if w.tolerated(res.TXID) {
		return moment{}, res.TXID, errTolerated
	}
	got, err := w.inspect(want.output)
	if err != nil {
		return moment{}, 0, w.fail("%s: restored %s: %v", want.name, res.TXID, err)
	}
	w.restores.Add(1)
	switch {
	case want.txid != 0 && res.TXID != want.txid:
		err = fmt.Errorf("restored %s, want %s", res.TXID, want.txid)
	case got.less(want.atLeast):
		err = fmt.Errorf("restored %s holds %s, but %s was acknowledged before", res.TXID, got, want.atLeast)
	case !want.timestamp.IsZero() && res.Timestamp.After(want.timestamp):
		err = fmt.Errorf("restored state is of %v, want none after %v", res.Timestamp, want.timestamp)
	case !w.eventually(ctx, func() bool { return !w.attemptedNow().less(got) }):
		err = fmt.Errorf("restored %s holds %s, nobody tried more than %s", res.TXID, got, w.attemptedNow())
	default:
		err = w.observe(res.TXID, got)
	}
	if err != nil {
		w.keepFile(want.output, want.name)
		return moment{}, 0, w.fail("%s: %v", want.name, err)
	}
	return got, res.TXID, nil
}

// errTolerated means that a position holds what lay there while a file was
// being replaced by hand, which no reader could tell from a database.
var errTolerated = errors.New("position of a moment without a database")

// errTXID is the position that a failed restore got to, or 0.
func errTXID(err error) ltx.TXID {
	if le, ok := errors.AsType[*litestream.LTXError](err); ok {
		return le.MaxTXID
	}
	return 0
}

// inspect reads the moment of a database that nobody has open and compares
// its table with the model's.
func (w *world) inspect(path string) (_ moment, err error) {
	c, err := openApp(path, "mode=ro&immutable=1")
	if err != nil {
		return moment{}, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	return w.inspectConn(c)
}

func (w *world) inspectConn(c *appConn) (moment, error) {
	got, err := c.moment()
	if err != nil {
		return moment{}, err
	}
	have, err := c.digest()
	if err != nil {
		return moment{}, err
	}
	want, err := w.at(got)
	if err != nil {
		return moment{}, err
	}
	if have != want {
		return moment{}, fmt.Errorf("table at %s is %+v, want %+v", got, have, want)
	}
	return got, nil
}

// observe notes which moment a position holds: always the same, and later
// ones at later positions. One exception: a replicator that was killed leaves
// staged what was committed after the newest position of the replica. It is
// sent when the next one starts, before the moment that a restore of that
// position put back.
func (w *world) observe(txid ltx.TXID, got moment) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if was, ok := w.seen[txid]; ok && was != got {
		return fmt.Errorf("position %s held %s before, and %s now", txid, was, got)
	}
	w.seen[txid] = got
	for other, m := range w.seen {
		if other < txid && got.less(m) && !w.sentLate(other, got) || other > txid && m.less(got) && !w.sentLate(txid, m) {
			return fmt.Errorf("position %s holds %s, and %s holds %s", txid, got, other, m)
		}
	}
	return nil
}

// sentLate reports whether a position may hold more than the later one that
// holds a moment. The caller holds mu.
func (w *world) sentLate(earlier ltx.TXID, later moment) bool {
	from, ok := w.putBack[later]
	return ok && earlier > from
}

// checkSnapshot compares a staged snapshot with the model.
func (w *world) checkSnapshot(path string, atLeast moment) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	out := path + ".db"
	defer os.Remove(out)
	dst, err := os.Create(out)
	if err != nil {
		return err
	}
	dec := ltx.NewDecoder(f)
	if err := errors.Join(dec.DecodeDatabaseTo(dst), dst.Close()); err != nil {
		return fmt.Errorf("decode snapshot: %w", err)
	}
	got, err := w.inspect(out)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if got.less(atLeast) {
		return fmt.Errorf("snapshot holds %s, but %s was acknowledged before", got, atLeast)
	}
	return nil
}

// comparePages compares a restored file with the source, which must be at rest.
func (w *world) comparePages(restored string) error {
	c, err := openApp(w.cfg.DB, "mode=rw&_busy_timeout=5000")
	if err != nil {
		return err
	}
	source, err := c.c.Serialize("main")
	if err = errors.Join(err, c.close()); err != nil {
		return fmt.Errorf("read source: %w", err)
	}
	return equalPages(source, restored)
}

func equalPages(source []byte, restored string) error {
	got, err := os.ReadFile(restored)
	if err != nil {
		return err
	}
	if len(got) != len(source) {
		return fmt.Errorf("restored %d bytes, source has %d", len(got), len(source))
	}
	const step = 512
	for i := 0; i < len(got); i += step {
		if !bytes.Equal(got[i:i+step], source[i:i+step]) {
			return fmt.Errorf("restored file differs from the source at byte %d", i)
		}
	}
	return nil
}
