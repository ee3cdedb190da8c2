package s3_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

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

// TestReplicaClient_LTXFilesBetween lists every file once, wherever the limits
// are, in more than a page.
func TestReplicaClient_LTXFilesBetween(t *testing.T) {
	t.Parallel()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket(bucket)
	api := srv.Client()
	names := []string{"a", "a/b", "a/b/c", "a0", "ab", "b", "b/0000", "z"}
	want := map[string]bool{}
	put := func(key string) {
		t.Helper()
		if _, err := api.PutObject(t.Context(), &sdk.PutObjectInput{Bucket: aws.String(bucket), Key: &key, Body: strings.NewReader("x")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		for _, level := range []int{0, 9} {
			put(fmt.Sprintf("fleet/%s/%04x/%s", name, level, purgeName))
			want[fmt.Sprintf("%s %d 1-1", name, level)] = true
		}
	}
	put("fleet/a/0000/note")
	put("fleet2/a/0000/" + purgeName)
	client := newClient(t, serverConfig(srv, "fleet"))
	for _, borders := range [][]string{{}, {"a"}, {"a", "b"}, {"a/b", "a0", "zz"}, {"a/0000", "a/0000/0", "a/b/c"}} {
		got := map[string]bool{}
		borders = append(append([]string{""}, borders...), "")
		for i := range borders[1:] {
			err := client.LTXFilesBetween(t.Context(), borders[i], borders[i+1], func(replica string, info *ltx.FileInfo) bool {
				id := fmt.Sprintf("%s %d %d-%d", replica, info.Level, info.MinTXID, info.MaxTXID)
				if got[id] || info.Size != 1 || info.CreatedAt.IsZero() {
					t.Errorf("%q: %s comes twice, or is %+v", borders, id, info)
				}
				got[id] = true
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", borders, got, want)
		}
	}
	n := 0
	err := client.LTXFilesBetween(t.Context(), "", "", func(string, *ltx.FileInfo) bool { n++; return n < 3 })
	if err != nil || n != 3 {
		t.Errorf("%d files, %v; want an end after three", n, err)
	}
	client.Bucket = "missing"
	if err := client.LTXFilesBetween(t.Context(), "", "", func(string, *ltx.FileInfo) bool { return true }); err == nil {
		t.Error("a bucket that is missing is listed")
	}
}
