package main

import (
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/nats"
)

// TestNATS_Options holds what the keys and the URL lead to, and that no
// credential is shown.
func TestNATS_Options(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ replica, want string }{
		{"type: nats, bucket: b", "nats://127.0.0.1:4222/b"},
		{"type: nats, bucket: b, url: 'nats://h'", "nats://h:4222/b"},
		{"url: 'nats://h:4223/b', bucket: other", "nats://h:4223/b"},
		{"url: 'nats://bob:hunter2@h/b/c/../d'", "nats://h:4222/b/d"},
		{"url: 'nats://hunter2@h/b/'", "nats://h:4222/b"},
		{"url: 'nats://[::1]:4222/b'", "nats://[::1]:4222/b"},
		{"url: 'nats://h/b', jwt: hunter2, seed: hunter2", "nats://h:4222/b"},
	} {
		cfg := mustParse(t, "dbs:\n  - {path: /a, replica: {"+tt.replica+"}}")
		client, err := newReplicaClient(cfg.DBs[0].Replica)
		if err != nil {
			t.Fatalf("%s: %v", tt.replica, err)
		}
		if got := redactedLocation(client); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.replica, got, tt.want)
		}
		o := client.(*nats.ReplicaClient).Options
		if strings.Contains(tt.replica, "hunter2") && o.Password != "hunter2" && o.Token != "hunter2" && o.Seed != "hunter2" {
			t.Errorf("%s: no credentials: %+v", tt.replica, o)
		}
		if o.MaxReconnects != nats.DefaultMaxReconnects {
			t.Errorf("%s: %d reconnects", tt.replica, o.MaxReconnects)
		}
	}

	cfg := mustParse(t, "username: bob\npassword: pw\nroot-cas: [/ca]\ndbs:\n  - {path: /a, replica: {url: 'nats://x:y@h/b', max-reconnects: 0, timeout: 3s, reconnect-wait: 4s, tls: true}}")
	client, err := newReplicaClient(cfg.DBs[0].Replica)
	if err != nil {
		t.Fatal(err)
	}
	o := client.(*nats.ReplicaClient).Options
	if o.Username != "bob" || o.Password != "pw" || o.MaxReconnects != 0 || o.Timeout != 3*time.Second ||
		o.ReconnectWait != 4*time.Second || !o.TLS || len(o.RootCAs) != 1 {
		t.Errorf("options %+v", o)
	}
}

// TestNATS_Dir holds that the databases of a folder have a path each.
func TestNATS_Dir(t *testing.T) {
	t.Parallel()
	for replica, want := range map[string]string{
		"url: 'nats://h/b'":               "nats://h:4222/b/x/a.db",
		"url: 'nats://h/b/c'":             "nats://h:4222/b/c/x/a.db",
		"type: nats, bucket: b":           "nats://127.0.0.1:4222/b/x/a.db",
		"type: nats, bucket: b, path: /c": "nats://127.0.0.1:4222/b/c/x/a.db",
	} {
		cfg := mustParse(t, "dbs:\n  - {dir: /d, pattern: '*.db', recursive: true, watch: true, replica: {"+replica+"}}")
		client, err := newReplicaClient(cfg.db("/d/x/a.db").Replica)
		if err != nil {
			t.Fatal(err)
		}
		if got := redactedLocation(client); got != want {
			t.Errorf("%s: %s, want %s", replica, got, want)
		}
	}
}

// TestNATS_MultiDB holds that tenants are paths of one bucket, and share one
// connection.
func TestNATS_MultiDB(t *testing.T) {
	t.Parallel()
	const text = "multi-db:\n  patterns: ['/d/*.db']\n  replica-template: {%}\n  limits: {s3-connections: 7}\n"
	for _, tt := range []struct{ replica, want, root string }{
		{"url: 'nats://u:pw@h/b/{{tenant}}'", "nats://h:4222/b/x", "nats://h:4222/b"},
		{"url: 'nats://h/b/c%20d/t-{{tenant}}'", "nats://h:4222/b/c d/t-x", "nats://h:4222/b/c d"},
		{"type: nats, bucket: b, path: '{{tenant}}'", "nats://127.0.0.1:4222/b/x", "nats://127.0.0.1:4222/b"},
		{"type: nats, bucket: b, url: 'nats://h/c/p/{{tenant}}'", "nats://h:4222/c/p/x", "nats://h:4222/c/p"},
	} {
		cfg := mustParse(t, strings.Replace(text, "%", tt.replica, 1))
		tenant, err := cfg.MultiDB.tenants.Lookup("/d/x.db")
		if err != nil {
			t.Fatal(err)
		}
		client, err := cfg.MultiDB.client(&tenant)
		if err != nil {
			t.Fatal(err)
		}
		_, root, err := cfg.MultiDB.manager()
		if err != nil {
			t.Fatal(err)
		}
		for c, want := range map[litestream.ReplicaClient]string{client: tt.want, root: tt.root} {
			if got := redactedLocation(c); got != want {
				t.Errorf("%s: %s, want %s", tt.replica, got, want)
			}
		}
		if n := client.(*nats.ReplicaClient).MaxConns; n != 7 {
			t.Errorf("%s: %d connections, want 7", tt.replica, n)
		}
	}
}
