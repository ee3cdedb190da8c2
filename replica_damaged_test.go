package litestream_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// What an earlier process staged and could not send is read before it is sent:
// a damaged file is given up, and everything is replicated all the same.
func TestReplica_DamagedStagedFile(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(path string) error
	}{
		{"Flipped", func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[len(data)/2] ^= 0xff
			return os.WriteFile(path, data, 0o600)
		}},
		{"Short", func(path string) error { return os.Truncate(path, 50) }},
		{"Empty", func(path string) error { return os.Truncate(path, 0) }},
		{"Missing", os.Remove},
	} {
		for _, sent := range []int{0, 2} {
			t.Run(fmt.Sprint(tt.name, sent), func(t *testing.T) {
				dir := t.TempDir()
				path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
				app := openApp(t, path, "_journal_mode=wal")
				mustExec(t, app, "CREATE TABLE t (x)")
				db := litestream.NewDB(path)
				db.Replica = litestream.NewReplicaWithClient(db, file.NewReplicaClient(replica))
				if err := db.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := db.Replica.Sync(t.Context()); err != nil { // it is empty
					t.Fatal(err)
				}
				for i := range 5 {
					mustExec(t, app, "INSERT INTO t VALUES (?)", i)
					if err := db.SyncFully(t.Context()); err != nil {
						t.Fatal(err)
					}
					if i < sent {
						if err := db.Replica.Sync(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := db.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := tt.damage(filepath.Join(db.L0Dir(), "0000000000000004-0000000000000004.ltx")); err != nil {
					t.Fatal(err)
				}

				db = litestream.NewDB(path)
				db.Replica = litestream.NewReplicaWithClient(db, file.NewReplicaClient(replica))
				store := litestream.NewStore([]*litestream.DB{db}, nil)
				if err := store.SyncOnce(t.Context(), litestream.SyncOnceOptions{}); err != nil {
					t.Fatal(err)
				}
				if err := store.Close(context.Background()); err != nil {
					t.Fatal(err)
				}
				if got := count(t, restored(t, replica), "SELECT count(*) FROM t"); got != 5 {
					t.Errorf("restored %d rows, want 5", got)
				}
			})
		}
	}
}
