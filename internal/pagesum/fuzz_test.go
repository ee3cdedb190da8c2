package pagesum_test

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/benbjohnson/litestream/internal/pagesum"
)

// FuzzOpen opens arbitrary files, each also under a right hash so that the
// fields behind it are reached. A file that opens must read and flush.
func FuzzOpen(f *testing.F) {
	for _, h := range []pagesum.Header{
		{TXID: 1, PageSize: 512, PageN: 3, Meta: []byte("m")},
		{PageSize: 65536},
	} {
		path := filepath.Join(f.TempDir(), "seed")
		create(f, path, h)
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)-sha256.Size])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "db.ledger")
		hash := sha256.Sum256(data)
		for _, b := range [][]byte{data, append(slices.Clip(data), hash[:]...)} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := pagesum.Open(path)
			if err != nil {
				if !errors.Is(err, pagesum.ErrInvalid) {
					t.Fatalf("err=%v, want ErrInvalid", err)
				}
				continue
			}
			if got := len(readAll(t, l)); uint32(got) != l.Header().PageN {
				t.Fatalf("%d sums, want %d", got, l.Header().PageN)
			}
			h := l.Header()
			h.TXID++
			if err := l.MarkUnknown([]uint32{1}, h); err != nil {
				t.Fatal(err)
			}
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
