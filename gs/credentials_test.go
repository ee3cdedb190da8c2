package gs_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/tests/servers"
)

// Credentials are found where Google's libraries find them: in the file that
// GOOGLE_APPLICATION_CREDENTIALS names, of any kind, in that of gcloud, and at
// the metadata server of Google's machines.
func TestReplicaClient_DefaultChain(t *testing.T) {
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := ""
		switch assertion := r.FormValue("assertion"); {
		case r.FormValue("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer" && strings.Count(assertion, ".") == 2:
			kind = "ServiceAccount"
		case r.FormValue("refresh_token") == "refresh" && r.FormValue("client_secret") == "cs":
			kind = "Gcloud"
		case r.FormValue("subject_token") == "subject" && r.FormValue("audience") == "aud":
			kind = "Federation"
		case strings.HasSuffix(r.URL.Path, "/instance/service-accounts/default/token") && r.Header.Get("Metadata-Flavor") == "Google":
			kind = "Machine"
		}
		if kind == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"token-of-%s","expires_in":3600,"token_type":"Bearer"}`, kind)
	}))
	t.Cleanup(tokens.Close)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
	for _, tt := range []struct{ name, file, content string }{
		{"ServiceAccount", "key.json", fmt.Sprintf(`{"type":"service_account","client_email":"a@b","private_key_id":"1","private_key":%q,"token_uri":%q}`, private, tokens.URL)},
		{"Federation", "key.json", fmt.Sprintf(`{"type":"external_account","audience":"aud","subject_token_type":"urn:ietf:params:oauth:token-type:jwt","token_url":%q,"credential_source":{"file":"HOME/subject"}}`, tokens.URL)},
		{"Gcloud", ".config/gcloud/application_default_credentials.json", fmt.Sprintf(`{"type":"authorized_user","client_id":"c","client_secret":"cs","refresh_token":"refresh","token_uri":%q}`, tokens.URL)},
		{"Machine", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
			t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(tokens.URL, "http://"))
			for name, text := range map[string]string{tt.file: strings.ReplaceAll(tt.content, "HOME", home), "subject": "subject"} {
				path := filepath.Join(home, name)
				if name == "" {
					continue
				}
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tt.file == "key.json" {
				t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(home, tt.file))
			}
			c := newClient(t, srv.URL, "p", func(o *gs.Options) { o.Anonymous = false })
			if _, err := c.LTXFiles(t.Context(), 0, 0, false); err != nil {
				t.Fatal(err)
			}
			seen := srv.Seen()
			if got, want := seen[len(seen)-1].Header.Get("Authorization"), "Bearer token-of-"+tt.name; got != want {
				t.Errorf("sent %q, want %q", got, want)
			}
		})
	}
}
