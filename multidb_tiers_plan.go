package litestream

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// tierMove is what becomes of a hot database.
type tierMove int

const (
	tierStay tierMove = iota
	// tierCool lets it go: all that was captured is acknowledged.
	tierCool
	// tierFail lets it go for a while: it cannot be replicated now.
	tierFail
	// tierGone lets it go: there is no file any more.
	tierGone
)

// tierFacts is what a hot database's move depends on.
type tierFacts struct {
	state       SyncState // outcome of the last look
	pending     int       // captured files that the storage has not acknowledged
	suspended   bool      // staging is full, so that not everything is captured
	looked      bool      // a look that came to its end has followed the promotion
	settled     bool      // the fingerprint was older than the clock margin at that look
	quiet       time.Duration
	sendFailed  bool          // the storage did not take, or tell, what it was asked to
	sendFailing time.Duration // for how long
	permanent   bool          // trying again would not help
	retried     bool          // it failed the last time, too
	users       int           // others that need it open, such as a snapshot
	waiting     bool          // other databases wait for its place, or the process ends
}

// patienceWithReplica is how long a hot database keeps its place while its
// uploads fail and others wait. One that comes back has had it.
const patienceWithReplica = 10 * time.Second

// yieldMode says which hot databases hand their places on as soon as they are
// replicated.
type yieldMode = int32

const (
	yieldNone yieldMode = iota // nobody waits
	yieldSome                  // those that came for one change, and those that were chosen
	yieldAll
)

const (
	// yieldShare: for so many that wait, one that is busy yields. Most of those
	// who come have one change and hand their place on as soon as it is
	// replicated. One that is busy and had to go is found by a scan only when it
	// changes again.
	yieldShare = 4
	// yieldPatience is how long those that were chosen are counted on. One may be
	// in use, or its storage away: then another one is chosen beside it.
	yieldPatience = 2 * time.Second
)

// yieldFacts is what the choice of those that yield depends on.
type yieldFacts struct {
	touched int64 // when the hot database was last written to, in nanoseconds
	chosen  int64 // when it was chosen, in nanoseconds; 0: it was not
}

// chooseYields returns which more hot databases yield to those that wait: those
// that nobody wrote to for longest. A choice stands whatever is written later,
// or a database that is written to all the time would never go.
func chooseYields(hot []yieldFacts, waiting int, now int64) (chosen []int) {
	need := (waiting + yieldShare - 1) / yieldShare
	var free []int
	for i, f := range hot {
		switch {
		case f.chosen == 0:
			free = append(free, i)
		case now-f.chosen < int64(yieldPatience):
			need--
		}
	}
	if need <= 0 {
		return nil
	}
	slices.SortFunc(free, func(a, b int) int { return cmp.Compare(hot[a].touched, hot[b].touched) })
	return free[:min(need, len(free))]
}

// yields reports whether a hot database that was captured so often, and chosen
// or not, has to hand its place on.
func yields(mode yieldMode, chosen bool, captures int) bool {
	return mode == yieldAll || mode == yieldSome && (chosen || captures <= 1)
}

// decideTier settles whether a hot database stays hot. While others wait, hot
// is a time slice: whoever is captured and acknowledged yields.
func decideTier(f tierFacts, hotDuration time.Duration) tierMove {
	switch {
	case f.users > 0:
		return tierStay
	case f.sendFailed && (f.permanent || f.waiting && (f.retried || f.sendFailing > patienceWithReplica)):
		return tierFail
	case f.pending > 0:
		return tierStay
	case f.state == SyncStateFailed, f.state == SyncStateEmpty:
		return tierFail
	case f.state == SyncStateMissing:
		return tierGone
	case f.suspended || !f.looked || f.state != SyncStateOK:
		return tierStay
	case f.waiting:
		return tierCool
	case f.settled && f.quiet >= hotDuration:
		return tierCool
	default:
		return tierStay
	}
}

// Bounds of the pause before a database that failed is tried again, and of
// what is left of it when the file has changed since.
const (
	minTenantRetry     = 2 * time.Second
	maxTenantRetry     = time.Hour
	maxTenantRetryIfIn = time.Minute
)

// tenantRetry returns the pause after so many failures in a row.
func tenantRetry(tries uint8, changed bool) time.Duration {
	d := maxTenantRetry
	if tries < 11 {
		d = min(minTenantRetry<<tries, maxTenantRetry)
	}
	if changed {
		d = min(d, maxTenantRetryIfIn)
	}
	return d
}

// errNoPages means that a file has no page yet.
var errNoPages = errors.New("the file is empty: it becomes a database with the first write to it")

// failureClass returns the kind of a failure, for metrics and the summary.
func failureClass(err error) string {
	if errors.Is(err, ErrSecondWriter) {
		return "second-writer"
	}
	// A cause such as "permission denied" may be the storage's, too.
	if _, ok := errors.AsType[*ReplicaError](err); ok || errors.Is(err, errNotSent) {
		return "replica"
	}
	for _, c := range []struct {
		is    error
		class string
	}{
		{errTenantStopped, "stopped"},
		{errNoPages, "empty"},
		{errCutShort, "cut-short"},
		{errSamePath, "same-replica-path"},
		{ErrReplicaPathTooLong, "replica-path"},
		{errSecondPath, "second-path"},
		{errNetworkFS, "network-fs"},
		{errLeftoverLog, "leftover-wal"},
		{ErrNotDatabase, "not-a-database"},
		{ErrDatabaseLocked, "locked"},
		{ErrDiskFull, "disk-full"},
		{fs.ErrPermission, "permission"},
		{fs.ErrNotExist, "missing"},
	} {
		if errors.Is(err, c.is) {
			return c.class
		}
	}
	return "other"
}

// NetworkFSAdvice says what to do about a database on a network file system.
const NetworkFSAdvice = "replicate it on the machine where the files lie, exclude it, or set allow-network-filesystem"

// advise adds to a reason what to do about it, where it does not say so.
func advise(err error) error {
	switch failureClass(err) {
	case "not-a-database":
		return fmt.Errorf("%w; exclude it, unless it is about to become one", err)
	case "network-fs":
		return fmt.Errorf("%w; %s", err, NetworkFSAdvice)
	case "permission":
		return fmt.Errorf("%w; give user id %d read access to it and its folder", err, os.Geteuid())
	case "locked":
		return fmt.Errorf("%w; have the application end its transaction or use locking_mode=normal: it is tried again", err)
	default:
		return err
	}
}

// errNotSent means that what was captured could not be sent, whatever the kind
// of storage says about it.
var errNotSent = errors.New("the replica does not hold the last changes")

// unsent gives an error of an upload, or of the first contact, its class.
func unsent(err error) error { return fmt.Errorf("%w: %w", errNotSent, err) }

// errSamePath means that two databases would share one replica.
var errSamePath = errors.New("has the replica path of another database")
