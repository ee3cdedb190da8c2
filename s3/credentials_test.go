package s3_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/tests/servers"
)

// Without keys of its own a client finds credentials where the AWS SDK does: in
// the environment, in the shared files, and at the services of EKS, ECS and EC2.
// They are asked for at the first use, once for all paths.
func TestReplicaClient_DefaultChain(t *testing.T) {
	const role = `{"Code":"Success","AccessKeyId":"%s","SecretAccessKey":"s","Token":"session-of-%[1]s","SessionToken":"session-of-%[1]s","Expiration":"%s"}`
	end := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	var asked atomic.Int64
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/bkt") {
			fmt.Fprint(w, `<ListBucketResult></ListBucketResult>`)
			return
		}
		asked.Add(1)
		switch path := r.URL.Path; {
		case path == "/" && strings.Contains(r.FormValue("WebIdentityToken"), "web-token"):
			fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>WEB</AccessKeyId>`+
				`<SecretAccessKey>s</SecretAccessKey><SessionToken>session-of-WEB</SessionToken><Expiration>%s</Expiration></Credentials>`+
				`</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, end)
		case path == "/container" && r.Header.Get("Authorization") == "container-token":
			fmt.Fprintf(w, role, "ECS", end)
		case path == "/latest/api/token":
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "3600")
			fmt.Fprint(w, "imds-token")
		case path == "/latest/meta-data/iam/security-credentials/":
			fmt.Fprint(w, "role")
		case path == "/latest/meta-data/iam/security-credentials/role" && r.Header.Get("X-Aws-Ec2-Metadata-Token") == "imds-token":
			fmt.Fprintf(w, role, "EC2", end)
		default:
			http.NotFound(w, r)
		}
	})
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name, want, session string
		env                 map[string]string
	}{
		{"Environment", "ENV", "", map[string]string{"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "s"}},
		{"Session", "ENV", "session", map[string]string{"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "session"}},
		{"SharedFile", "SHARED", "", map[string]string{
			"AWS_SHARED_CREDENTIALS_FILE": file("credentials", "[default]\naws_access_key_id = SHARED\naws_secret_access_key = s\n"),
		}},
		{"Profile", "PROFILE", "", map[string]string{
			"AWS_CONFIG_FILE": file("config", "[profile other]\naws_access_key_id = PROFILE\naws_secret_access_key = s\n"), "AWS_PROFILE": "other",
		}},
		{"WebIdentity", "WEB", "session-of-WEB", map[string]string{
			"AWS_WEB_IDENTITY_TOKEN_FILE": file("token", "web-token"), "AWS_ROLE_ARN": "arn:aws:iam::1:role/r", "AWS_ENDPOINT_URL_STS": srv.URL,
		}},
		{"Container", "ECS", "session-of-ECS", map[string]string{
			"AWS_CONTAINER_CREDENTIALS_FULL_URI": srv.URL + "/container", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "container-token",
		}},
		{"Instance", "EC2", "session-of-EC2", map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": srv.URL}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, kv := range os.Environ() {
				if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
					t.Setenv(name, "")
				}
			}
			t.Setenv("HOME", dir)
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			cfg := fakeConfig(srv)
			cfg.AccessKeyID, cfg.SecretAccessKey = "", ""
			before := len(srv.Seen())
			c := newClient(t, cfg)
			if n := len(srv.Seen()) - before; n > 0 {
				t.Errorf("%d requests before the first use", n)
			}
			for _, path := range []string{"a", "b"} {
				asked.Store(0)
				if _, err := c.WithPrefix(path).LTXFiles(t.Context(), 0, 0, false); err != nil {
					t.Fatal(err)
				}
			}
			if n := asked.Load(); n > 0 {
				t.Errorf("the second path asked for credentials with %d requests of its own", n)
			}
			last := srv.Seen()[len(srv.Seen())-1]
			if got := last.Header.Get("Authorization"); !strings.Contains(got, "Credential="+tt.want+"/") || last.Header.Get("X-Amz-Security-Token") != tt.session {
				t.Errorf("signed by %q with session %q, want %s and %q", got, last.Header.Get("X-Amz-Security-Token"), tt.want, tt.session)
			}
		})
	}
}

// A chain that finds nothing says so in the error alone, in words that tell what
// to set: standard error belongs to the program's own log.
func TestReplicaClient_NoCredentials(t *testing.T) {
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", srv.URL)
	said, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	t.Cleanup(func() { os.Stderr = stderr; said.Close() })
	os.Stderr = said
	cfg := fakeConfig(srv)
	cfg.AccessKeyID, cfg.SecretAccessKey = "", ""
	_, err = newClient(t, cfg).LTXFiles(t.Context(), 0, 0, false)
	if err == nil || !strings.Contains(err.Error(), "set access-key-id and secret-access-key") {
		t.Errorf("err=%v, want one that says what to set", err)
	}
	if n := len(srv.Seen()); n == 0 {
		t.Error("nobody was asked")
	}
	if text, err := os.ReadFile(said.Name()); err != nil || len(text) > 0 {
		t.Errorf("standard error has %q, err=%v, want nothing", text, err)
	}
}
