package s3

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every part of the retry delay lies in the bounds, and is not always the same.
func TestBackoffDelay(t *testing.T) {
	seen := make(map[int64]bool)
	for attempt := range 100 {
		d, err := backoffDelay(attempt, nil)
		if err != nil || d < baseBackoff/2 || d > maxBackoff {
			t.Errorf("attempt %d: delay=%v, err=%v", attempt, d, err)
		}
		seen[int64(d)] = true
	}
	if len(seen) < 10 {
		t.Errorf("%d different delays in 100, want jitter", len(seen))
	}
}

func TestDetectProvider(t *testing.T) {
	got := make(map[string]string)
	want := map[string]string{
		"https://fly.storage.tigris.dev":                   "tigris",
		"https://T3.storage.dev":                           "tigris",
		"https://acct.r2.cloudflarestorage.com":            "cloudflare-r2",
		"https://s3.us-west-004.backblazeb2.com":           "backblaze",
		"https://s3.filebase.com":                          "filebase",
		"https://x.supabase.co/storage/v1/s3":              "supabase",
		"https://br-a.storage.c-2.us-east-2.aws.neon.tech": "neon",
		"https://api.neon.tech":                            "other",
		"https://fsn1.your-objectstorage.com":              "hetzner",
		"https://fra1.digitaloceanspaces.com":              "digitalocean",
		"https://s3.fr-par.scw.cloud:443":                  "scaleway",
		"https://storage.googleapis.com":                   "google",
		"https://bkt.storage.googleapis.com":               "google",
		"https://s3.us-east-1.amazonaws.com":               "aws",
		"http://127.0.0.1:9000":                            "minio",
		"https://s3.example.com":                           "other",
		"https://notbackblazeb2.com":                       "other",
		"":                                                 "",
		"://":                                              "",
	}
	for endpoint := range want {
		got[endpoint] = detectProvider(endpoint).name
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("providers (-want +got):\n%s", diff)
	}
}
