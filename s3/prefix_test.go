package s3_test

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/s3"
)

// A hundred thousand databases have a client each.
func TestReplicaClient_WithPrefixSize(t *testing.T) {
	base, err := new(s3.Pool).Get(s3.Config{Bucket: "b", Endpoint: "https://s3.example.com", AccessKeyID: "a", SecretAccessKey: "b"})
	if err != nil {
		t.Fatal(err)
	}
	const n = 10000
	clients := make([]litestream.ReplicaClient, n)
	paths := make([]string, n)
	for i := range paths {
		paths[i] = "p01/d01/main/t" + strconv.Itoa(i)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range clients {
		clients[i] = base.WithPrefix(paths[i])
	}
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(clients)
	if got := (after.TotalAlloc - before.TotalAlloc) / n; got >= 500 {
		t.Errorf("%d bytes per client, want less than 500", got)
	} else {
		t.Logf("%d bytes per client", got)
	}
}
