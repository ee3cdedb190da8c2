package litestream

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// outageTest is a log of storages with a clock and the lines that it wrote.
type outageTest struct {
	t   *testing.T
	log outageLog
	at  time.Time
	buf bytes.Buffer
	to  *slog.Logger
}

func newOutageTest(t *testing.T) *outageTest {
	t.Helper()
	o := &outageTest{t: t, at: time.Unix(1_000_000, 0)}
	o.to = slog.New(slog.NewTextHandler(&o.buf, nil))
	o.log.now = func() time.Time { return o.at }
	return o
}

// lines checks how many lines were written since the last call, and returns
// them.
func (o *outageTest) lines(step string, want int) string {
	o.t.Helper()
	text := o.buf.String()
	o.buf.Reset()
	if got := strings.Count(text, "\n"); got != want {
		o.t.Errorf("%s: %d lines, want %d:\n%s", step, got, want, text)
	}
	return text
}

func (o *outageTest) fail(id int, err error) bool {
	return o.log.failed(failer{id: uint32(id)}, err, o.to, "db", fmt.Sprint(id))
}

func (o *outageTest) succeed(id int) { o.log.succeeded(failer{id: uint32(id)}, o.to) }

// remembered counts those that fail.
func (o *outageTest) remembered() (n int) {
	n = len(o.log.who.others)
	for _, s := range o.log.who.fleet {
		for _, piece := range s.pieces {
			for i := range piece {
				if piece[i] != 0 {
					n++
				}
			}
		}
	}
	return n
}

func away(cause string) error {
	return &ReplicaError{Type: "s3", Bucket: "b", Op: "put", Err: errors.New(cause)}
}

func refused(code string) error {
	return &ReplicaError{Type: "s3", Bucket: "b", Op: "put", Code: code, Permanent: true, Err: errors.New("no")}
}

// A hundred databases, of which each fails in its own way, several times, have
// one line when it begins, and one when the last is over it.
func TestOutageLog(t *testing.T) {
	o := newOutageTest(t)
	for range 5 {
		for i := range 100 {
			o.at = o.at.Add(100 * time.Millisecond)
			if !o.fail(i, away(fmt.Sprintf("cause %c", 'a'+i%26))) {
				t.Fatal("not a storage's failure")
			}
		}
	}
	o.lines("outage", 1)
	for i := range 100 {
		o.lines("before the last", 0)
		o.succeed(i)
	}
	if text := o.lines("over", 1); !strings.Contains(text, "after=49.9s") {
		t.Errorf("line %q, want how long it was", text)
	}
	o.succeed(1)
	o.lines("success without failure", 0)
	if n := o.remembered(); n != 0 {
		t.Errorf("%d are remembered, want none", n)
	}
}

func TestOutageLog_Kinds(t *testing.T) {
	o := newOutageTest(t)
	o.fail(1, away("reset"))
	o.lines("passing", 1)
	o.fail(1, refused("AccessDenied"))
	o.lines("refused", 1)
	o.fail(2, refused("AccessDenied"))
	o.fail(2, refused("HTTP403")) // an answer without a body
	o.fail(1, away("timeout"))
	o.lines("the same", 0)
	o.fail(3, &ReplicaError{Type: "s3", Bucket: "other", Op: "put", Err: errors.New("reset")})
	o.lines("another storage", 1)
	o.succeed(3)
	o.lines("the other is over", 1)
	for i := range 10 {
		o.fail(1, refused(fmt.Sprintf("Code%c", 'a'+i)))
	}
	o.lines("ever new codes", maxOutageKinds-2)
	o.succeed(1)
	o.succeed(2)
	o.lines("over", 1)
}

// What comes and goes is not logged each time, and no line says that something
// is over that none said began.
func TestOutageLog_Flapping(t *testing.T) {
	o := newOutageTest(t)
	for range 10 {
		o.at = o.at.Add(time.Second)
		o.fail(1, away("reset"))
		o.at = o.at.Add(time.Second)
		o.succeed(1)
	}
	o.lines("20 seconds", 2)
	o.fail(1, away("reset"))
	o.at = o.at.Add(outageInterval)
	o.lines("again", 0)
	o.fail(1, away("reset"))
	o.lines("goes on", 1)
	o.at = o.at.Add(outageReminder - time.Second)
	o.fail(1, away("reset"))
	o.lines("for an hour", 0)
	o.at = o.at.Add(time.Second)
	o.fail(1, away("reset"))
	if text := o.lines("longer", 1); !strings.Contains(text, "attempts=4") || !strings.Contains(text, "since=") {
		t.Errorf("line %q, want attempts and since when", text)
	}
	o.succeed(1)
	o.lines("over", 1)
}

func TestOutageLog_Forget(t *testing.T) {
	o := newOutageTest(t)
	o.fail(1, away("reset"))
	o.fail(2, away("reset"))
	o.log.forget(failer{id: 1})
	o.lines("one left", 1)
	o.succeed(2)
	o.lines("over", 1)
	o.at = o.at.Add(outageInterval)
	o.fail(1, away("reset"))
	o.log.forget(failer{id: 1}, failer{id: 7})
	o.at = o.at.Add(outageInterval)
	o.fail(2, away("reset"))
	o.lines("two outages", 2)
}

func TestOutageLog_Objects(t *testing.T) {
	o := newOutageTest(t)
	for _, err := range []error{
		nil, errors.New("disk full"), fs.ErrPermission,
		&ReplicaError{Type: "s3", Err: fs.ErrNotExist}, &ReplicaError{Type: "s3", Err: fs.ErrExist},
	} {
		if o.fail(1, err) {
			t.Errorf("%v counts as the storage's", err)
		}
	}
	o.lines("objects", 0)
	for i := range 2 * maxOutages {
		o.fail(i, &ReplicaError{Type: "s3", Bucket: fmt.Sprint(i), Err: errors.New("reset")})
		o.succeed(i)
	}
	if n := len(o.log.known); n > maxOutages {
		t.Errorf("%d storages are remembered, want at most %d", n, maxOutages)
	}
}

// What is tried again much later does not hold up the end.
func TestOutageLog_Late(t *testing.T) {
	o := newOutageTest(t)
	late := func(i uint32) { o.log.failed(upkeepFailer(i), away("reset"), o.to) }
	late(1)
	o.fail(1, away("reset"))
	o.fail(2, away("reset"))
	late(2)
	o.lines("begin", 1)
	o.succeed(2)
	o.lines("one left", 0)
	o.succeed(1)
	o.lines("over", 1)
	o.log.succeeded(upkeepFailer(1), o.to)
	o.log.succeeded(upkeepFailer(2), o.to)
	o.lines("later", 0)

	o.at = o.at.Add(outageInterval)
	late(1)
	o.lines("again", 1)
	o.succeed(7) // which did not fail
	o.lines("over", 1)

	o.at = o.at.Add(outageInterval)
	late(1)
	late(2)
	o.log.succeeded(upkeepFailer(1), o.to)
	o.lines("one of two", 1)
	o.log.succeeded(upkeepFailer(2), o.to)
	o.lines("both", 1)
	if n := o.remembered(); n != 0 {
		t.Errorf("%d are remembered, want none", n)
	}
}

// More storages may fail at once than two bytes can number: one for each of
// many buckets. Each is forgotten once it serves, and its number used again.
func TestOutageLog_Numbers(t *testing.T) {
	o := newOutageTest(t)
	o.to = slog.New(slog.DiscardHandler)
	const storages = 1<<16 + 10
	for round := range 2 {
		for i := range storages {
			o.fail(i, &ReplicaError{Type: "s3", Bucket: fmt.Sprint(round, i), Err: errors.New("away")})
		}
		if n := o.remembered(); n != storages {
			t.Errorf("%d are remembered, want %d", n, storages)
		}
		for i := range storages {
			if got := o.log.who.of(failer{id: uint32(i)}); got != o.log.known["s3 "+fmt.Sprint(round, i)] {
				t.Fatalf("failer %d is part of another storage's outage", i)
			}
			o.succeed(i)
		}
		if n := o.remembered(); n != 0 {
			t.Errorf("%d are remembered, want none", n)
		}
	}
	if n := len(o.log.who.outages); n != 1<<16-1 {
		t.Errorf("%d numbers for outages, want as many as there are", n)
	}
}
