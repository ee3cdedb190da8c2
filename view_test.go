package litestream_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/benbjohnson/litestream/internal/testutil"
)

// A read transaction keeps checkpoints from changing what is read. It does not
// keep cp from writing over the file: nothing of the mixture is believed.
func TestView_WrittenOver(t *testing.T) {
	copyOver := func(t *testing.T, path string) {
		t.Helper()
		// Another process writes: closing a descriptor here would drop locks.
		if out, err := exec.Command("cp", path+".other", path).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	checkpoint := func(app *child) func(*testing.T, string) {
		return func(*testing.T, string) {
			app.exec("INSERT INTO t VALUES (randomblob(3000))", "PRAGMA wal_checkpoint")
		}
	}
	for _, tt := range []struct {
		name            string
		during, between bool
		over            bool // written over, else checkpointed
	}{
		{"Checkpoint", true, true, false},
		{"DuringPass", true, false, true},
		{"BetweenPasses", false, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			app := startChild(t, "app", path)
			app.exec("PRAGMA journal_mode=wal", "CREATE TABLE t (x)",
				"WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 200) INSERT INTO t SELECT randomblob(3000) FROM n",
				"PRAGMA wal_checkpoint", "INSERT INTO t VALUES (randomblob(3000))")
			// The other file is a copy as it was, but for the content.
			old, err := exec.Command("cat", path).Output()
			if err != nil {
				t.Fatal(err)
			}
			for i := 4096; i < len(old); i += 4096 {
				old[i+4000]++
			}
			if err := os.WriteFile(path+".other", old, 0o600); err != nil {
				t.Fatal(err)
			}
			db := inMemory(t, path, testutil.NewMemClient())
			syncAll(t, db)
			do := checkpoint(app)
			if tt.over {
				do = copyOver
			}
			act := func(when bool) func() {
				return func() {
					if when {
						do(t, path)
					}
				}
			}
			err = db.ReadTwice(t.Context(), act(tt.during), act(tt.between))
			if !tt.over && err != nil {
				t.Errorf("a checkpoint below: %v", err)
			}
			if tt.over && (err == nil || !strings.Contains(err.Error(), "it was written over")) {
				t.Errorf("got %v, want that it was written over", err)
			}
		})
	}
}
