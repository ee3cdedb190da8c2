package abs_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/abs"
)

// roundTrip is a transport made of a function.
type roundTrip func(*http.Request) (status int, body string)

// RoundTrip implements http.RoundTripper.
func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := f(r)
	return &http.Response{
		Status: http.StatusText(status), StatusCode: status, Request: r, ContentLength: int64(len(body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
	}, nil
}

// Without key and token a client logs in as what Azure's default chain finds: a
// service principal, the identity of a workload, or that of the machine. It does
// so at the first use, once for all paths.
func TestReplicaClient_Identity(t *testing.T) {
	const tenant, login = "11111111-2222-3333-4444-555555555555", "https://login.microsoftonline.com/"
	subject := filepath.Join(t.TempDir(), "subject")
	if err := os.WriteFile(subject, []byte("federated"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		env  map[string]string
		is   func(r *http.Request) bool // the right question for a token
	}{
		{
			"ServicePrincipal",
			map[string]string{"AZURE_TENANT_ID": tenant, "AZURE_CLIENT_ID": "id", "AZURE_CLIENT_SECRET": "geheim"},
			func(r *http.Request) bool {
				return r.FormValue("client_id") == "id" && r.FormValue("client_secret") == "geheim"
			},
		},
		{
			"Workload",
			map[string]string{"AZURE_TENANT_ID": tenant, "AZURE_CLIENT_ID": "id", "AZURE_FEDERATED_TOKEN_FILE": subject},
			func(r *http.Request) bool { return r.FormValue("client_assertion") == "federated" },
		},
		{
			"Machine",
			map[string]string{"IDENTITY_ENDPOINT": "http://127.0.0.1:1/identity", "IDENTITY_HEADER": "geheim"},
			func(r *http.Request) bool {
				return r.URL.Path == "/identity" && r.Header.Get("X-Identity-Header") == "geheim"
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, kv := range os.Environ() {
				for _, prefix := range []string{"AZURE_", "LITESTREAM_AZURE_", "IDENTITY_", "MSI_", "IMDS_"} {
					if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, prefix) {
						t.Setenv(name, "")
					}
				}
			}
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			var issued, listed, refused atomic.Int64
			c := newClient(t, "https://acct.blob.core.windows.net", "p", func(o *abs.Options) { o.AccountKey = "" })
			err := abs.SetTransport(c, roundTrip(func(r *http.Request) (int, string) {
				switch path := r.URL.Path; {
				case strings.HasSuffix(path, "/discovery/instance"):
					return http.StatusOK, fmt.Sprintf(`{"tenant_discovery_endpoint":%q,"metadata":[{"preferred_network":"login.microsoftonline.com","preferred_cache":"login.windows.net","aliases":["login.microsoftonline.com"]}]}`,
						login+tenant+"/v2.0/.well-known/openid-configuration")
				case strings.HasSuffix(path, "/openid-configuration"):
					return http.StatusOK, fmt.Sprintf(`{"token_endpoint":%q,"authorization_endpoint":%q,"issuer":%q}`,
						login+tenant+"/oauth2/v2.0/token", login+tenant+"/oauth2/v2.0/authorize", login+tenant+"/v2.0")
				case tt.is(r):
					issued.Add(1)
					return http.StatusOK, fmt.Sprintf(`{"access_token":"token-of-%s","expires_in":3600,"expires_on":"%d","token_type":"Bearer","resource":"x"}`,
						tt.name, time.Now().Add(time.Hour).Unix())
				case r.URL.Host == "acct.blob.core.windows.net" && r.Header.Get("Authorization") == "Bearer token-of-"+tt.name:
					listed.Add(1)
					return http.StatusOK, `<?xml version="1.0"?><EnumerationResults><Blobs></Blobs></EnumerationResults>`
				}
				refused.Add(1)
				return http.StatusForbidden, `{"error":"unauthorized_client"}`
			}))
			if err != nil {
				t.Fatal(err)
			}
			if n := issued.Load(); n != 0 {
				t.Errorf("%d tokens before the first use", n)
			}
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() {
					if _, err := c.WithPrefix(fmt.Sprint(i)).LTXFiles(t.Context(), 0, 0, false); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if issued.Load() != 1 || listed.Load() != 4 || refused.Load() != 0 {
				t.Errorf("%d tokens, %d listings, %d refusals, want 1, 4 and 0", issued.Load(), listed.Load(), refused.Load())
			}
		})
	}
}
