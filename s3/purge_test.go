package s3_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/tests/servers"
)

const purgeName = "0000000000000001-0000000000000001.ltx"

// TestReplicaClient_Purge deletes everything of one database, uploads that did
// not end and a backup of v0.3 included, and nothing of its neighbours.
func TestReplicaClient_Purge(t *testing.T) {
	t.Parallel()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket(bucket)
	api := srv.Client()
	own := []string{
		"p1/a/0000/" + purgeName, "p1/a/0009/" + purgeName,
		"p1/a/generations/0123456789abcdef/wal/00000000_00000000.wal.lz4",
	}
	others := []string{
		"p1/ab/0000/" + purgeName, "p1/a/b/0000/" + purgeName, "p1/a/generations/0000/" + purgeName, "p1/a/0000/note",
		"p1/a/0000/0000/" + purgeName,
	}
	for _, key := range slices.Concat(own, others) {
		if _, err := api.PutObject(t.Context(), &sdk.PutObjectInput{Bucket: aws.String(bucket), Key: &key, Body: strings.NewReader("x")}); err != nil {
			t.Fatal(err)
		}
	}
	uploads := []string{"p1/a/0001/" + purgeName, "p1/ab/0001/" + purgeName, "p1/a/b/0001/" + purgeName}
	for _, key := range uploads {
		if _, err := api.CreateMultipartUpload(t.Context(), &sdk.CreateMultipartUploadInput{Bucket: aws.String(bucket), Key: &key}); err != nil {
			t.Fatal(err)
		}
	}
	res, err := litestream.PurgeReplica(t.Context(), newClient(t, serverConfig(srv, "p1/a")))
	if err != nil {
		t.Fatal(err)
	}
	if res.Files != 2 || res.V03 != 1 || res.Rest != 1 || res.Newest != 1 || res.Kept.Any() {
		t.Errorf("got %+v, kept %+v", res, res.Kept)
	}
	out, err := api.ListObjectsV2(t.Context(), &sdk.ListObjectsV2Input{Bucket: aws.String(bucket)})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, o := range out.Contents {
		keys = append(keys, *o.Key)
	}
	slices.Sort(others)
	if slices.Sort(keys); !slices.Equal(keys, others) {
		t.Errorf("left %q, want %q", keys, others)
	}
	open, err := api.ListMultipartUploads(t.Context(), &sdk.ListMultipartUploadsInput{Bucket: aws.String(bucket)})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range open.Uploads {
		if *u.Key == uploads[0] {
			t.Errorf("the upload of %s is open", *u.Key)
		}
	}
	if len(open.Uploads) != 2 {
		t.Errorf("%d uploads are open, want those of the neighbours", len(open.Uploads))
	}
}

// TestReplicaClient_KeptVersions holds that a bucket that keeps versions, and
// locks them, says so.
func TestReplicaClient_KeptVersions(t *testing.T) {
	t.Parallel()
	srv := servers.VersitygwVersions(t)
	api := srv.Client()
	lock := &types.ObjectLockConfiguration{
		ObjectLockEnabled: types.ObjectLockEnabledEnabled,
		Rule:              &types.ObjectLockRule{DefaultRetention: &types.DefaultRetention{Mode: types.ObjectLockRetentionModeGovernance, Days: aws.Int32(3)}},
	}
	if _, err := api.CreateBucket(t.Context(), &sdk.CreateBucketInput{Bucket: aws.String(bucket), ObjectLockEnabledForBucket: aws.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.PutBucketVersioning(t.Context(), &sdk.PutBucketVersioningInput{
		Bucket: aws.String(bucket), VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	}); err != nil {
		t.Fatal(err)
	}
	client, other := newClient(t, serverConfig(srv, "p1/a")), newClient(t, serverConfig(srv, "p1/a/b"))
	write := func(c *s3.ReplicaClient) {
		replicatest.Write(t, c, 0, 1, 1, replicatest.File(t, 1, 1, 300, 0))
	}
	write(client)
	write(client)
	write(other)
	if _, err := api.PutObjectLockConfiguration(t.Context(), &sdk.PutObjectLockConfigurationInput{Bucket: aws.String(bucket), ObjectLockConfiguration: lock}); err != nil {
		t.Fatal(err)
	}
	write(client)
	until := time.Now().Add(72 * time.Hour).UTC().Truncate(time.Second)
	if _, err := api.PutObjectRetention(t.Context(), &sdk.PutObjectRetentionInput{
		Bucket: aws.String(bucket), Key: aws.String("p1/a/0000/" + purgeName),
		Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeGovernance, RetainUntilDate: &until},
	}); err != nil {
		t.Fatal(err)
	}
	res, err := litestream.PurgeReplica(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	k := res.Kept
	if k == nil || k.Versions != 3 || k.Markers != 1 || k.Bytes == 0 || k.Asked != 3 || k.Locked != 1 || k.Held != 0 ||
		k.DefaultLock != "governance for 3 days" || len(k.Untold) != 0 {
		t.Fatalf("got %+v", k)
	}
	if !k.LockedUntil.Equal(until) {
		t.Errorf("locked until %v, want %v", k.LockedUntil, until)
	}
	if n := len(replicatest.List(t, other, 0, 0, false)); n != 1 {
		t.Errorf("the neighbour has %d files", n)
	}
}

// TestReplicaClient_KeptVersions_Refused holds that what may not be asked is
// told.
func TestReplicaClient_KeptVersions_Refused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		refused string // parameter of the query
		want    string
		n       int
	}{
		{"versions", "versions: ", 0},
		{"object-lock", "lock of the bucket: ", 1},
		{"retention", "locks: ", 1},
		{"legal-hold", "legal holds: ", 1},
		{"", "", 1},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			w.Header().Set("Content-Type", "application/xml")
			switch {
			case tt.refused != "" && q.Has(tt.refused):
				w.WriteHeader(http.StatusForbidden)
				_, _ = fmt.Fprint(w, `<Error><Code>AccessDenied</Code><Message>no</Message></Error>`)
			case q.Has("versioning"):
				_, _ = fmt.Fprint(w, `<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>`)
			case q.Has("versions"):
				body := `<ListVersionsResult><IsTruncated>false</IsTruncated>`
				if strings.HasPrefix(q.Get("prefix"), "p/000") {
					body += `<Version><Key>p/0000/` + purgeName + `</Key><VersionId>v1</VersionId><Size>5</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Version>` +
						`<Version><Key>p/0000/other</Key><VersionId>v1</VersionId><Size>5</Size></Version>`
				}
				_, _ = fmt.Fprint(w, body+`</ListVersionsResult>`)
			case q.Has("object-lock"):
				_, _ = fmt.Fprint(w, `<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>`)
			case q.Has("retention"):
				w.WriteHeader(http.StatusNotFound)
				_, _ = fmt.Fprint(w, `<Error><Code>NoSuchObjectLockConfiguration</Code></Error>`)
			case q.Has("legal-hold"):
				_, _ = fmt.Fprint(w, `<LegalHold><Status>ON</Status></LegalHold>`)
			default:
				w.WriteHeader(http.StatusNotImplemented)
				_, _ = fmt.Fprint(w, `<Error><Code>NotImplemented</Code></Error>`)
			}
		}))
		c := newClient(t, s3.Config{Bucket: "b", Path: "p", Endpoint: srv.URL, Region: "us-east-1", AccessKeyID: "a", SecretAccessKey: "b"})
		k, err := c.KeptVersions(context.Background())
		srv.Close()
		switch {
		case err != nil:
			t.Errorf("%s: %v", tt.refused, err)
		case k.Versions != tt.n || tt.want == "" && (len(k.Untold) != 0 || k.Held != 1 || k.Locked != 0 || k.Bytes != 5):
			t.Errorf("%s: got %+v", tt.refused, k)
		case tt.want != "" && (len(k.Untold) != 1 || !strings.HasPrefix(k.Untold[0], tt.want) || !strings.Contains(k.Untold[0], "AccessDenied")):
			t.Errorf("%s: untold %q", tt.refused, k.Untold)
		}
	}
}
