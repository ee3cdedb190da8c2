package gs_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
)

const purgeName = "0000000000000001-0000000000000001.ltx"

// TestReplicaClient_Purge deletes everything of one database, a backup of v0.3
// included, and nothing of its neighbours.
func TestReplicaClient_Purge(t *testing.T) {
	t.Parallel()
	srv := servers.FakeGCS(t, false)
	srv.CreateBucket(bucket)
	own := []string{
		"p1/a/ltx/0/" + purgeName, "p1/a/ltx/9/" + purgeName,
		"p1/a/generations/0123456789abcdef/wal/00000000_00000000.wal.lz4",
	}
	others := []string{"p1/a/b/ltx/0/" + purgeName, "p1/a/generations/note", "p1/a/ltx/0/note", "p1/ab/ltx/0/" + purgeName}
	all := newClient(t, srv.Endpoint, "")
	for _, key := range slices.Concat(own, others) {
		if err := all.WriteObject(t.Context(), key, []byte("x"), true); err != nil {
			t.Fatal(err)
		}
	}
	res, err := litestream.PurgeReplica(t.Context(), newClient(t, srv.Endpoint, "p1/a"))
	if err != nil {
		t.Fatal(err)
	}
	if res.Files != 2 || res.V03 != 1 || res.Newest != 1 || res.Kept == nil || res.Kept.Any() || len(res.Kept.Untold) != 0 {
		t.Errorf("got %+v, kept %+v", res, res.Kept)
	}
	for _, key := range own {
		if _, err := all.ReadObject(t.Context(), key); err == nil {
			t.Errorf("%s is there", key)
		}
	}
	for _, key := range others {
		if _, err := all.ReadObject(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
}

// TestReplicaClient_KeptVersions holds that a bucket that keeps versions says so.
func TestReplicaClient_KeptVersions(t *testing.T) {
	t.Parallel()
	srv := servers.FakeGCS(t, false)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.Endpoint+"/storage/v1/b?project=test",
		strings.NewReader(fmt.Sprintf(`{"name":%q,"versioning":{"enabled":true}}`, bucket)))
	if err != nil {
		t.Fatal(err)
	}
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := plain.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client, other := newClient(t, srv.Endpoint, "p1/a"), newClient(t, srv.Endpoint, "p1/a/b")
	for range 3 {
		replicatest.Write(t, client, 0, 1, 1, replicatest.File(t, 1, 1, 300, 0))
	}
	replicatest.Write(t, other, 0, 1, 1, replicatest.File(t, 1, 1, 300, 0))
	res, err := litestream.PurgeReplica(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	if k := res.Kept; k == nil || k.Versions != 3 || k.Bytes == 0 || k.Undeletable != 0 || k.Locked != 0 || len(k.Untold) != 0 {
		t.Errorf("got %+v", k)
	}
	if n := len(replicatest.List(t, other, 0, 0, false)); n != 1 {
		t.Errorf("the neighbour has %d files", n)
	}
}

// TestReplicaClient_KeptVersions_Service holds what the answers of the service
// come to: fake-gcs-server knows neither soft deletion nor locks.
func TestReplicaClient_KeptVersions_Service(t *testing.T) {
	t.Parallel()
	hard := time.Now().Add(72 * time.Hour).UTC().Truncate(time.Second)
	item := func(more string) string {
		return fmt.Sprintf(`{"name":"p1/a/ltx/0/%s","size":"300"%s}`, purgeName, more)
	}
	until := hard.Format(time.RFC3339)
	pages := func(items ...string) func(q url.Values) string { // one item in each
		return func(q url.Values) string {
			var i int
			_, _ = fmt.Sscan(q.Get("pageToken"), &i)
			if i+1 < len(items) {
				return fmt.Sprintf(`{"nextPageToken":"%d","items":[%s]}`, i+1, items[i])
			}
			return fmt.Sprintf(`{"items":[%s]}`, items[i])
		}
	}
	none := func(url.Values) string { return `{}` }
	for _, tt := range []struct {
		name           string
		versions, soft func(q url.Values) string // nil: refused
		policy         string                    // of the bucket; empty: refused
		want           litestream.KeptVersions
		untold         string
	}{
		{name: "nothing", versions: none, soft: none},
		{
			name: "versions", versions: pages(item(`,"timeDeleted":"`+until+`"`), item(`,"retentionExpirationTime":"`+until+`"`), item(`,"temporaryHold":true`), `{"name":"p1/a/b","size":"5"}`), soft: none,
			want: litestream.KeptVersions{Versions: 3, Bytes: 900, Asked: 3, Locked: 1, LockedUntil: hard, Held: 1},
		},
		{
			name: "soft deleted", versions: none, soft: pages(item(`,"hardDeleteTime":"`+until+`"`), item(`,"hardDeleteTime":"2001-01-01T00:00:00Z"`)),
			want: litestream.KeptVersions{Undeletable: 2, Bytes: 600, UndeletableUntil: hard},
		},
		{name: "no soft deletion", versions: none, policy: `{"softDeletePolicy":{"retentionDurationSeconds":"0"}}`},
		{name: "soft deletion refused", versions: none, policy: `{"softDeletePolicy":{"retentionDurationSeconds":"604800"}}`, untold: "soft-deleted objects: "},
		{name: "policy refused", versions: none, untold: "soft-deleted objects: "},
		{name: "versions refused", soft: none, untold: "versions: "},
	} {
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			answer := none
			switch {
			case q.Has("versions"):
				answer = tt.versions
			case q.Has("softDeleted"):
				answer = tt.soft
			case !strings.HasSuffix(r.URL.Path, "/o"):
				if answer = nil; tt.policy != "" {
					answer = func(url.Values) string { return tt.policy }
				}
			}
			if answer == nil {
				jsonError(w, http.StatusForbidden, "forbidden", "no")
				return
			}
			if !strings.Contains(q.Get("prefix"), "ltx") && strings.HasSuffix(r.URL.Path, "/o") {
				answer = none
			}
			_, _ = io.WriteString(w, answer(q))
		})
		k, err := newClient(t, srv.URL, "p1/a").KeptVersions(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		untold := strings.Join(k.Untold, "\n")
		if tt.untold == "" && untold != "" || !strings.HasPrefix(untold, tt.untold) {
			t.Errorf("%s: untold %q, want %q", tt.name, untold, tt.untold)
		}
		if k.Untold = nil; fmt.Sprint(*k) != fmt.Sprint(tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.name, *k, tt.want)
		}
	}
}
