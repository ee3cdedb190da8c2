package s3_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/tests/servers"
)

func TestReplicaClient_Replicas(t *testing.T) {
	t.Parallel()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket(bucket)
	const name = "0000000000000001-0000000000000001.ltx"
	for _, key := range []string{
		"x/a/0000/" + name, "x/a/0009/" + name, "x/b/c/0001/" + name, "x/b/c/0000/" + name,
		"x/bad/0000/foo", "x/bad/000a/" + name, "xx/d/0000/" + name, "e/0000/" + name, "x/!litestream/epoch",
	} {
		if _, err := srv.Client().PutObject(t.Context(), &sdk.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)}); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string][]string{"x": {"a", "b/c"}, "": {"e", "x/a", "x/b/c", "xx/d"}, "none": nil} {
		c := newClient(t, serverConfig(srv, path))
		var got []string
		if err := c.Replicas(t.Context(), func(path string) error { got = append(got, path); return nil }); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
			t.Errorf("below %q (-want +got):\n%s", path, diff)
		}
	}
	stop := errors.New("enough")
	if err := newClient(t, serverConfig(srv, "x")).Replicas(t.Context(), func(string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the caller's error", err)
	}
}
