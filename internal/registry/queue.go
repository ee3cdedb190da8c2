package registry

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
)

// A change of one row waits in the queue until Flush.
type change struct {
	row    []byte // path and encoded record; nil: the row is deleted
	pathN  int    // bytes of row that are the path
	ledger []byte // for ledgerSet
	op     ledgerOp
}

// maxKeptRows bounds the memory that is kept for the next queue. A map does
// not shrink, and a full disk can make it large.
const maxKeptRows = 1 << 14

type ledgerOp uint8

const (
	ledgerKeep ledgerOp = iota // leave what is stored
	ledgerSet
	ledgerDrop
)

func (c change) path() []byte { return c.row[:c.pathN:c.pathN] }

// over returns the change that has the effect of old followed by c.
func (c change) over(old change) change {
	switch {
	case c.op != ledgerKeep:
	case old.op == ledgerSet && !bytes.Equal(c.path(), old.path()):
		c.op = ledgerDrop
	default:
		c.ledger, c.op = old.ledger, old.op
	}
	return c
}

// Put queues a row, in place of what is queued or stored for its ID. A nil
// ledger keeps the stored one, an empty one drops it; an ID that goes to
// another path is deleted first. The registry keeps the ledger's slice, which
// must not change afterwards; of rec it keeps nothing. After Close it does
// nothing.
func (r *Registry) Put(rec Record, ledger []byte) {
	c := change{pathN: len(rec.Path), row: encode(&rec)}
	switch {
	case len(ledger) > 0:
		c.ledger, c.op = ledger, ledgerSet
	case ledger != nil:
		c.op = ledgerDrop
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enqueueLocked(rec.ID, c)
}

// Delete queues the removal of a row and of its ledger.
func (r *Registry) Delete(id uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enqueueLocked(id, change{op: ledgerDrop})
}

func (r *Registry) enqueueLocked(id uint32, c change) {
	if r.closed || id == 0 {
		return
	}
	if old, ok := r.queue[id]; ok {
		c = c.over(old)
	}
	r.queue[id] = c
}

// SetSummary queues the owner's summary of the whole, for Reader.Summary. It
// copies b.
func (r *Registry) SetSummary(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.summary = append([]byte{}, b...)
	}
}

// Pending returns the number of changes that no Flush has stored yet.
func (r *Registry) Pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.queue) + len(r.inflight)
	if r.summary != nil {
		n++
	}
	return n
}

// Flush stores everything that was queued before the call, in one transaction.
// After an error, a full disk for instance, nothing of it is stored and all of
// it is still queued. Queueing goes on meanwhile.
func (r *Registry) Flush(ctx context.Context) error {
	r.wmu.Lock()
	defer r.wmu.Unlock()
	if r.w == nil {
		return fmt.Errorf("flush registry: %w", ErrClosed)
	}
	return r.flushLocked(ctx)
}

// flushLocked is Flush with wmu held.
func (r *Registry) flushLocked(ctx context.Context) error {
	r.mu.Lock()
	r.queue, r.inflight = r.inflight, r.queue
	batch, summary := r.inflight, r.summary
	r.summary = nil
	r.mu.Unlock()
	if len(batch) == 0 && summary == nil {
		return nil
	}
	err := r.w.tx(func() error { return r.write(ctx, batch, summary) })

	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		for id, c := range batch {
			if newer, ok := r.queue[id]; ok {
				c = newer.over(c)
			}
			r.queue[id] = c
		}
		if r.summary == nil {
			r.summary = summary
		}
		err = fmt.Errorf("write %d rows to registry %s: %w", len(batch), r.path(), err)
	}
	if len(batch) > maxKeptRows {
		r.inflight = map[uint32]change{}
	}
	clear(batch) // it is the next queue
	return err
}

// write is the transaction of Flush. Rows go by ascending ID, so that each
// page of the tables is changed once.
func (r *Registry) write(ctx context.Context, batch map[uint32]change, summary []byte) error {
	for i, id := range slices.Sorted(maps.Keys(batch)) {
		if i%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := r.w.apply(ctx, id, batch[id]); err != nil {
			return err
		}
	}
	if summary != nil {
		if err := r.w.run(ctx, putSummary, summary); err != nil {
			return err
		}
	}
	return r.w.setWritten.exec(ctx, r.opt.Now().UnixNano())
}

// Ledger returns the ledger of a row, with what is queued taken into account,
// or nil if there is none. The caller must not change it.
func (r *Registry) Ledger(ctx context.Context, id uint32) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if b, ok := r.queuedLedger(id); ok {
		return b, nil
	}
	// What was in flight until just now is stored by now, and seen.
	r.rmu.Lock()
	defer r.rmu.Unlock()
	if r.r == nil {
		return nil, fmt.Errorf("read ledger %d: %w", id, ErrClosed)
	}
	b, err := r.r.ledger(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read ledger %d of registry %s: %w", id, r.path(), err)
	}
	return b, nil
}

// queuedLedger returns what the newest queued change says of the ledger, and
// whether any says anything.
func (r *Registry) queuedLedger(id uint32) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range []map[uint32]change{r.queue, r.inflight} {
		if c, ok := m[id]; ok && c.op != ledgerKeep {
			return c.ledger, true
		}
	}
	return nil, false
}

// Load calls fn with each stored row, by ascending ID. The record and its
// Files are valid during the call; Path and Reason stay. What is queued is not
// seen. Rows that are damaged are skipped and removed, with one log line for
// all of them. fn may call Put and Delete, but must not read from the registry.
func (r *Registry) Load(ctx context.Context, fn func(*Record) error) error {
	bad, err := r.load(ctx, fn)
	if err == nil && len(bad) > 0 {
		r.opt.Logger.Warn("registry holds damaged rows: their databases count as unknown", "path", r.path(), "rows", len(bad))
		err = r.discard(ctx, bad)
	}
	if err != nil {
		return fmt.Errorf("load registry %s: %w", r.path(), err)
	}
	return nil
}

func (r *Registry) load(ctx context.Context, fn func(*Record) error) (bad []int64, err error) {
	r.rmu.Lock()
	defer r.rmu.Unlock()
	if r.r == nil {
		return nil, ErrClosed
	}
	return r.r.load(ctx, fn)
}

// discard removes rows that are damaged still.
func (r *Registry) discard(ctx context.Context, ids []int64) error {
	r.wmu.Lock()
	defer r.wmu.Unlock()
	if r.w == nil {
		return ErrClosed
	}
	return r.w.tx(func() error { return r.w.discard(ctx, ids) })
}
