package file_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/replicatest"
)

func TestReplicaClient_Contract(t *testing.T) {
	replicatest.Run(t, func(tb testing.TB) litestream.ReplicaClient {
		tb.Helper()
		return file.NewReplicaClient(filepath.Join(tb.TempDir(), "replica"))
	}, replicatest.Options{
		Base: testing.TB.TempDir,
		Foreign: replicatest.Foreign{
			Put: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) {
				tb.Helper()
				if err := os.WriteFile(foreignPath(c, level, name), []byte("x"), 0o600); err != nil {
					tb.Fatal(err)
				}
			},
			Has: func(_ testing.TB, c litestream.ReplicaClient, level int, name string) bool {
				_, err := os.Stat(foreignPath(c, level, name))
				return err == nil
			},
		},
	})
}

func foreignPath(c litestream.ReplicaClient, level int, name string) string {
	return filepath.Join(c.(*file.ReplicaClient).Path(), "ltx", strconv.Itoa(level), name)
}
