package s3

import (
	"cmp"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A provider is what one S3 service needs beside the common protocol. Settings
// of the user always win over it.
type provider struct {
	name  string
	hosts []string // patterns in which * stands for any text; as Table shows them

	bucketHosts            bool  // a URL whose host is BUCKET.HOST keeps that name in requests
	noContentMD5           bool  // batch deletes go without Content-MD5
	unsignedAcceptEncoding bool  // a proxy of the service rewrites that header
	equalParts             bool  // all parts but the last must have one size
	concurrency            int   // parts in flight per upload; 0: the default
	partSize               int64 // bytes; 0: the default
	header                 [2]string
}

// providers lists the known services. The first that matches
// counts.
var providers = []provider{
	{
		name: "tigris", hosts: []string{"fly.storage.tigris.dev", "t3.storage.dev"},
		noContentMD5: true, concurrency: 2, partSize: 16 << 20,
		header: [2]string{"X-Tigris-Consistent", "true"},
	},
	{name: "cloudflare-r2", hosts: []string{"*.r2.cloudflarestorage.com"}, equalParts: true, concurrency: 2},
	{name: "backblaze", hosts: []string{"*.backblazeb2.com"}},
	{name: "filebase", hosts: []string{"s3.filebase.com"}},
	{name: "supabase", hosts: []string{"*.supabase.co"}},
	{name: "neon", hosts: []string{"*.storage.neon.tech", "*.storage.*.neon.tech"}},
	{name: "hetzner", hosts: []string{"*.your-objectstorage.com"}},
	{name: "digitalocean", hosts: []string{"*.digitaloceanspaces.com"}, bucketHosts: true},
	{name: "scaleway", hosts: []string{"*.scw.cloud"}, bucketHosts: true},
	{
		name: "google", unsignedAcceptEncoding: true,
		hosts: []string{"storage.googleapis.com", "storage.*.googleapis.com", "*.storage.googleapis.com", "*.storage.*.googleapis.com"},
	},
	{name: "aws", hosts: []string{"*.amazonaws.com"}},
}

// minioLike is any service with an explicit port that is none of the known
// clouds: MinIO and other servers that people run themselves.
var minioLike = provider{name: "minio"}

// unknownProvider is any other service.
var unknownProvider = provider{name: "other"}

// detectProvider returns the service behind an endpoint with a scheme, or the
// zero provider if there is no endpoint.
func detectProvider(endpoint string) provider {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return provider{}
	}
	host := strings.ToLower(u.Hostname())
	for _, p := range providers {
		if slices.ContainsFunc(p.hosts, func(pattern string) bool { return matchHost(pattern, host) }) {
			return p
		}
	}
	if u.Port() != "" {
		return minioLike
	}
	return unknownProvider
}

// matchHost reports whether a host is what the pattern says. A host has no
// slash, so that * stands for any text.
func matchHost(pattern, host string) bool {
	ok, err := path.Match(pattern, host)
	return err == nil && ok
}

// ProviderName returns the name of the service behind an endpoint, as
// ProviderTable has it. Without an endpoint it is AWS.
func ProviderName(endpoint string) string {
	if endpoint == "" {
		return "aws"
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	return cmp.Or(detectProvider(endpoint).name, unknownProvider.name)
}

// ProviderTable returns what the client does differently for which service, as
// people read it: the names of the columns and a row for each service, in the
// order in which they are tried. A key of the configuration or a parameter of
// the URL wins over what it says.
func ProviderTable() (header []string, rows [][]string) {
	header = []string{"service", "endpoint", "bucket in", "part-size", "concurrency", "besides"}
	for _, p := range append(slices.Clone(providers), minioLike, unknownProvider) {
		o := Options{Endpoint: p.example()}.withDefaults()
		rows = append(rows, []string{
			p.name, p.endpoints(), p.bucketIn(),
			fmt.Sprintf("%d MiB", o.PartSize>>20), strconv.Itoa(o.Concurrency), p.besides(),
		})
	}
	return header, rows
}

// example returns an endpoint of the service.
func (p provider) example() string {
	switch p.name {
	case minioLike.name:
		return "https://x:9000"
	case unknownProvider.name:
		return "https://x"
	}
	return "https://" + strings.ReplaceAll(p.hosts[0], "*", "x")
}

func (p provider) endpoints() string {
	switch p.name {
	case minioLike.name:
		return "any other with a port"
	case unknownProvider.name:
		return "any other"
	case "aws":
		return "none, or " + strings.Join(p.hosts, ", ")
	}
	return strings.Join(p.hosts, ", ")
}

// bucketIn says where the name of the bucket stands in requests when no key says
// it: few services of one's own have a host name for each bucket.
func (p provider) bucketIn() string {
	switch {
	case p.name == "aws":
		return "host; path with an endpoint"
	case p.bucketHosts:
		return "path; host if the URL's host is BUCKET.ENDPOINT"
	default:
		return "path"
	}
}

func (p provider) besides() string {
	var a []string
	if p.name == "aws" {
		a = append(a, "without an endpoint the bucket is asked for its region")
	}
	if p.noContentMD5 {
		a = append(a, "require-content-md5: false")
	}
	if p.unsignedAcceptEncoding {
		a = append(a, "sign-accept-encoding: false")
	}
	if p.equalParts {
		a = append(a, "all parts of an upload have one size")
	}
	if p.header[0] != "" {
		a = append(a, "header "+p.header[0]+": "+p.header[1])
	}
	return strings.Join(a, "; ")
}
