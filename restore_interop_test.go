package litestream_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/tests/servers"
)

// TestRestore_Upstream restores what Litestream v0.5.18 wrote, at every
// position, and compares with its own restore.
func TestRestore_Upstream(t *testing.T) {
	if testing.Short() {
		t.Skip("starts another program many times")
	}
	bin, dir := servers.Upstream(t), t.TempDir()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), bin, args...).CombinedOutput(); err != nil {
			t.Fatalf("litestream %q: %v\n%s", args, err, out)
		}
	}
	replica := filepath.Join(dir, "replica")
	client := file.NewReplicaClient(replica)
	s := newSource(t, client, 4096, false)
	s.exec("PRAGMA journal_mode=wal")
	s.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
	for i := range 6 {
		s.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 100) INSERT INTO t (v) SELECT randomblob(900) FROM n")
		s.exec("UPDATE t SET v = randomblob(300) WHERE id % 10 = ?", i)
		args := []string{"replicate", "-once"}
		if i == 3 {
			args = append(args, "-force-snapshot")
		}
		run(append(args, s.path, "file://"+replica)...)
	}
	infos, err := client.LTXFiles(t.Context(), 0, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	var newest ltx.TXID
	for infos.Next() {
		newest = max(newest, infos.Item().MaxTXID)
	}
	if err := infos.Close(); err != nil || newest < 6 {
		t.Fatalf("newest txid %s, err=%v, want at least 6", newest, err)
	}
	for txid := ltx.TXID(0); txid <= newest; txid++ { // 0 is the newest
		theirs := filepath.Join(dir, fmt.Sprintf("theirs-%d.db", txid))
		args := []string{"restore", "-o", theirs}
		opt := litestream.NewRestoreOptions()
		opt.OutputPath = filepath.Join(dir, fmt.Sprintf("ours-%d.db", txid))
		opt.TXID = txid
		opt.IntegrityCheck = litestream.IntegrityCheckFull
		if txid != 0 {
			args = append(args, "-txid", txid.String())
		}
		run(append(args, "file://"+replica)...)
		if _, err := litestream.Restore(t.Context(), client, opt); err != nil {
			t.Fatalf("txid %s: %v", txid, err)
		}
		want, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		wantImage(t, opt.OutputPath, want)
	}
}
