package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What -print-config prints is read as what it says, and shows no secret.
func TestDatabases_PrintConfig(t *testing.T) {
	dir := testFolder(t)
	t.Setenv("STATE_DIRECTORY", "")
	writeFile(t, "c.yml", secretsConfig(dir, "127.0.0.1:1", "json")+`
  hostname: h
  exclude: ["**/*.tmp"]
  levels: [{interval: 1m}]
access-key-id: `+mark+`root
secret-access-key: `+mark+`root
socket: {enabled: true, permissions: 0660}
`)
	first := runCommand(t, "databases", "-config", "c.yml", "-print-config")
	if first.code != 0 || first.stderr != "" {
		t.Fatalf("%+v", first)
	}
	if text := leaked(first.stdout); text != "" {
		t.Errorf("a secret is shown: %s", text)
	}
	for _, want := range []string{
		"heartbeat-url: http://127.0.0.1:1/***\n", // no user, no path, no parameters
		"    permissions: 0660\n", "      busy-timeout: 1s\n", "    max-hot-databases: 1000\n", "        hot-duration: 15s\n",
		"        url: s3://bkt/s3url?endpoint=http://u:***@127.0.0.1:1&sseCustomerKey=***&x=***\n",
		"        secret-access-key: '***'\n", "        part-size: 5242880\n", "        region: us-east-1\n",
		"        password: '***'\n", "        sas-token: '***'\n", "        webdav-url: http://u:***@127.0.0.1:1\n",
		"        url: s3://bkt/fleet/{{tenant}}?endpoint=http://u:***@127.0.0.1:1\n", "        - interval: 1m0s\n", "    exclude:\n        - '**/*.tmp'\n",
		"    path: " + dir + "/webdav.db\n",
	} {
		if !strings.Contains(first.stdout, want) && !strings.Contains(first.stdout, strings.Replace(want, "    path", "    - path", 1)) {
			t.Errorf("lacks %q:\n%s", want, first.stdout)
		}
	}
	// A key of the wrong length would be refused, so the one that is hidden is
	// left out, as somebody would who copies the text.
	text := strings.NewReplacer(
		"        sse-customer-key: '***'\n", "", "        sse-customer-algorithm: AES256\n", "", "account-key: '***'", "account-key: AAAA", "sas-token: '***'", "sas-token: sig=x",
	).Replace(first.stdout)
	writeFile(t, "again.yml", text)
	second := runCommand(t, "databases", "-config", "again.yml", "-print-config")
	want := strings.NewReplacer("        sse-customer-key: '***'\n", "", "        sse-customer-algorithm: AES256\n", "").Replace(first.stdout)
	if diff := cmp.Diff(result{0, want, ""}, second, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("printed again (-first +second):\n%s", diff)
	}
}
