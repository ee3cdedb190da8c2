package gs_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
)

func TestReplicaClient_Contract(t *testing.T) {
	t.Parallel()
	srv := servers.FakeGCS(t, false)
	srv.CreateBucket(bucket)
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var n atomic.Int64
	opts := replicatest.Options{
		PartSize: 1 << 20,
		Base:     func(testing.TB) string { return fmt.Sprintf("base%d", n.Add(1)) },
		Foreign: replicatest.Foreign{
			Put: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) {
				tb.Helper()
				put(tb, plain, srv.Endpoint, foreignKey(c, level, name), "x")
			},
			Has: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) bool {
				tb.Helper()
				resp, err := plain.Get(srv.Endpoint + "/storage/v1/b/" + bucket + "/o/" + url.PathEscape(foreignKey(c, level, name)))
				if err != nil {
					tb.Fatal(err)
				}
				resp.Body.Close()
				return resp.StatusCode == http.StatusOK
			},
		},
	}
	replicatest.Run(t, func(tb testing.TB) litestream.ReplicaClient {
		tb.Helper()
		return newClient(tb, srv.Endpoint, fmt.Sprintf("some/db%d", n.Add(1)), func(o *gs.Options) { o.ChunkSize = opts.PartSize })
	}, opts)
}

func foreignKey(c litestream.ReplicaClient, level int, name string) string {
	return fmt.Sprintf("%s/ltx/%d/%s", c.(*gs.ReplicaClient).Path, level, name)
}

// put stores an object past the client.
func put(tb testing.TB, client *http.Client, endpoint, key, content string) {
	tb.Helper()
	resp, err := client.Post(endpoint+"/upload/storage/v1/b/"+bucket+"/o?uploadType=media&name="+url.QueryEscape(key),
		"application/octet-stream", strings.NewReader(content))
	if err != nil {
		tb.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		tb.Fatalf("put %s: %s", key, resp.Status)
	}
}
