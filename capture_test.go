package litestream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
)

// TestLTXWriter_PublishRule drops a random page of those that a file has to
// hold: the encoder refuses every time, and takes the complete set.
func TestLTXWriter_PublishRule(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const pageSize = 512
	dir := ltxfile.New(t.TempDir(), 0o700, 0o600, -1, -1)
	write := func(rule publishRule, commit uint32, pgnos []uint32) error {
		hdr := ltx.Header{
			Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: pageSize, Commit: commit,
			MinTXID: 2, MaxTXID: 2, Timestamp: 1, WALOffset: WALHeaderSize,
		}
		f, err := dir.Create(2, 2)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := f.Abort(); err != nil {
				t.Fatal(err)
			}
		}()
		w, err := newLTXWriter(f, hdr, rule)
		if err != nil {
			return err
		}
		page := make([]byte, pageSize)
		for _, pgno := range pgnos {
			if err := w.page(pgno, page); err != nil {
				return err
			}
		}
		return w.finish(0)
	}
	for i := range 1000 {
		smallest := uint32(1 + rnd.IntN(20))
		commit := smallest + uint32(1+rnd.IntN(20))
		rule := publishRule{minPageN: smallest, lastPgno: 1 + rnd.Uint32N(commit)}
		var all, must []uint32
		for pgno := uint32(1); pgno <= commit; pgno++ {
			if pgno > smallest || pgno == rule.lastPgno {
				must = append(must, pgno)
			} else if rnd.IntN(2) == 0 {
				continue
			}
			all = append(all, pgno)
		}
		if err := write(rule, commit, all); err != nil {
			t.Fatalf("%d: complete set: %v", i, err)
		}
		drop := must[rnd.IntN(len(must))]
		var left []uint32
		for _, pgno := range all {
			if pgno != drop {
				left = append(left, pgno)
			}
		}
		if err := write(rule, commit, left); !errors.Is(err, errPublishRule) {
			t.Fatalf("%d: without page %d of %v (smallest %d, commit %d): got error %v, want %v",
				i, drop, all, smallest, commit, err, errPublishRule)
		}
	}
}

// TestDecideCheckpoint holds the thresholds of Litestream v0.5.
func TestDecideCheckpoint(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	const pageSize = 4096
	end := func(n int) int64 { return walBytes(n, pageSize) }
	base := checkpointInput{
		Now: now, PageSize: pageSize, WALBytes: end(500), MainTouched: now, MinPageN: 1000,
		TruncatePageN: 5000, Interval: time.Minute,
	}
	for _, tt := range []struct {
		name string
		edit func(*checkpointInput)
		want checkpointMode
	}{
		{"small and young", func(*checkpointInput) {}, checkpointNone},
		{"small and old", func(in *checkpointInput) { in.MainTouched = now.Add(-time.Hour) }, checkpointPassive},
		{"small and old, no interval", func(in *checkpointInput) { in.MainTouched, in.Interval = now.Add(-time.Hour), 0 }, checkpointNone},
		{"small and old, tried just now", func(in *checkpointInput) {
			in.MainTouched, in.SameLineage, in.State = now.Add(-time.Hour), true, checkpointState{attempted: now.Add(-time.Second), end: end(500)}
		}, checkpointNone},
		{"one frame", func(in *checkpointInput) { in.WALBytes, in.MainTouched = end(1), now.Add(-time.Hour) }, checkpointNone},
		{"no log", func(in *checkpointInput) { in.WALBytes, in.MainTouched = 0, now.Add(-time.Hour) }, checkpointNone},
		{"threshold", func(in *checkpointInput) { in.WALBytes = end(1000) }, checkpointPassive},
		{"one below the threshold", func(in *checkpointInput) { in.WALBytes = end(999) }, checkpointNone},
		{"held up by a reader, no growth", func(in *checkpointInput) {
			in.WALBytes, in.SameLineage, in.State = end(1500), true, checkpointState{attempted: now.Add(-time.Second), end: end(1500)}
		}, checkpointNone},
		{"held up by a reader, little growth", func(in *checkpointInput) {
			in.WALBytes, in.SameLineage, in.State = end(1600), true, checkpointState{attempted: now.Add(-time.Second), end: end(1500)}
		}, checkpointNone},
		{"held up by a reader, grown by the threshold", func(in *checkpointInput) {
			in.WALBytes, in.SameLineage, in.State = end(2500), true, checkpointState{attempted: now.Add(-time.Second), end: end(1500)}
		}, checkpointPassive},
		{"held up by a reader, a minute ago", func(in *checkpointInput) {
			in.WALBytes, in.SameLineage, in.State = end(1500), true, checkpointState{attempted: now.Add(-time.Minute), end: end(1500)}
		}, checkpointPassive},
		{"complete, no growth", func(in *checkpointInput) {
			in.WALBytes, in.SameLineage, in.State = end(1500), true, checkpointState{attempted: now.Add(-time.Hour), end: end(1500), complete: true}
		}, checkpointNone},
		{"complete and huge", func(in *checkpointInput) {
			in.WALBytes, in.SameLineage, in.State = end(5000), true, checkpointState{attempted: now, end: end(5000), complete: true}
		}, checkpointTruncate},
		{"complete and huge, truncation off", func(in *checkpointInput) {
			in.WALBytes, in.SameLineage, in.State = end(5000), true, checkpointState{end: end(5000), complete: true}
			in.TruncatePageN = 0
		}, checkpointNone},
		{"complete and huge, truncated just now", func(in *checkpointInput) {
			in.WALBytes, in.SameLineage, in.State = end(5000), true, checkpointState{end: end(5000), complete: true, truncated: now.Add(-time.Second)}
		}, checkpointNone},
		{"huge, not complete", func(in *checkpointInput) { in.WALBytes = end(5000) }, checkpointPassive},
		{"another lineage", func(in *checkpointInput) {
			in.WALBytes, in.State = end(1000), checkpointState{attempted: now, end: end(3000), complete: true}
		}, checkpointPassive},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := base
			tt.edit(&in)
			if got := decideCheckpoint(in); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestScheduler holds the order of tasks and that the earlier time counts.
func TestScheduler(t *testing.T) {
	s := newScheduler(func(*managedDB, taskKind) {})
	t0 := time.Unix(1000, 0)
	ms := make([]*managedDB, 3)
	for i := range ms {
		ms[i] = &managedDB{}
		for k := range ms[i].tasks {
			ms[i].tasks[k] = scheduled{m: ms[i], kind: taskKind(k), index: -1}
		}
	}
	s.at(t0.Add(3*time.Second), ms[0], taskSync)
	s.at(t0.Add(2*time.Second), ms[1], taskSync)
	s.at(t0.Add(9*time.Second), ms[2], taskSync)
	s.at(t0.Add(1*time.Second), ms[2], taskSync) // earlier
	s.at(t0.Add(8*time.Second), ms[1], taskSync) // later: no effect
	s.at(t0.Add(1500*time.Millisecond), ms[0], taskUpload)
	s.remove(ms[1])
	s.at(t0, ms[1], taskSync) // it is gone
	if item, wait := s.next(t0); item != nil || wait != time.Second {
		t.Fatalf("got %v after %s, want nothing for a second", item, wait)
	}
	var got []string
	for {
		item, wait := s.next(t0.Add(time.Minute))
		if item == nil {
			if wait != time.Hour {
				t.Fatalf("wait %s, want an hour when nothing is scheduled", wait)
			}
			break
		}
		for i, m := range ms {
			if m == item.m {
				got = append(got, fmt.Sprintf("%d/%d", i, item.kind))
			}
		}
	}
	if want := "[2/0 0/1 0/0]"; fmt.Sprint(got) != want {
		t.Errorf("order %v, want %s", got, want)
	}
}
