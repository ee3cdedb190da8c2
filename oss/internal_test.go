package oss

import (
	"hash/crc64"
	"math/rand/v2"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// TestSign holds the examples that Alibaba publishes with its own library
// (alibabacloud-oss-go-sdk-v2, oss/signer/signer_test.go).
func TestSign(t *testing.T) {
	for name, tt := range map[string]struct {
		token string
		at    int64
		want  string
	}{
		"Keys":  {"", 1702743657, "e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe"},
		"Token": {"token", 1702784856, "b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea"},
	} {
		query := url.Values{"param1": {"value1"}, "+param1": {"value3"}, "|param1": {"value4"}, "+param2": {""}, "|param2": {""}, "param2": {""}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://bucket.oss-cn-hangzhou.aliyuncs.com/?"+encodeQuery(query), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range map[string]string{"x-oss-head1": "value", "abc": "value", "ZAbc": "value", "XYZ": "value", "content-type": "text/plain"} {
			req.Header.Set(key, value)
		}
		sign(req, "/bucket/1234+-/123/1.txt", "cn-hangzhou", accessKeys{id: "ak", secret: "sk", token: tt.token}, time.Unix(tt.at, 0))
		want := "OSS4-HMAC-SHA256 Credential=ak/" + time.Unix(tt.at, 0).UTC().Format("20060102") + "/cn-hangzhou/oss/aliyun_v4_request,Signature=" + tt.want
		if got := req.Header.Get("Authorization"); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestCombineCRC(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		b := make([]byte, rnd.IntN(5000))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		var crc uint64
		for off := 0; off < len(b); {
			n := min(1+rnd.IntN(2000), len(b)-off)
			crc = combineCRC(crc, crc64.Checksum(b[off:off+n], crcTable), int64(n))
			off += n
		}
		if want := crc64.Checksum(b, crcTable); crc != want {
			t.Fatalf("%d bytes: %x, want %x", len(b), crc, want)
		}
	}
	if got := combineCRC(5, 0, 0); got != 5 {
		t.Errorf("nothing behind it: %d, want 5", got)
	}
}

// The bucket is a part of the host name, except of an address; keys keep their
// slashes, and nothing is cleaned.
func TestConnection_URL(t *testing.T) {
	for _, tt := range []struct{ endpoint, key, want string }{
		{"", "", "https://b.oss-cn-hangzhou.aliyuncs.com/"},
		{"oss-cn-shanghai-internal.aliyuncs.com", "a b/c+d%ä", "https://b.oss-cn-shanghai-internal.aliyuncs.com/a%20b/c%2Bd%25%C3%A4"},
		{"http://127.0.0.1:9", "./0000/x", "http://127.0.0.1:9/b/./0000/x"},
		{"http://[::1]:9", "/lead//x", "http://[::1]:9/b//lead//x"},
		{"http://localhost:9", "x", "http://b.localhost:9/x"},
	} {
		cn, err := new(Pool).connection(Options{Endpoint: tt.endpoint}.withDefaults())
		if err != nil {
			t.Fatal(err)
		}
		got := cn.url(&request{bucket: "b", key: tt.key})
		if got != tt.want {
			t.Errorf("%s %q: %s, want %s", tt.endpoint, tt.key, got, tt.want)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, got, http.NoBody)
		if err != nil || req.URL.String() != tt.want {
			t.Errorf("%s %q: request goes to %v (err=%v), want %s", tt.endpoint, tt.key, req.URL, err, tt.want)
		}
	}
}

// The region that requests are signed for is the endpoint's.
func TestOptions_Region(t *testing.T) {
	for _, tt := range []struct{ region, endpoint, want, wantEndpoint string }{
		{"", "", "cn-hangzhou", "https://oss-cn-hangzhou.aliyuncs.com"},
		{"cn-beijing", "", "cn-beijing", "https://oss-cn-beijing.aliyuncs.com"},
		{"", "oss-eu-central-1.aliyuncs.com", "eu-central-1", "https://oss-eu-central-1.aliyuncs.com"},
		{"", "http://oss-us-east-1-internal.aliyuncs.com:80/", "us-east-1", "http://oss-us-east-1-internal.aliyuncs.com:80"},
		{"cn-beijing", "oss-eu-central-1.aliyuncs.com", "cn-beijing", "https://oss-eu-central-1.aliyuncs.com"},
		{"", "oss-accelerate.aliyuncs.com", "cn-hangzhou", "https://oss-accelerate.aliyuncs.com"},
		{"", "oss-accelerate-overseas.aliyuncs.com", "cn-hangzhou", "https://oss-accelerate-overseas.aliyuncs.com"},
		{"", "http://127.0.0.1:9", "cn-hangzhou", "http://127.0.0.1:9"},
	} {
		o := Options{Region: tt.region, Endpoint: tt.endpoint}.withDefaults()
		if o.Region != tt.want || o.Endpoint != tt.wantEndpoint {
			t.Errorf("%q %q: %s at %s, want %s at %s", tt.region, tt.endpoint, o.Region, o.Endpoint, tt.want, tt.wantEndpoint)
		}
	}
}
