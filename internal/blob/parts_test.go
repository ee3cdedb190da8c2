package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/benbjohnson/litestream/internal/blob"
)

// readParts returns the sizes of all parts and their joined bytes.
func readParts(t *testing.T, parts blob.Parts) (sizes []int, all []byte) {
	t.Helper()
	for {
		part, err := parts.Next()
		if errors.Is(err, io.EOF) {
			return sizes, all
		} else if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		sizes, all = append(sizes, len(b)), append(all, b...)
		parts.Release(part)
	}
}

func testData(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 / 3)
	}
	return b
}

func TestStreamParts(t *testing.T) {
	const first = 10
	for _, n := range []int{10, 11, 20, 25, 10 * blob.GrowEvery, 10*blob.GrowEvery + 45} {
		for _, equal := range []bool{false, true} {
			data := testData(n)
			parts := &blob.StreamParts{Reader: bytes.NewReader(data[first:]), First: bytes.Clone(data[:first]), PartSize: 10, Equal: equal}
			sizes, all := readParts(t, parts)
			if !bytes.Equal(all, data) || parts.N != int64(n) {
				t.Errorf("%d bytes: parts hold %d other ones, counted %d", n, len(all), parts.N)
			}
			for i, size := range sizes[:len(sizes)-1] {
				want := 10
				if i >= blob.GrowEvery && !equal {
					want = 20
				}
				if size != want {
					t.Errorf("%d bytes: part %d has %d, want %d", n, i, size, want)
				}
			}
		}
	}
}

// A source of known size fits into the parts that an object may have.
func TestSectionParts(t *testing.T) {
	for n, want := range map[int]int{10: 1, 25: 3, 10 * blob.MaxParts: blob.MaxParts, 10*blob.MaxParts + 1: 9091} {
		data := testData(n)
		sizes, all := readParts(t, blob.NewSectionParts(io.NewSectionReader(bytes.NewReader(data), 0, int64(n)), 10))
		if len(sizes) != want || !bytes.Equal(all, data) {
			t.Errorf("%d bytes: %d parts with %d bytes, want %d parts", n, len(sizes), len(all), want)
		}
	}
}

// Parts are sent up to a bound at a time, and an error ends the upload once
// all that was started has ended.
func TestSendParts(t *testing.T) {
	const size, bound = 100, 3
	newParts := func() blob.Parts {
		return blob.NewSectionParts(io.NewSectionReader(bytes.NewReader(make([]byte, size)), 0, size), 1)
	}
	var running, most, sent atomic.Int64
	send := func(context.Context, int, io.ReadSeeker) error {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		sent.Add(1)
		return nil
	}
	if err := blob.SendParts(t.Context(), newParts(), bound, send); err != nil || sent.Load() != size || most.Load() > bound {
		t.Errorf("sent %d parts, %d at a time, err=%v, want %d, at most %d", sent.Load(), most.Load(), err, size, bound)
	}

	broken := errors.New("broken")
	err := blob.SendParts(t.Context(), newParts(), bound, func(_ context.Context, number int, _ io.ReadSeeker) error {
		running.Add(1)
		defer running.Add(-1)
		if number == 5 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || running.Load() != 0 {
		t.Errorf("err=%v, %d still running, want the part's error and none", err, running.Load())
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := blob.SendParts(ctx, newParts(), bound, send); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: err=%v", err)
	}
}
