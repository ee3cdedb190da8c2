package oss_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
)

const purgeName = "0000000000000001-0000000000000001.ltx"

// TestReplicaClient_Purge deletes everything of one database, uploads that did
// not end included, and nothing of its neighbours.
func TestReplicaClient_Purge(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	others := []string{
		"p1/a/0000/0000/" + purgeName, "p1/a/0000/note", "p1/a/b/0000/" + purgeName, "p1/ab/0000/" + purgeName,
	}
	for _, key := range append([]string{"p1/a/0000/" + purgeName, "p1/a/0009/" + purgeName}, others...) {
		srv.Put(bucket, key, []byte("x"))
	}
	const open = 1500 // more than a page
	for range open {
		srv.StartUpload(bucket, "p1/a/0001/"+purgeName)
	}
	for _, key := range []string{"p1/ab/0001/" + purgeName, "p1/a/b/0001/" + purgeName, "p1/a/0001/note"} {
		srv.StartUpload(bucket, key)
	}
	res, err := litestream.PurgeReplica(t.Context(), newClient(t, srv.Endpoint, "p1/a"))
	if err != nil {
		t.Fatal(err)
	}
	if res.Files != 2 || res.Rest != open || res.Newest != 1 || res.Kept == nil || res.Kept.Any() || len(res.Kept.Untold) != 0 {
		t.Errorf("got %+v, kept %+v", res, res.Kept)
	}
	if got := srv.Keys(bucket); !slices.Equal(got, others) {
		t.Errorf("left %q, want %q", got, others)
	}
	if n := srv.Uploads(bucket); n != 3 {
		t.Errorf("%d uploads are open, want those of the neighbours", n)
	}
}

// TestReplicaClient_KeptVersions holds that a bucket that keeps versions, and
// locks them, says so.
func TestReplicaClient_KeptVersions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		days   int
		locked bool
		want   string
	}{
		{0, false, ""}, {3, true, "for 3 days"}, {3, false, "for 3 days, which can still be taken back"},
	} {
		srv := newServer(t)
		srv.CreateBucket(bucket, true)
		if tt.days > 0 {
			srv.SetRetention(bucket, tt.days, tt.locked)
		}
		client, other := newClient(t, srv.Endpoint, "p1/a"), newClient(t, srv.Endpoint, "p1/a/b")
		const n = 700 // with the marks more than a page
		for txid := range ltx.TXID(n) {
			replicatest.Write(t, client, 0, txid+1, txid+1, replicatest.File(t, txid+1, txid+1, 300, 0))
		}
		replicatest.Write(t, other, 0, 1, 1, replicatest.File(t, 1, 1, 300, 0))
		res, err := litestream.PurgeReplica(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		k := res.Kept
		if k == nil || k.Versions != n || k.Markers != n || k.Bytes == 0 || k.DefaultLock != tt.want || len(k.Untold) != 0 {
			t.Fatalf("got %+v", k)
		}
		if wantLocked := tt.days > 0; wantLocked != (k.Locked == n) || wantLocked && k.LockedUntil.Before(time.Now().AddDate(0, 0, tt.days-1)) {
			t.Errorf("%+v: got %+v", tt, k)
		}
		if n := len(replicatest.List(t, other, 0, 0, false)); n != 1 {
			t.Errorf("the neighbour has %d files", n)
		}
	}
}

// TestReplicaClient_KeptVersions_Refused holds that what may not be asked is
// told, and that the purge is done all the same.
func TestReplicaClient_KeptVersions_Refused(t *testing.T) {
	t.Parallel()
	for refused, want := range map[string]string{"versions": "versions: ", "worm": "retention policy of the bucket: "} {
		srv := newServer(t)
		srv.CreateBucket(bucket, true)
		url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has(refused) {
				w.WriteHeader(http.StatusForbidden)
				_, _ = w.Write([]byte(errorXML("AccessDenied")))
				return
			}
			srv.ServeHTTP(w, r)
		})).URL
		client := newClient(t, url, "p1/a")
		replicatest.Write(t, client, 0, 1, 1, replicatest.File(t, 1, 1, 300, 0))
		res, err := litestream.PurgeReplica(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		if k := res.Kept; k == nil || len(k.Untold) != 1 || !strings.HasPrefix(k.Untold[0], want) {
			t.Errorf("without %s: got %+v", refused, k)
		}
	}
}
