package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/sftp"
)

// TestSFTP_Options holds what the keys and the URL lead to, and that no
// password is printed.
func TestSFTP_Options(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ replica, want string }{
		{"type: sftp, host: h, user: u, path: some/p", "sftp://u@h:22/~/some/p"},
		{"type: sftp, host: 'h:2022', user: u, path: /p", "sftp://u@h:2022/p"},
		{"type: sftp, host: '::1', user: u, path: /p", "sftp://u@[::1]:22/p"},
		{"type: sftp, host: h, user: u", "sftp://u@h:22/~"},
		{"url: 'sftp://u:hunter2@h/p/../q'", "sftp://u@h:22/q"},
		{"url: 'sftp://u:hunter2@h:23'", "sftp://u@h:23/~"},
		{"url: 'sftp://h/q', user: v", "sftp://v@h:22/q"},
	} {
		cfg := mustParse(t, "password: hunter2\nhost-key: any\ndbs:\n  - {path: /a, replica: {"+tt.replica+"}}")
		client, err := newReplicaClient(cfg.DBs[0].Replica)
		if err != nil {
			t.Errorf("%s: %v", tt.replica, err)
			continue
		}
		if got := redactedLocation(client); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.replica, got, tt.want)
		}
		o := client.(*sftp.ReplicaClient).Options
		if o.Password != "hunter2" || o.HostKey != sftp.AnyHostKey || !o.ConcurrentWrites {
			t.Errorf("%s: options %+v", tt.replica, o)
		}
		if text := fmt.Sprint(cfg.DBs[0].Replica.logArgs(client), cfg.DBs[0].Replica.Password); strings.Contains(text, "hunter2") {
			t.Errorf("%s: password in %s", tt.replica, text)
		}
	}
	cfg := mustParse(t, "dbs:\n  - {path: /a, replica: {type: sftp, host: h, user: u, key-path: /k, concurrent-writes: false}}")
	client, err := newReplicaClient(cfg.DBs[0].Replica)
	if err != nil {
		t.Fatal(err)
	}
	if o := client.(*sftp.ReplicaClient).Options; o.ConcurrentWrites || o.KeyPath != "/k" || o.HostKey != "" {
		t.Errorf("options %+v", o)
	}
}

// TestSFTP_MultiDB holds that a template leads where the URL without variables
// does, and that all databases share one connection.
func TestSFTP_MultiDB(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ replica, want, root string }{
		{"url: 'sftp://u:pw@h/{{tenant}}'", "sftp://u@h:22/x", "sftp://u@h:22/"},
		{"url: 'sftp://u:pw@h/.b/c%20d/{{tenant}}'", "sftp://u@h:22/.b/c d/x", "sftp://u@h:22/.b/c d"},
		{"type: sftp, host: h, user: u, path: 'p/{{tenant}}'", "sftp://u@h:22/~/p/x", "sftp://u@h:22/~/p"},
		{"type: sftp, host: h, user: u, path: '/{{tenant}}'", "sftp://u@h:22/x", "sftp://u@h:22/"},
		{"type: sftp, host: h, user: u, path: '{{tenant}}'", "sftp://u@h:22/~/x", "sftp://u@h:22/~"},
	} {
		cfg := mustParse(t, "multi-db:\n  patterns: ['/d/*.db']\n  replica-template: {"+tt.replica+"}\n  limits: {s3-connections: 7}\n")
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
		if n := client.(*sftp.ReplicaClient).MaxConns; n != 7 {
			t.Errorf("%s: %d connections, want 7", tt.replica, n)
		}
	}
}
