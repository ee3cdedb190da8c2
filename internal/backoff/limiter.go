package backoff

import (
	"hash/fnv"
	"time"
)

// DefaultLogInterval is the pause between two log lines about one failure, as
// in Litestream v0.5.
const DefaultLogInterval = 30 * time.Second

// maxClasses bounds the log lines of one interval when an error changes its
// text all the time.
const maxClasses = 4

// Limiter decides which occurrences of an error are logged: the first one at
// once, then one per Interval for each class of text, and no more than a few
// classes per Interval. Errors that differ only in numbers, such as a TXID, a
// port or a request id, are of one class. It is not safe for concurrent use.
// The zero value works.
type Limiter struct {
	Interval time.Duration    // 0 means DefaultLogInterval
	Now      func() time.Time // nil means time.Now

	logged     [maxClasses]logged
	suppressed int  // since Suppressed was called last
	failing    bool // an error was logged and no recovery since
}

// logged is the newest log line of a class; a zero time is a free place.
type logged struct {
	class uint64
	at    time.Time
}

// Allow reports whether err is logged now. A nil error never is.
func (l *Limiter) Allow(err error) bool {
	if err == nil {
		return false
	}
	now, class := l.now(), classOf(err.Error())
	slot := -1
	for i, e := range l.logged {
		fresh := !e.at.IsZero() && now.Sub(e.at) < l.interval()
		if fresh && e.class == class {
			l.suppressed++
			return false
		}
		if !fresh {
			slot = i
		}
	}
	if slot < 0 {
		l.suppressed++
		return false
	}
	l.logged[slot] = logged{class: class, at: now}
	l.failing = true
	return true
}

// Suppressed returns how many errors were kept from the log since the last
// call, for the line that is about to be written.
func (l *Limiter) Suppressed() int {
	n := l.suppressed
	l.suppressed = 0
	return n
}

// Recovered is called after a success. It returns true, once, if an error was
// logged since the last recovery, so that the log does not end with a failure
// that is over. The intervals go on: something that fails and recovers every
// second is not logged every second.
func (l *Limiter) Recovered() bool {
	was := l.failing
	l.failing = false
	return was
}

func (l *Limiter) interval() time.Duration {
	if l.Interval > 0 {
		return l.Interval
	}
	return DefaultLogInterval
}

func (l *Limiter) now() time.Time {
	if l.Now != nil {
		return l.Now()
	}
	return time.Now()
}

// classOf hashes a text in which each word with a digit counts as the same. A
// word is what an id may look like, a UUID or base64 for instance, and so is a
// path.
func classOf(s string) uint64 {
	h := fnv.New64a()
	for len(s) > 0 {
		n, digit := 0, false
		for n < len(s) && isWord(s[n]) {
			digit = digit || s[n] >= '0' && s[n] <= '9'
			n++
		}
		switch {
		case n == 0:
			n = 1
			h.Write([]byte{s[0]})
		case digit:
			h.Write([]byte{'0'})
			for n < len(s) && s[n] == '=' { // padding of base64
				n++
			}
		default:
			h.Write([]byte(s[:n]))
		}
		s = s[n:]
	}
	return h.Sum64()
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
		c == '_' || c == '-' || c == '+' || c == '/'
}
