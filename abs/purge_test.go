package abs_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/abs"
	"github.com/benbjohnson/litestream/tests/servers"
)

const purgeName = "0000000000000001-0000000000000001.ltx"

// testPurge deletes everything of one database, blocks that became no blob and a
// backup of v0.3 included, and nothing of its neighbours.
func testPurge(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	api := srv.Container(bucket)
	at := func(path string) *abs.ReplicaClient { return serverClient(t, srv, nil, path) }
	own := []string{
		"p1/a/ltx/0/" + purgeName, "p1/a/ltx/9/" + purgeName,
		"p1/a/generations/0123456789abcdef/wal/00000000_00000000.wal.lz4",
	}
	others := []string{"p1/a/b/ltx/0/" + purgeName, "p1/a/generations/note", "p1/a/ltx/0/note", "p1/ab/ltx/0/" + purgeName}
	for _, key := range slices.Concat(own, others) {
		if err := at("").WriteObject(t.Context(), key, []byte("x"), true); err != nil {
			t.Fatal(err)
		}
	}
	uncommitted := []string{"p1/a/ltx/1/" + purgeName, "p1/a/b/ltx/1/" + purgeName}
	for _, key := range uncommitted {
		block := streaming.NopCloser(bytes.NewReader([]byte("block")))
		if _, err := api.NewBlockBlobClient(key).StageBlock(t.Context(), "YWE=", block, nil); err != nil {
			t.Fatal(err)
		}
	}
	res, err := litestream.PurgeReplica(t.Context(), at("p1/a"))
	if err != nil {
		t.Fatal(err)
	}
	if res.Files != 2 || res.V03 != 1 || res.Rest != 1 || res.Newest != 1 || res.Kept == nil || res.Kept.Any() || len(res.Kept.Untold) != 0 {
		t.Errorf("got %+v, kept %+v", res, res.Kept)
	}
	for _, key := range append(own, uncommitted[0]) {
		if _, err := at("").ReadObject(t.Context(), key); err == nil {
			t.Errorf("%s is there", key)
		}
	}
	for _, key := range others {
		if _, err := at("").ReadObject(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	// The neighbour's blocks can still become a blob.
	if _, err := api.NewBlockBlobClient(uncommitted[1]).CommitBlockList(t.Context(), []string{"YWE="}, &blockblob.CommitBlockListOptions{}); err != nil {
		t.Error(err)
	}
}

// testPurgeSnapshots has a blob with a snapshot, which is not deleted: that is an
// error that says why.
func testPurgeSnapshots(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	client := serverClient(t, srv, nil, "p2/a")
	key := "p2/a/ltx/0/" + purgeName
	if err := client.WriteObject(t.Context(), "ltx/0/"+purgeName, []byte("x"), true); err != nil {
		t.Fatal(err)
	}
	if _, err := srv.Container(bucket).NewBlobClient(key).CreateSnapshot(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	_, err := litestream.PurgeReplica(t.Context(), client)
	if err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "snapshots") {
		t.Errorf("err=%v, want one that names the blob and its snapshots", err)
	}
	k, err := client.KeptVersions(t.Context())
	if err != nil || k.Versions != 2 || k.Bytes != 2 {
		t.Errorf("got %+v, %v, want the blob and its snapshot", k, err)
	}
}

// TestReplicaClient_KeptVersions holds what the answers of the service come to:
// Azurite knows neither versions nor soft deletion nor locks.
func TestReplicaClient_KeptVersions(t *testing.T) {
	t.Parallel()
	locked := time.Now().Add(72 * time.Hour).UTC().Truncate(time.Second)
	item := func(name, more, properties string) string {
		return fmt.Sprintf("<Blob><Name>%s</Name>%s<Properties><Content-Length>300</Content-Length>%s</Properties></Blob>", name, more, properties)
	}
	listing := func(items ...string) string {
		return `<?xml version="1.0"?><EnumerationResults><Blobs>` + strings.Join(items, "") + `</Blobs><NextMarker/></EnumerationResults>`
	}
	const own = "p1/a/ltx/0/" + purgeName
	deleted := item(own, "<Deleted>true</Deleted>", "<RemainingRetentionDays>6</RemainingRetentionDays>")
	for _, tt := range []struct {
		name    string
		all     string // answer to the question for versions; empty: refused
		some    string // to that without; empty: refused
		want    litestream.KeptVersions
		untold  []string
		deleted bool
	}{
		{name: "nothing", all: listing()},
		{
			name: "versions", want: litestream.KeptVersions{Versions: 3, Bytes: 900, Asked: 3, Locked: 1, LockedUntil: locked, Held: 1},
			all: listing(
				item(own, "<VersionId>1</VersionId>", "<ImmutabilityPolicyUntilDate>"+locked.Format(http.TimeFormat)+"</ImmutabilityPolicyUntilDate>"),
				item(own, "<VersionId>2</VersionId>", "<LegalHold>true</LegalHold>"),
				item(own, "<Snapshot>3</Snapshot>", ""), item("p1/a/ltx/0/note", "<VersionId>1</VersionId>", ""),
			),
		},
		{name: "soft deleted", deleted: true, want: litestream.KeptVersions{Undeletable: 1, Bytes: 300}, all: listing(deleted)},
		{name: "without versions", deleted: true, want: litestream.KeptVersions{Undeletable: 1, Bytes: 300}, some: listing(deleted), untold: []string{"versions: "}},
		{name: "nothing told", untold: []string{"versions: ", "snapshots and deleted blobs: "}},
	} {
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			answer := tt.some
			if strings.Contains(r.URL.Query().Get("include"), "versions") {
				answer = tt.all
			}
			if answer == "" {
				xmlError(w, http.StatusBadRequest, "InvalidQueryParameterValue")
				return
			}
			if strings.Contains(r.URL.Query().Get("prefix"), "generations") {
				answer = listing()
			}
			w.Header().Set("Content-Type", "application/xml")
			_, _ = io.WriteString(w, answer)
		})
		k, err := newClient(t, srv.URL, "p1/a").KeptVersions(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if len(k.Untold) != len(tt.untold) {
			t.Errorf("%s: untold %q, want %q", tt.name, k.Untold, tt.untold)
			continue
		}
		for i, want := range tt.untold {
			if !strings.HasPrefix(k.Untold[i], want) {
				t.Errorf("%s: untold %q, want %q", tt.name, k.Untold[i], want)
			}
		}
		if left := time.Until(k.UndeletableUntil); tt.deleted != (left > 6*24*time.Hour && left < 8*24*time.Hour) {
			t.Errorf("%s: undeletable until %s", tt.name, k.UndeletableUntil)
		}
		k.Untold, k.UndeletableUntil = nil, time.Time{}
		if fmt.Sprint(*k) != fmt.Sprint(tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.name, *k, tt.want)
		}
	}
}
