package s3

import (
	"net/url"
	"slices"
	"strings"
)

// A provider is what one S3 service needs beside the common protocol. Settings
// of the user always win over it.
type provider struct {
	name  string
	match func(host string) bool

	pathStyle              bool  // the service has no bucket host names
	noContentMD5           bool  // batch deletes go without Content-MD5
	unsignedAcceptEncoding bool  // a proxy of the service rewrites that header
	equalParts             bool  // all parts but the last must have one size
	concurrency            int   // parts in flight per upload; 0: the default
	partSize               int64 // bytes; 0: the default
	header                 [2]string
}

// providers lists the known services (compat.md section 2.7). The first that
// matches counts.
var providers = []provider{
	{
		name: "tigris", match: isHost("fly.storage.tigris.dev", "t3.storage.dev"),
		noContentMD5: true, concurrency: 2, partSize: 16 << 20,
		header: [2]string{"X-Tigris-Consistent", "true"},
	},
	{name: "cloudflare-r2", match: hasSuffix(".r2.cloudflarestorage.com"), equalParts: true, concurrency: 2},
	{name: "backblaze", match: hasSuffix(".backblazeb2.com"), pathStyle: true},
	{name: "filebase", match: isHost("s3.filebase.com"), pathStyle: true},
	{name: "supabase", match: hasSuffix(".supabase.co"), pathStyle: true},
	{name: "neon", match: isNeonHost, pathStyle: true},
	{name: "hetzner", match: hasSuffix(".your-objectstorage.com")},
	{name: "digitalocean", match: hasSuffix(".digitaloceanspaces.com")},
	{name: "scaleway", match: hasSuffix(".scw.cloud")},
	{name: "google", match: isGoogleHost, unsignedAcceptEncoding: true},
	{name: "aws", match: hasSuffix(".amazonaws.com")},
}

// minioLike is any service with an explicit port that is none of the known
// clouds: MinIO and other servers that people run themselves.
var minioLike = provider{name: "minio", pathStyle: true}

// detectProvider returns the service behind an endpoint with a scheme, or the
// zero provider.
func detectProvider(endpoint string) provider {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return provider{}
	}
	host := strings.ToLower(u.Hostname())
	for _, p := range providers {
		if p.match(host) {
			return p
		}
	}
	if u.Port() != "" {
		return minioLike
	}
	return provider{}
}

func isHost(hosts ...string) func(string) bool {
	return func(host string) bool { return slices.Contains(hosts, host) }
}

func hasSuffix(suffix string) func(string) bool {
	return func(host string) bool { return strings.HasSuffix(host, suffix) }
}

func isNeonHost(host string) bool {
	return strings.HasSuffix(host, ".neon.tech") && strings.Contains(host, ".storage.")
}

func isGoogleHost(host string) bool {
	return strings.HasSuffix(host, ".googleapis.com") && strings.Contains("."+host, ".storage.") ||
		host == "storage.googleapis.com"
}
