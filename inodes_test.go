package litestream_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// A second path to a database that is replicated already is refused, and the
// first goes on.
func TestStore_SecondPathToOneInode(t *testing.T) {
	for _, tt := range []struct {
		name string
		link func(oldname, newname string) error
	}{{"HardLink", os.Link}, {"SymbolicLink", os.Symlink}} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			first, second := filepath.Join(dir, "a.db"), filepath.Join(dir, "b.db")
			makeRested(t, first)
			if err := tt.link(first, second); err != nil {
				t.Fatal(err)
			}
			var dbs []*litestream.DB
			for _, path := range []string{first, second} {
				db := litestream.NewDB(path)
				db.Replica = litestream.NewReplicaWithClient(db, file.NewReplicaClient(path+".replica"))
				dbs = append(dbs, db)
			}
			store := litestream.NewStore(dbs, nil)
			err := store.SyncOnce(context.Background(), litestream.SyncOnceOptions{})
			if err == nil || !strings.Contains(err.Error(), "is the same file as "+first) || strings.Contains(err.Error(), "sync "+first) {
				t.Errorf("got error %v, want one that names %s as the owner", err, first)
			}
			if got := dbs[0].Replica.Pos().TXID; got != 1 {
				t.Errorf("first path is at %s, want 1", got)
			}
			if err := store.Close(context.Background()); err == nil {
				t.Error("closing says nothing of the second path")
			}
		})
	}
}
