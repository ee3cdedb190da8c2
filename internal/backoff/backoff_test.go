package backoff_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/internal/backoff"
)

func TestBackoff_Bounds(t *testing.T) {
	for _, tt := range []struct {
		name     string
		min, max time.Duration
		want     []time.Duration // upper bounds
	}{
		{"Doubles", time.Second, 5 * time.Second, []time.Duration{1e9, 2e9, 4e9, 5e9, 5e9}},
		{"MaxIsPower", time.Second, 4 * time.Second, []time.Duration{1e9, 2e9, 4e9, 4e9}},
		{"MaxBelowMin", time.Second, 0, []time.Duration{1e9, 1e9}},
		{"Huge", 1 << 61, 1<<63 - 1, []time.Duration{1 << 61, 1 << 62, 1<<63 - 1, 1<<63 - 1}},
		{"Zero", 0, 0, []time.Duration{0, 0}},
		{"Tiny", 1, 2, []time.Duration{1, 2, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, rnd := range []*rand.Rand{nil, rand.New(rand.NewPCG(1, 2))} {
				b := backoff.Backoff{Min: tt.min, Max: tt.max, Rand: rnd}
				for range 100 {
					for i, limit := range tt.want {
						if got := b.Next(); got > limit || got < limit/2 {
							t.Fatalf("delay %d is %v, want %v to %v", i, got, limit/2, limit)
						}
					}
					b.Reset()
					if b.Failing() {
						t.Fatal("failing after reset")
					}
				}
			}
		})
	}
}

func TestBackoff_Jitter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for i := range uint64(100) {
		b := backoff.Backoff{Min: time.Second, Max: time.Minute, Rand: rand.New(rand.NewPCG(i, 0))}
		seen[b.Next()] = true
		if !b.Failing() {
			t.Fatal("not failing after Next")
		}
	}
	if len(seen) < 90 {
		t.Fatalf("%d different first delays of 100", len(seen))
	}
}

func TestLimiter(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := backoff.Limiter{Now: func() time.Time { return now }}
	check := func(step string, err error, want bool) {
		t.Helper()
		if got := l.Allow(err); got != want {
			t.Fatalf("%s: Allow=%v, want %v", step, got, want)
		}
	}
	timeout := func(i int) error { return fmt.Errorf("put ltx/0/%016x.ltx: request id=AB%dF: timeout", i, i*31) }

	check("no error", nil, false)
	if l.Recovered() {
		t.Fatal("recovered from nothing")
	}
	check("first", timeout(1), true)
	for i := range 29 {
		now = now.Add(time.Second)
		check("same class", timeout(i), false)
	}
	if got := l.Suppressed(); got != 29 || l.Suppressed() != 0 {
		t.Fatalf("suppressed=%d, want 29, then 0", got)
	}
	check("other class", errors.New("access denied"), true)
	check("back to the first", timeout(3), false)
	now = now.Add(time.Second)
	check("after the interval", timeout(4), true)
	if !l.Recovered() || l.Recovered() {
		t.Fatal("recovery is due once")
	}
	now = now.Add(time.Second)
	check("flapping", timeout(5), false)
	if l.Recovered() {
		t.Fatal("recovery logged for an error that was not")
	}
}

func TestLimiter_ManyClasses(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := backoff.Limiter{Interval: time.Minute, Now: func() time.Time { return now }}
	n := 0
	for i := range 26 * 26 {
		if l.Allow(fmt.Errorf("reason %c%c", 'a'+i/26, 'a'+i%26)) {
			n++
		}
	}
	if n != 4 {
		t.Fatalf("%d lines in one interval, want 4", n)
	}
	now = now.Add(time.Minute)
	if !l.Allow(errors.New("reason zz")) {
		t.Fatal("not logged after the interval")
	}
}

// What a server puts into each answer anew makes no error another one.
func TestLimiter_IDs(t *testing.T) {
	const format = "list s3 bucket=b key=some/app.db/0000/ code=AccessDenied: StatusCode: 403, RequestID: %s, HostID: %s, api error AccessDenied: no"
	var l backoff.Limiter
	for i, ids := range [][2]string{
		{"3IPDR3O5EDSZP4X2", "PlvtvY9SkfAlIH/ep9b9vKSErjwk8PXqqQw0fBVsPXo="},
		{"4FRQYFFU4ARJJ9HH", "D3lH4FWeldoHr9IS4NsUo6KKgrP0h6Hlw8kkEPMp+Qn0/wADaGVY=="},
		{"tx000005a-fe", "0c2d7d2e-abcd-fade-beef-9a4f6e5d7c3b"},
		{"tx0000000-beef", ""},
	} {
		if got, want := l.Allow(fmt.Errorf(format, ids[0], ids[1])), i == 0 || ids[1] == ""; got != want {
			t.Errorf("%v: allowed=%t, want %t", ids, got, want)
		}
	}
}

func TestLimiter_Zero(t *testing.T) {
	var l backoff.Limiter
	if !l.Allow(errors.New("x")) || l.Allow(errors.New("x")) {
		t.Fatal("want the first at once and the second not")
	}
}
