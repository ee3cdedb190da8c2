package fakeoss_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/internal/fakeoss"
)

// request is one that Alibaba's library has signed (alibabacloud-oss-go-sdk-v2
// v1.6.1, oss/signer/signer_test.go).
func request(t *testing.T) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPut,
		"http://bucket.oss-cn-hangzhou.aliyuncs.com/1234%2B-/123/1.txt?%2Bparam1=value3&%2Bparam2=&%7Cparam1=value4&%7Cparam2=&param1=value1&param2=", http.NoBody)
	for name, value := range map[string]string{
		"X-Oss-Head1": "value", "Abc": "value", "Content-Type": "text/plain", "X-Oss-Content-Sha256": "UNSIGNED-PAYLOAD", "X-Oss-Date": "20231216T162057Z",
		"Authorization": "OSS4-HMAC-SHA256 Credential=ak/20231216/cn-hangzhou/oss/aliyun_v4_request,Signature=e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe",
	} {
		r.Header.Set(name, value)
	}
	return r
}

// TestServer_Signature holds that the server knows a good signature when it sees
// one, and each way in which it can be wrong.
func TestServer_Signature(t *testing.T) {
	signed := time.Date(2023, 12, 16, 16, 20, 57, 0, time.UTC)
	for name, tt := range map[string]struct {
		change func(r *http.Request)
		after  time.Duration // on the server's clock
		want   string        // the code; empty: success
	}{
		"Good":       {func(*http.Request) {}, 0, ""},
		"Late":       {func(*http.Request) {}, 14 * time.Minute, ""},
		"TooLate":    {func(*http.Request) {}, 16 * time.Minute, "RequestTimeTooSkewed"},
		"TooEarly":   {func(*http.Request) {}, -16 * time.Minute, "RequestTimeTooSkewed"},
		"None":       {func(r *http.Request) { r.Header.Del("Authorization") }, 0, "AccessDenied"},
		"OtherDay":   {func(r *http.Request) { r.Header.Set("X-Oss-Date", "20231217T000057Z") }, 8 * time.Hour, "AccessDenied"},
		"OtherTime":  {func(r *http.Request) { r.Header.Set("X-Oss-Date", "20231216T162058Z") }, 0, "SignatureDoesNotMatch"},
		"Method":     {func(r *http.Request) { r.Method = http.MethodPost }, 0, "SignatureDoesNotMatch"},
		"Key":        {func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/1234+-/123/2.txt", "" }, 0, "SignatureDoesNotMatch"},
		"Bucket":     {func(r *http.Request) { r.Host = "other.oss-cn-hangzhou.aliyuncs.com" }, 0, "SignatureDoesNotMatch"},
		"Query":      {func(r *http.Request) { r.URL.RawQuery += "&x" }, 0, "SignatureDoesNotMatch"},
		"Header":     {func(r *http.Request) { r.Header.Set("X-Oss-Forbid-Overwrite", "true") }, 0, "SignatureDoesNotMatch"},
		"Unsigned":   {func(r *http.Request) { r.Header.Set("Abc", "other") }, 0, ""},
		"AccessKey":  {func(r *http.Request) { replace(r, "=ak/", "=al/") }, 0, "InvalidAccessKeyId"},
		"Region":     {func(r *http.Request) { replace(r, "cn-hangzhou", "cn-beijing") }, 0, "InvalidArgument"},
		"Credential": {func(r *http.Request) { replace(r, "/aliyun_v4_request", "") }, 0, "AccessDenied"},
	} {
		srv := fakeoss.New(fakeoss.Options{
			AccessKeyID: "ak", AccessKeySecret: "sk", Region: "cn-hangzhou", Now: func() time.Time { return signed.Add(tt.after) },
		})
		srv.CreateBucket("bucket", false)
		r := request(t)
		tt.change(r)
		w := httptest.NewRecorder()
		srv.ServeHTTP(w, r)
		switch {
		case tt.want == "" && w.Code != http.StatusOK, tt.want != "" && !strings.Contains(w.Body.String(), "<Code>"+tt.want+"</Code>"):
			t.Errorf("%s: %d %s, want %q", name, w.Code, w.Body, tt.want)
		case tt.want != "" && len(srv.Keys("bucket")) != 0:
			t.Errorf("%s: stored %q", name, srv.Keys("bucket"))
		}
	}
}

func replace(r *http.Request, from, to string) {
	r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), from, to, 1))
}

// An answer without a body says in a header what is wrong.
func TestServer_HeadError(t *testing.T) {
	srv := fakeoss.New(fakeoss.Options{})
	w := httptest.NewRecorder()
	srv.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodHead, "http://bucket.host/key", http.NoBody))
	b, err := base64.StdEncoding.DecodeString(w.Header().Get("X-Oss-Err"))
	if err != nil || !strings.Contains(string(b), "<Code>AccessDenied</Code>") {
		t.Errorf("header says %q, err=%v", b, err)
	}
}
