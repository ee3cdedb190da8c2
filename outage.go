package litestream

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"
)

// outageReminder is the pause between two lines about a storage that goes on
// failing.
const outageReminder = time.Hour

// outageInterval is the pause between two lines about a storage that fails and
// recovers again and again, as in Litestream v0.5.
const outageInterval = 30 * time.Second

// maxOutageKinds bounds the lines about one storage that fails in ever new ways.
const maxOutageKinds = 4

// maxOutages is how many storages are remembered that serve again.
const maxOutages = 100

// outageLog tells of storages that fail, whoever meets it: with one line when
// it begins and one when nobody fails any more, not with one for each database,
// task and attempt. It is safe for concurrent use. The zero value works.
type outageLog struct {
	now      func() time.Time // nil: time.Now
	interval time.Duration    // 0: outageInterval

	mu    sync.Mutex // guards what follows; never held across I/O but that of the log
	who   failers
	fleet *outage            // of the newest failure of a database found by pattern
	known map[string]*outage // by storage
	sweep int                // how many are known when they are next looked through
}

// failer is something that uses a storage, and fails or not: a kind of task of
// a database. That of a listed one is told by its failures, one found by
// pattern by its number.
type failer struct {
	task *failures // nil: of a database found by pattern
	id   uint32    // its number
	kind taskKind
}

// late reports whether who failed is tried again much later than uploads are:
// that those succeed shows sooner that the storage serves.
func (f failer) late() bool { return f.task == nil && f.kind != 0 }

// tenant reports whether it is a task of one database found by pattern.
func (f failer) tenant() bool { return f.task == nil && f.id != ^uint32(0) }

// upkeepFailer is the maintenance of a database found by pattern.
func upkeepFailer(i uint32) failer { return failer{id: i, kind: taskCompact} }

// validationFailer is the validation of one.
func validationFailer(i uint32) failer { return failer{id: i, kind: taskValidate} }

// bindFailer is the first contact of a fleet with its replica.
var bindFailer = failer{id: ^uint32(0)}

// catalogFailer is what writes the catalog.
var catalogFailer = failer{id: ^uint32(0), kind: taskCompact}

// outage is a storage that fails, or did before.
type outage struct {
	number uint16 // in failers; 0: none
	n      int    // failers
	late   int    // others, which are tried again much later
	since  time.Time
	tries  int // failed attempts
	told   bool
	kinds  map[string]time.Time // when a kind of failure was logged last
}

// isStorage reports whether err is a storage's that does not serve, in contrast
// to what it says about an object.
func isStorage(err error) bool {
	_, ok := errors.AsType[*ReplicaError](err)
	return ok && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist)
}

// failed takes note of a failure, and reports whether it was a storage's. The
// line is the same whoever was first.
func (l *outageLog) failed(who failer, err error, logger *slog.Logger, args ...any) bool {
	if !isStorage(err) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	re, _ := errors.AsType[*ReplicaError](err)
	now := l.time()
	o := l.storage(re)
	if l.who.of(who) != o {
		l.leave(who)
		l.who.add(who, o)
		if o.n+o.late == 0 && !o.told {
			o.begin(now, l.pause())
		}
		if who.late() {
			o.late++
		} else {
			o.n++
		}
	}
	if who.task == nil {
		l.fleet = o
	}
	o.tries++
	if !o.due(kindOfFailure(re), now, l.pause()) {
		return true
	}
	args = append(args, "error", err)
	if o.told {
		args = append(args, "since", o.since.UTC().Format(time.RFC3339), "attempts", o.tries)
	}
	o.told = true
	logger.Error("monitor error", args...)
	return true
}

// begin is called for the first failure.
func (o *outage) begin(now time.Time, pause time.Duration) {
	o.since, o.tries = now, 0
	maps.DeleteFunc(o.kinds, func(_ string, at time.Time) bool { return now.Sub(at) >= pause })
}

// due reports whether a failure is logged now, and takes note of that.
func (o *outage) due(kind string, now time.Time, pause time.Duration) bool {
	at, known := o.kinds[kind]
	if o.told && known && !at.Before(o.since) {
		pause = outageReminder
	}
	if known && now.Sub(at) < pause || !known && len(o.kinds) >= maxOutageKinds {
		return false
	}
	o.kinds[kind] = now
	return true
}

// kindOfFailure tells failures that need different cures. What passes by itself
// is of one kind, however it shows.
func kindOfFailure(re *ReplicaError) string {
	if !re.Permanent || strings.HasPrefix(re.Code, "HTTP") {
		return ""
	}
	return re.Code
}

// succeeded takes note that a storage served. The last one that failed logs
// that it is over.
func (l *outageLog) succeeded(who failer, logger *slog.Logger, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.leave(who)
	if o == nil && who.task == nil && !who.late() {
		o = l.fleet
	}
	if o == nil || o.n > 0 || !o.told || who.late() && o.late > 0 {
		return
	}
	o.told = false
	if o.late > 0 {
		l.who.removeLate(o)
		o.late = 0
	}
	logger.Info("replica sync recovered", append(args, "after", l.time().Sub(o.since).Round(time.Millisecond))...)
}

// forgetDB forgets all tasks of a database.
func (l *outageLog) forgetDB(m *managedDB) {
	for _, f := range []*failures{&m.sync, &m.upload, &m.maintain, &m.validate} {
		for kind := range taskKind(taskKinds) {
			l.forget(failer{task: f, kind: kind})
		}
	}
}

// forget takes note that nobody can know any more whether it would succeed.
func (l *outageLog) forget(who ...failer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range who {
		if o := l.leave(w); o != nil && o.n+o.late == 0 {
			o.told = false
		}
	}
}

// leave ends the failing of one, and returns the outage it was part of.
func (l *outageLog) leave(who failer) *outage {
	o := l.who.of(who)
	if o != nil {
		l.who.remove(who)
		if who.late() {
			o.late--
		} else {
			o.n--
		}
	}
	return o
}

// storage returns what is known of the storage that an error came from. What
// is in files counts as one.
func (l *outageLog) storage(re *ReplicaError) *outage {
	name := re.Type
	if name != "file" {
		name += " " + re.Bucket
	}
	o := l.known[name]
	if o != nil {
		return o
	}
	if l.known == nil {
		l.known = make(map[string]*outage)
	}
	if len(l.known) >= max(l.sweep, maxOutages) {
		maps.DeleteFunc(l.known, l.forgotten)
		l.sweep = 2 * len(l.known) // those that fail now are not looked at for each new one
	}
	o = &outage{kinds: make(map[string]time.Time)}
	l.who.number(o)
	l.known[name] = o
	return o
}

// forgotten gives up what is known of a storage that serves again.
func (l *outageLog) forgotten(_ string, o *outage) bool {
	over := o.n+o.late == 0 && !o.told
	if over {
		l.who.free(o)
		if l.fleet == o {
			l.fleet = nil
		}
	}
	return over
}

func (l *outageLog) time() time.Time {
	if l.now != nil {
		return l.now()
	}
	return time.Now()
}

func (l *outageLog) pause() time.Duration {
	if l.interval > 0 {
		return l.interval
	}
	return outageInterval
}
