package litestream

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
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

// Bounds of the databases that yield: none, and all.
const (
	yieldNone = math.MinInt64
	yieldAll  = math.MaxInt64
)

// yieldShare: for so many that wait, one that is busy yields. Most of those who
// come have one change and hand their place on as soon as it is replicated.
// One that is busy and had to go is found by a scan only when it changes again.
const yieldShare = 4

// yieldBound chooses who yields to n databases that wait, of hot ones that were
// last written to at these times, which it sorts: those that nobody wrote to
// for longest, at or before the returned time. It is asked again and again
// while somebody waits.
func yieldBound(touched []int64, n int) int64 {
	slices.Sort(touched)
	return touched[min((n+yieldShare-1)/yieldShare, len(touched))-1]
}

// yields reports whether a database that was last written to at a time, and
// captured so often since it is hot, has to hand its place on.
func yields(bound, touched int64, captures int) bool {
	return touched <= bound || captures <= 1 && bound != yieldNone
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

// errNotSent means that what was captured could not be sent, whatever the kind
// of storage says about it.
var errNotSent = errors.New("the replica does not hold the last changes")

// unsent gives an error of an upload, or of the first contact, its class.
func unsent(err error) error { return fmt.Errorf("%w: %w", errNotSent, err) }

// errSamePath means that two databases would share one replica.
var errSamePath = errors.New("has the replica path of another database")
