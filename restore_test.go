package litestream_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/pagesum"
)

func TestRestore_PageSizes(t *testing.T) {
	t.Parallel()
	for pageSize := 512; pageSize <= 65536; pageSize *= 2 {
		for _, checksum := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/checksum=%t", pageSize, checksum), func(t *testing.T) {
				client := newMemReplica()
				s := newSource(t, client, pageSize, checksum)
				s.fill(11)
				s.write(9, 1, 4)
				s.write(1, 3, 7)
				first := ltx.TXID(1)
				if !checksum || raceEnabled {
					first = s.txid
				}
				for txid := first; txid <= s.txid; txid++ {
					opt := testOptions(t)
					opt.TXID = txid
					opt.IntegrityCheck = litestream.IntegrityCheckFull
					res, err := litestream.Restore(t.Context(), client, opt)
					if err != nil {
						t.Fatalf("txid %s: %v", txid, err)
					}
					wantImage(t, opt.OutputPath, s.images[txid])
					want := litestream.RestoreResult{
						TXID: txid, Timestamp: s.timeOf(txid), PageSize: uint32(pageSize),
						PageN: uint32(len(s.images[txid]) / pageSize), Bytes: int64(len(s.images[txid])), Plan: res.Plan,
						IntegrityCheck: litestream.IntegrityCheckFull,
					}
					if diff := cmp.Diff(want, res); diff != "" {
						t.Errorf("result (-want +got):\n%s", diff)
					}
					if got := folderNames(t, filepath.Dir(opt.OutputPath)); !cmp.Equal(got, []string{"restored.db"}) {
						t.Errorf("files=%q, want the database only", got)
					}
				}
			})
		}
	}
}

func TestRestore_FileClient(t *testing.T) {
	client := file.NewReplicaClient(filepath.Join(t.TempDir(), "replica"))
	s := newSource(t, client, 4096, true)
	s.fill(5)
	opt := testOptions(t)
	opt.LedgerPath = filepath.Join(t.TempDir(), "meta", "ledger")
	opt.LedgerReplica[3] = 7
	opt.Timestamp = s.timeOf(s.txid)
	res, err := litestream.Restore(t.Context(), client, opt)
	if err != nil {
		t.Fatal(err)
	}
	if want := s.txid - 1; res.TXID != want {
		t.Errorf("txid=%s, want %s: a timestamp excludes what was made at it", res.TXID, want)
	}
	wantImage(t, opt.OutputPath, s.images[res.TXID])

	l, err := pagesum.Open(opt.LedgerPath)
	if err != nil {
		t.Fatal(err)
	}
	want := pagesum.Header{
		Replica: opt.LedgerReplica, TXID: res.TXID, PageSize: 4096, PageN: res.PageN,
		Rolling: s.checksumOf(s.images[res.TXID]),
	}
	if diff := cmp.Diff(want, l.Header(), cmp.Comparer(func(a, b []byte) bool { return string(a) == string(b) })); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
	if got := folderNames(t, filepath.Dir(opt.LedgerPath)); !cmp.Equal(got, []string{"ledger"}) {
		t.Errorf("files beside the ledger: %q", got)
	}
}
