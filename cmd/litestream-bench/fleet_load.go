//go:build linux

package main

import (
	"container/heap"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/benbjohnson/litestream/internal/backoff"
)

const (
	loadWorkers  = 8
	burstWorkers = 4
)

// tenantConn is an application's connection to its database. It is a bare
// driver connection: a thousand pools of database/sql have a thousand
// goroutines. It never syncs: what the disk takes for that is not measured, and
// nobody pulls the plug.
type tenantConn struct{ conn driver.Conn }

func openTenant(path string) (*tenantConn, error) {
	u := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "mode=rw&_busy_timeout=10000&_synchronous=OFF"}
	c, err := new(sqlite3.SQLiteDriver).Open(u.String())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &tenantConn{c}, nil
}

func (c *tenantConn) close() error { return c.conn.Close() }

// insert commits one row. Done again, it changes nothing.
func (c *tenantConn) insert(ctx context.Context, tenant int, seq uint32) error {
	_, err := c.conn.(driver.ExecerContext).ExecContext(ctx, `INSERT OR IGNORE INTO ledger VALUES (?, ?)`, []driver.NamedValue{
		{Ordinal: 1, Value: int64(seq)}, {Ordinal: 2, Value: ledgerValue(tenant, seq)},
	})
	return err
}

// commit makes the next commit of a tenant and records it.
func (f *fleet) commit(ctx context.Context, o *oracle, c *tenantConn, tenant int, kind commitKind) error {
	seq := o.begin(tenant)
	if err := c.insert(ctx, tenant, seq); err != nil {
		return fmt.Errorf("commit %d to %s: %w", seq, f.path(tenant), err)
	}
	o.ack(tenant, seq, kind, time.Now())
	return nil
}

// touch opens a tenant's database, commits and closes it.
func (f *fleet) touch(ctx context.Context, o *oracle, tenant int, kind commitKind) (err error) {
	c, err := openTenant(f.path(tenant))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	return f.commit(ctx, o, c, tenant, kind)
}

// due is a tenant and when it commits next.
type due struct {
	tenant int
	at     time.Time
}

// dueQueue is a heap of what is due, the earliest first.
type dueQueue []due

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q dueQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *dueQueue) Push(x any)        { *q = append(*q, x.(due)) }
func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	d := (*q)[last]
	*q = (*q)[:last]
	return d
}

// hotLoad keeps databases busy: each has one connection that stays open and
// commits again and again at random moments.
type hotLoad struct {
	fleet  *fleet
	oracle *oracle
	pause  time.Duration // between two commits of a tenant: at least this, at most twice
	ramped atomic.Bool   // every tenant has been found to be hot

	mu    sync.Mutex // guards rand and queue; not held across I/O
	rand  *rand.Rand
	queue dueQueue

	conns map[int]*tenantConn // by tenant; a worker has the tenant for itself
	wg    sync.WaitGroup
	stop  context.CancelFunc
	errs  [loadWorkers]error
}

// startHotLoad begins with a first commit of each tenant at a random moment of
// the first pause.
func (t *fleetTurn) startHotLoad(ctx context.Context, tenants []int) (*hotLoad, error) {
	f, pause := t.fleet, t.hotPause
	l := &hotLoad{fleet: f, oracle: t.oracle, pause: pause, rand: rand.New(rand.NewPCG(t.seed, 3)), conns: make(map[int]*tenantConn)}
	for _, i := range tenants {
		c, err := openTenant(f.path(i))
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		l.conns[i] = c
		l.queue = append(l.queue, due{i, time.Now().Add(time.Duration(l.rand.Int64N(int64(pause))))})
	}
	heap.Init(&l.queue)
	ctx, l.stop = context.WithCancel(ctx)
	for w := range loadWorkers {
		l.wg.Go(func() { l.errs[w] = l.work(ctx) })
	}
	return l, nil
}

func (l *hotLoad) close() (err error) {
	for _, c := range l.conns {
		err = errors.Join(err, c.close())
	}
	return err
}

// end stops the commits, waits and closes the connections.
func (l *hotLoad) end() error {
	l.stop()
	l.wg.Wait()
	return errors.Join(errors.Join(l.errs[:]...), l.close())
}

func (l *hotLoad) take() (due, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return due{}, false
	}
	return heap.Pop(&l.queue).(due), true
}

func (l *hotLoad) put(tenant int, after time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := l.pause + time.Duration(l.rand.Int64N(int64(l.pause)))
	heap.Push(&l.queue, due{tenant, after.Add(wait)})
}

// work commits what is due until it is stopped. An error ends it: the load
// would not be what the figures say.
func (l *hotLoad) work(ctx context.Context) error {
	for {
		d, ok := l.take()
		if !ok {
			return nil // fewer tenants than workers
		}
		if backoff.Wait(ctx, time.Until(d.at)) != nil {
			return nil //nolint:nilerr // stopped
		}
		kind := rampCommit
		if l.ramped.Load() {
			kind = hotCommit
		}
		// A commit that has begun is finished, else it is unknown whether it counts.
		if err := l.fleet.commit(context.WithoutCancel(ctx), l.oracle, l.conns[d.tenant], d.tenant, kind); err != nil {
			return err
		}
		l.put(d.tenant, d.at)
	}
}

// burst touches every tenant once, in random order, evenly within a time, and
// returns how long it took. If the machine cannot do that it takes longer.
func (f *fleet) burst(ctx context.Context, o *oracle, within time.Duration, kind commitKind, seed uint64) (time.Duration, error) {
	var (
		order = rand.New(rand.NewPCG(seed, 4)).Perm(f.n)
		begin = time.Now()
		wg    sync.WaitGroup
		errs  [burstWorkers]error
	)
	for w := range burstWorkers {
		wg.Go(func() {
			for k := w; k < len(order) && errs[w] == nil; k += burstWorkers {
				due := begin.Add(time.Duration(float64(within) * float64(k) / float64(len(order))))
				if errs[w] = backoff.Wait(ctx, time.Until(due)); errs[w] == nil {
					errs[w] = f.touch(context.WithoutCancel(ctx), o, order[k], kind)
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begin), errors.Join(errs[:]...)
}

// touchCold commits once to each of some resting tenants, at random moments
// within a time. With stay, the applications keep their databases open until
// release is called, else they close them at once.
func (f *fleet) touchCold(ctx context.Context, o *oracle, tenants []int, within time.Duration, stay bool) (release func() error, err error) {
	var open []*tenantConn
	release = func() (err error) {
		for _, c := range open {
			err = errors.Join(err, c.close())
		}
		return err
	}
	begin := time.Now()
	moments := make([]time.Duration, len(tenants))
	for k := range moments {
		moments[k] = time.Duration(rand.Int64N(int64(within)))
	}
	slices.Sort(moments)
	for k, t := range tenants {
		if err := backoff.Wait(ctx, time.Until(begin.Add(moments[k]))); err != nil {
			return release, err
		}
		if !stay {
			if err := f.touch(ctx, o, t, coldCloseCommit); err != nil {
				return release, err
			}
			continue
		}
		c, err := openTenant(f.path(t))
		if err != nil {
			return release, err
		}
		open = append(open, c)
		if err := f.commit(ctx, o, c, t, coldCommit); err != nil {
			return release, err
		}
	}
	return release, nil
}
