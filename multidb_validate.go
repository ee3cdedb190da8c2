package litestream

import (
	"context"
	"math/bits"
	"time"
)

// fleetValidation knows which databases found by pattern are to be validated: in
// each round those that something was uploaded of, or merged, since they last
// were. One at rest is asked for once, and then costs no request.
type fleetValidation struct {
	next    time.Time         // when the next round begins
	changed bitset            // since they were last validated
	round   bitset            // of the round that runs, and not begun yet
	credit  float64           // how many may be begun now
	rate    float64           // how much it grows each second
	running int               // validations under way
	invalid map[uint32]string // what the last one found
}

// begin starts a round with all that has changed.
func (v *fleetValidation) begin(now time.Time, interval time.Duration) {
	v.next = now.Add(interval)
	n := 0
	for w, word := range v.changed {
		n += bits.OnesCount64(word)
		for ; word != 0; word &= word - 1 {
			v.round.add(uint32(w*64 + bits.TrailingZeros64(word)))
		}
	}
	clear(v.changed)
	v.rate = max(1, 2*float64(n)/interval.Seconds()) // through after half of the interval
}

// grow is called once in each tick.
func (v *fleetValidation) grow() {
	v.credit = min(v.credit+v.rate*tickInterval.Seconds(), max(1, 2*v.rate))
}

// pop takes a database out of the round.
func (v *fleetValidation) pop() (i uint32, ok bool) {
	for w, word := range v.round {
		if word != 0 {
			i = uint32(w*64 + bits.TrailingZeros64(word))
			v.round.remove(i)
			return i, true
		}
	}
	v.round = v.round[:0]
	return 0, false
}

// forget drops a database whose number may be given to another one.
func (v *fleetValidation) forget(i uint32) {
	v.changed.remove(i)
	v.round.remove(i)
	delete(v.invalid, i)
}

// validating is the key of a validation.
type validating struct{ i uint32 }

// validateDue begins the validations that it is time for. It is called once in
// each tick of the loop.
func (m *MultiDBManager) validateDue() {
	if m.ValidationInterval <= 0 {
		return
	}
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	v := &m.validation
	switch {
	case v.next.IsZero():
		v.next = now.Add(m.ValidationInterval)
	case !now.Before(v.next):
		v.begin(now, m.ValidationInterval)
	}
	v.grow()
	for m.bound && !m.stopping && v.credit >= 1 && v.running < max(1, m.cfg().Limits.SnapshotWorkers/2) {
		i, ok := v.pop()
		if !ok {
			return
		}
		s := m.table.At(i)
		if s == nil || s.state == TenantGone {
			continue
		}
		v.credit--
		v.running++
		m.store.resources.Snapshots.Submit(SnapshotTask{Key: validating{i}, Kind: "validate", Run: func(ctx context.Context) {
			m.validateTenant(ctx, i)
		}})
	}
}

// validateTenant validates one replica.
func (m *MultiDBManager) validateTenant(ctx context.Context, i uint32) {
	m.mu.Lock()
	path, busy := m.table.Path(i), m.underway[i] != nil
	m.mu.Unlock()
	var problems []LevelProblem
	var err error
	if !busy && path != "" {
		problems, err = m.problemsOf(ctx, path)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.validation.running--
	if path == "" || m.table.Path(i) != path || ctx.Err() != nil {
		return // it was forgotten
	}
	if busy || len(problems) > 0 && m.underway[i] != nil {
		m.validation.changed.add(i) // files come and go: the next round will tell
		return
	}
	m.endValidationLocked(i, path, problems, err)
}

func (m *MultiDBManager) problemsOf(ctx context.Context, path string) ([]LevelProblem, error) {
	t, err := m.tenants().Lookup(path)
	if err != nil {
		return nil, err
	}
	client, err := m.client(&t)
	if err != nil {
		return nil, err
	}
	if err := client.Init(ctx); err != nil {
		return nil, err
	}
	u := m.upkeeper()
	return validateReplica(ctx, client, u.Settings.Levels.MaxLevel(), u.promise())
}

// endValidationLocked counts what was found, and logs it if that is new.
func (m *MultiDBManager) endValidationLocked(i uint32, path string, problems []LevelProblem, err error) {
	v := &m.validation
	if m.store.outages.failed(validationFailer(i), err, m.logger, "db", path) {
		v.changed.add(i) // until it is known
		m.metrics.validated("error", len(v.invalid))
		return
	}
	if err == nil {
		m.store.outages.succeeded(validationFailer(i), m.logger, "db", path)
	}
	text, was := problemsText(problems), v.invalid[i]
	if err != nil {
		text = "error"
	}
	switch {
	case text == was:
	case err != nil:
		m.logger.Warn("validation failed", "db", path, "error", err)
	case text == "":
		m.logger.Info("validation recovered", "db", path)
	default:
		logProblems(m.logger, path, problems)
	}
	result := "success"
	switch {
	case err != nil:
		result = "error"
	case text != "":
		result = "invalid"
	}
	if text == "" {
		delete(v.invalid, i)
	} else {
		if v.invalid == nil {
			v.invalid = make(map[uint32]string)
		}
		v.invalid[i] = text
		v.changed.add(i) // until it is well again
	}
	m.metrics.validated(result, len(v.invalid))
}

// promise returns what is promised of each replica.
func (t *tenantMaintainer) promise() levelPromise {
	s := t.Settings
	return levelPromise{now: t.now(), levels: s.Levels, snapshotRetention: s.SnapshotRetention, l0Retention: s.L0Retention}
}
