package s3

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/benbjohnson/litestream"
)

// WithURL adds what the URL says to the settings of a configuration file,
// which win over it; bucket and path are the URL's.
func (cfg Config) WithURL(rawURL string) (Config, error) {
	scheme, host, urlPath, query, _, err := litestream.ParseReplicaURL(rawURL)
	if err != nil {
		return Config{}, err
	}
	if scheme != ReplicaClientType {
		return Config{}, fmt.Errorf("not an s3 URL: scheme %q", scheme)
	}
	fromURL, err := configFromParts(host, urlPath, query)
	if err != nil {
		return Config{}, err
	}
	fromURL.SkipVerify = query.Get("skipVerify") == "true"
	if cfg.Endpoint != "" && cfg.ForcePathStyle == nil && firstQuery(query, "forcePathStyle", "force-path-style") == "" {
		fromURL.ForcePathStyle = new(true) // any endpoint of a configuration implies it
	}
	return cfg.withUnsetFrom(fromURL), nil
}

// withUnsetFrom fills what is not set from other, whose bucket and path count.
func (cfg Config) withUnsetFrom(other Config) Config {
	cfg.Bucket, cfg.Path = other.Bucket, other.Path
	for _, f := range []struct {
		dst *string
		src string
	}{
		{&cfg.AccessKeyID, other.AccessKeyID},
		{&cfg.SecretAccessKey, other.SecretAccessKey},
		{&cfg.Region, other.Region},
		{&cfg.Endpoint, other.Endpoint},
		{&cfg.StorageClass, other.StorageClass},
		{&cfg.SSECustomerAlgorithm, other.SSECustomerAlgorithm},
		{&cfg.SSECustomerKey, other.SSECustomerKey},
		{&cfg.SSECustomerKeyMD5, other.SSECustomerKeyMD5},
		{&cfg.SSEKMSKeyID, other.SSEKMSKeyID},
	} {
		if *f.dst == "" {
			*f.dst = f.src
		}
	}
	for _, f := range []struct{ dst, src **bool }{
		{&cfg.ForcePathStyle, &other.ForcePathStyle},
		{&cfg.SignPayload, &other.SignPayload},
		{&cfg.SignAcceptEncoding, &other.SignAcceptEncoding},
		{&cfg.RequireContentMD5, &other.RequireContentMD5},
		{&cfg.PutObjectContentMD5, &other.PutObjectContentMD5},
	} {
		if *f.dst == nil {
			*f.dst = *f.src
		}
	}
	cfg.SkipVerify = cfg.SkipVerify || other.SkipVerify
	if cfg.PartSize == 0 {
		cfg.PartSize = other.PartSize
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = other.Concurrency
	}
	return cfg
}

// newReplicaClientFromURL is the factory behind NewReplicaClientFromURL of the
// root package ("path B"): it also knows the encryption parameters and
// LITESTREAM_S3_ENDPOINT. Credentials come from the SDK's default chain, so
// that a session token counts, unlike in Litestream v0.5.
func newReplicaClientFromURL(_, host, urlPath string, query url.Values, _ *url.Userinfo) (litestream.ReplicaClient, error) {
	cfg, err := configFromParts(host, urlPath, query)
	if err != nil {
		return nil, err
	}
	cfg.SkipVerify = isTrue(firstQuery(query, "skipVerify", "skip-verify"))
	cfg.SSECustomerAlgorithm = firstQuery(query, "sseCustomerAlgorithm", "sse-customer-algorithm")
	cfg.SSECustomerKey = firstQuery(query, "sseCustomerKey", "sse-customer-key")
	cfg.SSECustomerKeyMD5 = firstQuery(query, "sseCustomerKeyMD5", "sse-customer-key-md5")
	cfg.SSEKMSKeyID = firstQuery(query, "sseKmsKeyId", "sse-kms-key-id")
	if env := os.Getenv("LITESTREAM_S3_ENDPOINT"); env != "" && cfg.Endpoint == "" {
		cfg.Endpoint = withScheme(env)
		if cfg.ForcePathStyle == nil {
			cfg.ForcePathStyle = new(true)
		}
	}
	return cfg.NewReplicaClient()
}

// configFromParts reads host, path and the query parameters that both ways of
// using a URL share.
func configFromParts(host, urlPath string, query url.Values) (Config, error) {
	cfg := parseHost(host)
	cfg.Path = urlPath
	if cfg.Bucket == "" {
		return Config{}, fmt.Errorf("bucket required for s3 replica")
	}
	if v := query.Get("endpoint"); v != "" {
		cfg.Endpoint = withScheme(v)
		cfg.ForcePathStyle = new(true)
	}
	if v := query.Get("region"); v != "" {
		cfg.Region = v
	}
	cfg.StorageClass = firstQuery(query, "storageClass", "storage-class")

	for _, f := range []struct {
		dst  **bool
		a, b string
	}{
		{&cfg.ForcePathStyle, "forcePathStyle", "force-path-style"},
		{&cfg.SignPayload, "signPayload", "sign-payload"},
		{&cfg.SignAcceptEncoding, "signAcceptEncoding", "sign-accept-encoding"},
		{&cfg.RequireContentMD5, "requireContentMD5", "require-content-md5"},
		{&cfg.PutObjectContentMD5, "putObjectContentMD5", "put-object-content-md5"},
	} {
		if v := firstQuery(query, f.a, f.b); v != "" {
			*f.dst = new(isTrue(v))
		}
	}

	var concurrency int64
	for _, f := range []struct {
		dst  *int64
		a, b string
	}{
		{&cfg.PartSize, "partSize", "part-size"},
		{&concurrency, "concurrency", "concurrency"},
	} {
		v := firstQuery(query, f.a, f.b)
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n <= 0 {
			return Config{}, fmt.Errorf("invalid value for query parameter %q: %q (must be a positive integer)", f.a, v)
		}
		*f.dst = n
	}
	cfg.Concurrency = int(concurrency)
	return cfg, nil
}

// hostForms are the host names that tell more than a bucket. The groups are the
// bucket, the endpoint's host, and the region if there is one.
var hostForms = []struct {
	re        *regexp.Regexp
	scheme    string // of the endpoint
	aws       bool   // no endpoint
	pathStyle bool
}{
	{re: regexp.MustCompile(`^(.+)\.(s3)\.amazonaws\.com$`), aws: true},
	{re: regexp.MustCompile(`^(.+)\.(s3\.([^.]+))\.amazonaws\.com$`), aws: true},
	{re: regexp.MustCompile(`^(.+)\.(([^.]+)\.digitaloceanspaces\.com)$`), scheme: "https://"},
	{re: regexp.MustCompile(`^(.+)\.(s3\.([^.]+)\.backblazeb2\.com)$`), scheme: "https://", pathStyle: true},
	{re: regexp.MustCompile(`^(.+)\.(s3\.filebase\.com)$`), pathStyle: true},
	{re: regexp.MustCompile(`^(.+)\.(s3\.([^.]+)\.scw\.cloud)$`)},
	{re: regexp.MustCompile(`^(.+)\.(br-[^.]+\.storage\.[^.]+\.([^.]+)\.[^.]+\.neon\.tech)$`), scheme: "https://", pathStyle: true},
}

// parseHost tells bucket, region, endpoint and style from the host of a URL
// (checked against Litestream v0.5.18, TestParseURL).
func parseHost(host string) Config {
	if strings.HasPrefix(host, "arn:") {
		cfg := Config{Bucket: host}
		if fields := strings.Split(host, ":"); len(fields) > 3 {
			cfg.Region = fields[3]
		}
		return cfg
	}
	for _, form := range hostForms {
		m := form.re.FindStringSubmatch(host)
		if m == nil {
			continue
		}
		cfg := Config{Bucket: m[1]}
		if len(m) > 3 {
			cfg.Region = m[3]
		}
		if !form.aws {
			cfg.Endpoint = form.scheme + m[2]
			cfg.ForcePathStyle = new(form.pathStyle)
		}
		return cfg
	}
	if strings.Contains(host, ":") && !strings.Contains(host, ".com") {
		bucket, endpoint, ok := strings.Cut(host, ".")
		if !ok {
			return Config{} // "bucket:9000" names no server
		}
		return Config{
			Bucket: bucket, Endpoint: "http://" + endpoint,
			Region: DefaultRegion, ForcePathStyle: new(true),
		}
	}
	return Config{Bucket: host}
}

// withScheme completes an endpoint of a query: http for hosts that are near.
func withScheme(endpoint string) string {
	if strings.Contains(endpoint, "://") {
		return endpoint
	}
	host := hostname("//" + endpoint)
	if isPrivateHost(host) || strings.HasSuffix(host, ".local") {
		return "http://" + endpoint
	}
	return "https://" + endpoint
}

// firstQuery returns the first of a parameter's two spellings that is set.
func firstQuery(query url.Values, names ...string) string {
	for _, name := range names {
		if v := query.Get(name); v != "" {
			return v
		}
	}
	return ""
}

// isTrue reads a boolean parameter. Any text that is none is false.
func isTrue(s string) bool {
	switch strings.ToLower(s) {
	case "true", "1", "t", "yes":
		return true
	}
	return false
}
