package litestream_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/tests/servers"
)

// With checksums on, each increment carries the database checksum before and
// after it, they chain, and Litestream v0.5.18 restores every position.
func TestDB_Checksums(t *testing.T) {
	dir := t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	db := replicated(t, path, replica)
	db.Checksums = true
	syncAll(t, db)
	for i := range 10 {
		mustExec(t, app, "INSERT INTO t VALUES (randomblob(3000))")
		if i == 5 {
			mustExec(t, app, "DELETE FROM t")
			mustExec(t, app, "VACUUM")
		}
		syncAll(t, db)
	}
	client := file.NewReplicaClient(replica)
	var last ltx.Checksum
	for txid := ltx.TXID(1); txid <= db.Pos().TXID; txid++ {
		r, err := client.OpenLTXFile(t.Context(), 0, txid, txid, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		dec := ltx.NewDecoder(r)
		if err := dec.Verify(); err != nil {
			t.Fatalf("%s: %v", txid, err)
		}
		hdr, trailer := dec.Header(), dec.Trailer()
		if hdr.NoChecksum() || hdr.PreApplyChecksum != last {
			t.Fatalf("%s: before %s, flags %d, want %s", txid, hdr.PreApplyChecksum, hdr.Flags, last)
		}
		last = trailer.PostApplyChecksum
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := db.Pos().TXID; n < 11 {
		t.Fatalf("at %s, want at least 11", n)
	}
	bin := servers.Upstream(t)
	for _, txid := range []ltx.TXID{1, 5, 7, db.Pos().TXID} {
		out := filepath.Join(dir, fmt.Sprintf("theirs-%d", txid))
		cmd := exec.CommandContext(t.Context(), bin, "restore", "-txid", txid.String(), "-o", out, "file://"+replica)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("upstream restores %s: %v\n%s", txid, err, text)
		}
	}
	theirs, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("theirs-%d", db.Pos().TXID)))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile(restored(t, replica))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ours, theirs) {
		t.Error("the two restores differ")
	}
}
