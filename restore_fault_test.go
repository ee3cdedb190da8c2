package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

func (k fileKey) String() string {
	return fmt.Sprintf("%s (level %d)", ltx.FormatFilename(k.min, k.max), k.level)
}

// damagedReplica is a small replica whose plan is a snapshot, a compacted file
// and two increments.
func damagedReplica(t *testing.T, checksum bool) (*memReplica, *source) {
	t.Helper()
	client := newMemReplica()
	s := newSource(t, client, 1024, checksum)
	s.fill(4)
	for i := range 2 {
		s.exec("UPDATE t SET v = randomblob(400) WHERE id % 19 = ?", i)
		s.capture()
	}
	s.write(9, 1, 2)
	s.write(1, 3, 4)
	return client, s
}

func sortedKeys(client *memReplica) []fileKey {
	return slices.SortedFunc(maps.Keys(client.files), func(a, b fileKey) int { return strings.Compare(a.String(), b.String()) })
}

// wantRefused checks that a replica with a damaged file is refused by naming
// the file, or that the damage made no difference.
func wantRefused(t *testing.T, client *memReplica, k fileKey, want []byte, what string) (refused bool) {
	t.Helper()
	opt := testOptions(t)
	_, err := litestream.Restore(t.Context(), client, opt)
	if err == nil {
		// Another way to compress the same bytes, or a file that the plan or
		// its newer files make superfluous.
		wantImage(t, opt.OutputPath, want)
		return false
	}
	var le *litestream.LTXError
	if !errors.As(err, &le) {
		t.Fatalf("%s: err=%v (%T), want an LTXError", what, err, err)
	}
	if got := (fileKey{le.Level, le.MinTXID, le.MaxTXID}); got != k {
		t.Fatalf("%s: error names %s: %v", what, got, err)
	}
	if le.Hint == "" {
		t.Errorf("%s: no hint in %v", what, err)
	}
	wantNothingLeft(t, opt)
	return true
}

func TestRestore_BitFlips(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, checksum := range []bool{false, true} {
		client, s := damagedReplica(t, checksum)
		want := s.images[s.txid]
		for _, k := range sortedKeys(client) {
			if k.level == 0 && k.min <= 4 {
				continue // not in the plan
			}
			good := client.files[k]
			offsets := []int{}
			for range 20 {
				offsets = append(offsets,
					rnd.IntN(ltx.HeaderSize+10),
					len(good)-1-rnd.IntN(ltx.TrailerSize+24), // the end of the index and the trailer
					rnd.IntN(len(good)))
			}
			refused := 0
			for _, offset := range offsets {
				bad := bytes.Clone(good)
				bad[offset] ^= 1 << rnd.IntN(8)
				client.files[k] = bad
				if wantRefused(t, client, k, want, fmt.Sprintf("%s: bit flipped in byte %d", k, offset)) {
					refused++
				}
			}
			client.files[k] = good
			if refused < len(offsets)*3/4 {
				t.Errorf("%s: refused %d of %d flips", k, refused, len(offsets))
			}
		}
	}
}

func TestRestore_Truncated(t *testing.T) {
	client, s := damagedReplica(t, false)
	for _, k := range sortedKeys(client) {
		good := client.files[k]
		for _, n := range []int{0, 1, 50, 99, 100, 101, 106, 500, len(good) / 2, len(good) - 25, len(good) - 16, len(good) - 8, len(good) - 1} {
			client.files[k] = good[:n]
			refused := wantRefused(t, client, k, s.images[s.txid], fmt.Sprintf("%s: %d of %d bytes", k, n, len(good)))
			if planned := k.level > 0 || k.min > 4; refused != planned {
				t.Errorf("%s: %d of %d bytes: refused=%t, want %t", k, n, len(good), refused, planned)
			}
		}
		client.files[k] = append(bytes.Clone(good), 0)
		wantRefused(t, client, k, s.images[s.txid], fmt.Sprintf("%s: a byte too many", k))
		client.files[k] = good
	}
}

func TestRestore_Hint(t *testing.T) {
	for _, tt := range []struct {
		name  string
		bad   fileKey
		extra fileKey // one more file
		want  string
	}{
		{name: "rest is restorable", bad: fileKey{0, 5, 5}, want: "(the newest position restorable without this file is txid 0000000000000004)"},
		{name: "nothing is", bad: fileKey{9, 1, 2}, want: "(nothing is restorable without this file)"},
		{name: "others reach as far", bad: fileKey{1, 3, 4}, extra: fileKey{2, 3, 3}, want: "(without this file txid 0000000000000006 is restorable: move it away and restore again)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, s := damagedReplica(t, false)
			if tt.extra.min != 0 {
				s.write(tt.extra.level, tt.extra.min, tt.extra.max)
			} else {
				for txid := ltx.TXID(1); txid <= 4; txid++ {
					delete(client.files, fileKey{0, txid, txid})
				}
			}
			client.files[tt.bad][40] ^= 1
			_, err := litestream.Restore(t.Context(), client, testOptions(t))
			if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("err=%v, want it to end in %q", err, tt.want)
			}
		})
	}
}

// cutReader ends with an error after n bytes.
type cutReader struct {
	io.ReadCloser
	n int
}

func (r *cutReader) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, errors.New("connection reset by peer")
	}
	n, err := r.ReadCloser.Read(p[:min(len(p), r.n)])
	r.n -= n
	return n, err
}

func TestRestore_CutStreams(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	client, s := damagedReplica(t, true)
	var mu sync.Mutex
	client.onOpen = func(_ fileKey, _, _ int64, r io.ReadCloser) (io.ReadCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		return &cutReader{ReadCloser: r, n: 1 + rnd.IntN(900)}, nil
	}
	for range 10 {
		opt := testOptions(t)
		if _, err := litestream.Restore(t.Context(), client, opt); err != nil {
			t.Fatal(err)
		}
		wantImage(t, opt.OutputPath, s.images[s.txid])
	}
}

func TestRestore_GivesUp(t *testing.T) {
	client, _ := damagedReplica(t, false)
	bad := fileKey{1, 3, 4}
	var mu sync.Mutex
	opens := 0
	client.onOpen = func(k fileKey, offset, _ int64, r io.ReadCloser) (io.ReadCloser, error) {
		if k != bad {
			return r, nil
		}
		mu.Lock()
		defer mu.Unlock()
		if offset == 0 {
			opens++ // others read ahead
		}
		return nil, &litestream.ReplicaError{Type: "mem", Op: "get", Err: errors.New("service unavailable")}
	}
	opt := testOptions(t)
	opt.Parallelism = 1
	_, err := litestream.Restore(t.Context(), client, opt)
	if err == nil || !strings.Contains(err.Error(), bad.String()+": at byte 0 of ") || !strings.Contains(err.Error(), "service unavailable") {
		t.Errorf("err=%v, want the file and the cause", err)
	}
	if opens != 4 {
		t.Errorf("%d requests, want 4", opens)
	}
	wantNothingLeft(t, opt)

	opens = 0
	client.onOpen = func(k fileKey, offset, _ int64, _ io.ReadCloser) (io.ReadCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		if k.max == 6 && offset == 0 {
			opens++
		}
		return nil, &litestream.ReplicaError{Type: "mem", Op: "get", Permanent: true, Err: errors.New("access denied")}
	}
	if _, err := litestream.Restore(t.Context(), client, opt); !litestream.IsPermanent(err) || opens != 1 {
		t.Errorf("err=%v after %d requests, want the permanent error after 1", err, opens)
	}
}

// silentReader delivers nothing until it is closed, whatever happens to a
// context.
type silentReader struct{ closed chan struct{} }

func (r silentReader) Read([]byte) (int, error) {
	<-r.closed
	return 0, fs.ErrClosed
}

func (r silentReader) Close() error {
	close(r.closed)
	return nil
}

func TestRestore_Stalls(t *testing.T) {
	client, s := damagedReplica(t, false)
	for _, tt := range []struct {
		name  string
		times int
		took  time.Duration
		ok    bool
	}{
		{"resumes", 2, 2*30*time.Second + 750*time.Millisecond, true},
		{"gives up", 99, 4*30*time.Second + 1750*time.Millisecond, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opt := litestream.NewRestoreOptions()
			opt.OutputPath = t.TempDir() + "/out/restored.db"
			synctest.Test(t, func(t *testing.T) {
				stalls := 0
				client.onOpen = func(k fileKey, _, _ int64, r io.ReadCloser) (io.ReadCloser, error) {
					if k.level != 9 || stalls == tt.times {
						return r, nil
					}
					stalls++
					return silentReader{make(chan struct{})}, nil
				}
				start := time.Now()
				_, err := litestream.Restore(t.Context(), client, opt)
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %s, want %s", took, tt.took)
				}
				if !tt.ok {
					if err == nil || !strings.Contains(err.Error(), "no data received for 30s") {
						t.Errorf("err=%v, want a stall", err)
					}
					wantNothingLeft(t, opt)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				wantImage(t, opt.OutputPath, s.images[s.txid])
			})
		})
	}
}

func TestRestore_Canceled(t *testing.T) {
	client, _ := damagedReplica(t, false)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client.onOpen = func(fileKey, int64, int64, io.ReadCloser) (io.ReadCloser, error) {
			return silentReader{make(chan struct{})}, nil
		}
		time.AfterFunc(time.Second, cancel)
		opt := testOptions(t)
		opt.Progress = func(litestream.RestoreProgress) {}
		if _, err := litestream.Restore(ctx, client, opt); !errors.Is(err, context.Canceled) {
			t.Errorf("err=%v, want context.Canceled", err)
		}
		wantNothingLeft(t, opt)
	})
}

func TestRestore_Vanished(t *testing.T) {
	vanish := func(client *memReplica, then func(), keys ...fileKey) {
		var once sync.Once
		client.onOpen = func(k fileKey, _, _ int64, r io.ReadCloser) (io.ReadCloser, error) {
			gone := slices.Contains(keys, k)
			if gone {
				once.Do(func() {
					client.mu.Lock()
					for _, k := range keys {
						delete(client.files, k)
					}
					client.mu.Unlock()
					then()
				})
				return nil, &litestream.ReplicaError{Type: "mem", Op: "get", Err: fs.ErrNotExist}
			}
			return r, nil
		}
	}
	t.Run("another way", func(t *testing.T) {
		client, s := damagedReplica(t, false)
		vanish(client, func() {}, fileKey{1, 3, 4})
		opt := testOptions(t)
		res, err := litestream.Restore(t.Context(), client, opt)
		if err != nil {
			t.Fatal(err)
		}
		wantImage(t, opt.OutputPath, s.images[s.txid])
		if got, want := planString(res.Plan), "9:1-2 0:3-3 0:4-4 0:5-5 0:6-6"; got != want {
			t.Errorf("plan=%q, want %q", got, want)
		}
	})
	t.Run("compacted and grown", func(t *testing.T) {
		client, s := damagedReplica(t, false)
		s.exec("DELETE FROM t WHERE id % 2")
		vanish(client, func() {
			s.capture()
			s.write(1, 5, s.txid)
		}, fileKey{0, 5, 5}, fileKey{0, 6, 6})
		opt := testOptions(t)
		res, err := litestream.Restore(t.Context(), client, opt)
		if err != nil {
			t.Fatal(err)
		}
		if res.TXID != s.txid {
			t.Errorf("txid=%s, want %s", res.TXID, s.txid)
		}
		wantImage(t, opt.OutputPath, s.images[s.txid])
	})
	t.Run("no way", func(t *testing.T) {
		client, _ := damagedReplica(t, false)
		vanish(client, func() {}, fileKey{0, 6, 6})
		opt := testOptions(t)
		_, err := litestream.Restore(t.Context(), client, opt)
		if !errors.Is(err, litestream.ErrTxNotAvailable) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("err=%v, want it to say that the position is gone", err)
		}
		wantNothingLeft(t, opt)
	})
	t.Run("listed for ever", func(t *testing.T) {
		client, _ := damagedReplica(t, false)
		client.onOpen = func(k fileKey, _, _ int64, r io.ReadCloser) (io.ReadCloser, error) {
			if k.level == 9 {
				return nil, &litestream.ReplicaError{Type: "mem", Op: "get", Err: os.ErrNotExist}
			}
			return r, nil
		}
		opt := testOptions(t)
		if _, err := litestream.Restore(t.Context(), client, opt); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("err=%v, want a missing object", err)
		}
		if client.lists != 40 {
			t.Errorf("%d lists, want those of 4 plans", client.lists)
		}
		wantNothingLeft(t, opt)
	})
}

// TestRestore_Stranger gives the newest file, which holds every page, that of
// another database. Only the file ahead of it shows that, which a restore has
// no other need of.
func TestRestore_Stranger(t *testing.T) {
	capture := func() *memReplica {
		client := newMemReplica()
		s := newSource(t, client, 1024, true)
		s.fill(2)
		s.exec("DELETE FROM t WHERE id % 3")
		s.exec("UPDATE t SET v = randomblob(700)")
		s.exec("VACUUM")
		s.capture()
		return client
	}
	client := capture()
	other := capture()
	all := fileKey{0, 3, 3}
	client.files[all] = other.files[all]
	opt := testOptions(t)
	_, err := litestream.Restore(t.Context(), client, opt)
	const want = "(the newest position restorable without this file and the one before it is txid 0000000000000001)"
	if err == nil || !strings.Contains(err.Error(), all.String()+": expects a database of checksum") || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("err=%v, want it to end in %q", err, want)
	}
	wantNothingLeft(t, opt)
}
