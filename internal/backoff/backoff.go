// Package backoff spaces out what fails: the delay before the next attempt,
// and how often the failure is written to the log.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Backoff is an exponentially growing delay with jitter, so that databases
// that failed together do not come back together. It is not safe for
// concurrent use.
type Backoff struct {
	Min time.Duration // upper bound of the first delay
	Max time.Duration // upper bound of every delay; at least Min

	// Rand is the source of the jitter; nil means the process-wide one.
	Rand *rand.Rand

	next time.Duration // upper bound of the next delay; 0: Min
}

// Next returns how long to wait before the next attempt: between half of the
// current bound and the bound itself, which doubles with each call up to Max.
func (b *Backoff) Next() time.Duration {
	limit := max(b.Min, b.Max)
	d := b.next
	if d <= 0 {
		d = b.Min
	}
	if d > limit/2 {
		b.next = limit
	} else {
		b.next = 2 * d
	}
	half := int64(d / 2)
	switch {
	case half <= 0:
		return max(d, 0)
	case b.Rand != nil:
		return d - time.Duration(b.Rand.Int64N(half+1))
	default:
		return d - time.Duration(rand.Int64N(half+1))
	}
}

// Reset is called after a success: the next delay begins at Min again.
func (b *Backoff) Reset() { b.next = 0 }

// Failing reports whether Next was called since the last Reset.
func (b *Backoff) Failing() bool { return b.next != 0 }
