package main

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/benbjohnson/litestream"
)

// builtFrom describes what runs by a configuration: the store, its databases
// and their clients.
func builtFrom(t *testing.T, text string) string {
	t.Helper()
	cfg := mustParse(t, text)
	if len(cfg.warnings) > 0 {
		t.Errorf("%s\nwarnings: %s", text, warningText(cfg))
	}
	r, err := newStore(t.Context(), cfg, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := r.(*litestream.Store)
	var b strings.Builder
	exported := func(v reflect.Value) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			switch f.Type.Kind() {
			case reflect.Func, reflect.Interface, reflect.Chan, reflect.Map:
				continue
			case reflect.Pointer:
				continue
			default:
			}
			if f.IsExported() {
				fmt.Fprintf(&b, "%s=%v ", f.Name, v.Field(i).Interface())
			}
		}
	}
	exported(reflect.ValueOf(s).Elem())
	for _, l := range s.Levels {
		fmt.Fprintf(&b, "level %d %s ", l.Level, l.Interval)
	}
	for _, db := range s.DBs() {
		fmt.Fprintf(&b, "\n%s %s ", db.Path(), db.MetaPath())
		exported(reflect.ValueOf(db).Elem())
		exported(reflect.ValueOf(db.Replica).Elem())
		fmt.Fprintf(&b, "%s %s ", db.Replica.Client.Type(), db.Replica.Location())
		if o := reflect.Indirect(reflect.ValueOf(db.Replica.Client)).FieldByName("Options"); o.IsValid() {
			fmt.Fprintf(&b, "%+v", o)
		}
	}
	return regexp.MustCompile(`0x[0-9a-f]+`).ReplaceAllString(b.String(), "")
}

// TestConfigKeys_Effect holds that every key that is read has an effect: what
// is built from a file with it differs from what is built without, or a test of
// its own shows what it does.
func TestConfigKeys_Effect(t *testing.T) {
	t.Setenv("LOG_LEVEL", "")
	dir := testFolder(t)
	sse := base64.StdEncoding.EncodeToString(make([]byte, 32))
	writeFile(t, filepath.Join(dir, "key"), sse)
	db := func(keys string) string { return "dbs:\n  - {path: /a, " + keys + " replica: {path: /r}}" }
	onS3 := func(keys string) string {
		return "dbs:\n  - {path: /a, replica: {type: s3, bucket: b, path: p, endpoint: \"https://127.0.0.1:1\", " + keys + "}}"
	}
	plain := onS3("")
	effects := map[string]struct{ with, without string }{
		"levels": {"levels: [{interval: 1m}]\n" + plain, plain}, "levels[].interval": {"levels: [{interval: 1m}]\n" + plain, "levels: [{interval: 2m}]\n" + plain},
		"snapshot": {"snapshot: {interval: 2h}\n" + plain, plain}, "snapshot.interval": {"snapshot: {interval: 2h}\n" + plain, plain},
		"snapshot.retention": {"snapshot: {retention: 99h}\n" + plain, plain},
		"retention":          {"retention: {enabled: false}\n" + plain, plain}, "retention.enabled": {"retention: {enabled: false}\n" + plain, plain},
		"validation": {"validation: {interval: 1h}\n" + plain, plain}, "validation.interval": {"validation: {interval: 1h}\n" + plain, plain},
		"verify-compaction": {"verify-compaction: true\n" + plain, plain},
		"l0-retention":      {"l0-retention: 1h\n" + plain, plain}, "l0-retention-check-interval": {"l0-retention-check-interval: 1h\n" + plain, plain},
		"shutdown-sync-timeout": {"shutdown-sync-timeout: 0s\n" + plain, plain}, "shutdown-sync-interval": {"shutdown-sync-interval: 1s\n" + plain, plain},
		"dbs": {plain, ""}, "checksums": {"checksums: true\n" + plain, plain}, "max-staged-bytes": {"max-staged-bytes: 1MB\n" + plain, plain},

		"dbs[].path":             {"dbs: [{path: /a, replica: {path: /r}}]", "dbs: [{path: /b, replica: {path: /r}}]"},
		"dbs[].meta-path":        {db("meta-path: /m,"), db("")},
		"dbs[].monitor-interval": {db("monitor-interval: 5s,"), db("")}, "dbs[].checkpoint-interval": {db("checkpoint-interval: 0,"), db("")},
		"dbs[].busy-timeout": {db("busy-timeout: 5s,"), db("")}, "dbs[].min-checkpoint-page-count": {db("min-checkpoint-page-count: 5,"), db("")},
		"dbs[].truncate-page-n": {db("truncate-page-n: -1,"), db("")}, "dbs[].max-sync-wal-bytes": {db("max-sync-wal-bytes: 0,"), db("")},
		"dbs[].allow-network-filesystem": {db("allow-network-filesystem: true,"), db("")},
		"dbs[].checksums":                {db("checksums: true,"), db("")}, "dbs[].snapshot": {db("snapshot: {interval: 2h},"), db("")},
		"dbs[].replica":  {plain, "dbs: [{path: /a, replica: {path: /r}}]"},
		"dbs[].replicas": {"dbs: [{path: /a, replicas: [{path: /s}]}]", db("")},

		"replica.type": {plain, "dbs: [{path: /a, replica: {type: file, path: /p}}]"},
		"replica.url":  {"dbs: [{path: /a, replica: {url: \"s3://b/q\"}}]", "dbs: [{path: /a, replica: {url: \"s3://b/p\"}}]"},
		"replica.path": {"dbs: [{path: /a, replica: {path: /s}}]", db("")},
	}
	for key, value := range map[string]string{
		"sync-interval": "7s", "max-sync-ltx-files": "3", "region": "eu-1", "storage-class": "GLACIER_IR", "force-path-style": "false",
		"sign-payload": "false", "sign-accept-encoding": "false", "require-content-md5": "false", "put-object-content-md5": "true", "skip-verify": "true",
		"part-size": "9MiB", "concurrency": "3", "sse-kms-key-id": "k",
		"access-key-id": "a, secret-access-key: c", "secret-access-key": "c, access-key-id: a",
		"sse-customer-key": sse + ", sse-customer-algorithm: AES256", "sse-customer-key-path": "key, sse-customer-algorithm: AES256",
		"sse-customer-algorithm": "AES256, sse-customer-key: " + sse,
	} {
		effects["replica."+key] = struct{ with, without string }{onS3(key + ": " + value), plain}
		root := strings.ReplaceAll(key+": "+value, ", ", "\n")
		effects[key] = struct{ with, without string }{root + "\n" + plain, plain}
	}
	for key, value := range map[string]string{"bucket": "c", "endpoint": "\"https://127.0.0.2:2\""} {
		effects["replica."+key] = struct{ with, without string }{strings.ReplaceAll(strings.ReplaceAll(plain, "bucket: b", "bucket: c"), "127.0.0.1", "127.0.0.2"), plain}
		bare := "dbs: [{path: /a, replica: {type: s3, path: p}}]"
		effects[key] = struct{ with, without string }{key + ": " + value + "\n" + bare, bare}
	}
	effects["bucket"] = struct{ with, without string }{"bucket: c\ndbs: [{path: /a, replica: {type: s3, path: p}}]", "bucket: d\ndbs: [{path: /a, replica: {type: s3, path: p}}]"}
	effects["endpoint"] = struct{ with, without string }{
		"endpoint: \"https://127.0.0.2:2\"\nbucket: b\ndbs: [{path: /a, replica: {type: s3, path: p}}]", "bucket: b\ndbs: [{path: /a, replica: {type: s3, path: p}}]",
	}

	// Keys of the other types. A root default gives the replica what it lacks.
	for typ, keys := range map[string]map[string]string{
		"sftp": {
			"host": "h", "user": "u", "password": "w", "key-path": "/k", "host-key": "any", "concurrent-writes": "false",
		},
		"webdav": {"webdav-url": "\"http://h2\"", "webdav-username": "u", "webdav-password": "w"},
		"abs":    {"account-name": "a", "account-key": "a2V5", "sas-token": "sig=x"},
		"nats": {
			"jwt": "j", "creds": "/c", "nkey": "SU", "username": "n", "token": "t", "tls": "true", "root-cas": "[/ca]",
			"client-cert": "/cert", "client-key": "/key", "max-reconnects": "3", "reconnect-wait": "3s", "timeout": "3s", "seed": "s2",
		},
	} {
		for key, value := range keys {
			replica := map[string]string{"path": "p", "host": "h1", "user": "u1", "webdav-url": "\"http://h1\""}
			switch {
			case typ == "abs":
				replica = map[string]string{"path": "p", "account-name": "a1", "bucket": "b"}
			case key == "client-cert" || key == "client-key": // which need each other
				replica = map[string]string{"bucket": "b", "client-cert": "/cert1", "client-key": "/key1"}
			case typ == "nats":
				replica = map[string]string{"bucket": "b", "seed": "s"}
			}
			text := func(root string) string {
				list := ""
				for k, v := range replica {
					list += fmt.Sprintf(", %s: %s", k, v)
				}
				return fmt.Sprintf("%sdbs: [{path: /a, replica: {type: %s%s}}]", root, typ, list)
			}
			without := text("")
			replica[key] = value
			effects["replica."+key] = struct{ with, without string }{text(""), without}
			delete(replica, key)
			effects[key] = struct{ with, without string }{text(key + ": " + value + "\n"), without}
		}
	}

	// Keys of the command itself, and the tests of what they do.
	elsewhere := map[string]string{
		"addr": "TestReplicate_Metrics", "exec": "TestReplicate_Exec", "mcp-addr": "TestMCP", "shutdown-timeout": "TestReplicate_ShutdownTimeout",
		"heartbeat-url": "TestReplicate_Heartbeat", "heartbeat-interval": "TestReplicate_Heartbeat",
		"socket": "TestReplicate_Socket", "socket.enabled": "TestReplicate_Socket", "socket.path": "TestReplicate_Socket", "socket.permissions": "TestReplicate_Socket",
		"logging": "TestNewLogger", "logging.level": "TestNewLogger", "logging.type": "TestNewLogger_Pretty", "logging.source": "TestNewLogger",
		"logging.stderr": "TestReplicate_", "dbs[].restore-if-db-not-exists": "TestReplicate_RestoreIfMissing",
		"dbs[].dir": "Dir", "dbs[].pattern": "Dir", "dbs[].recursive": "Dir", "dbs[].watch": "Dir", "dbs[].meta-dir": "Dir",
		"age": "TestParseConfig_Errors", "replica.age": "TestParseConfig_Errors", "age.identities": "TestParseConfig_Errors", "age.recipients": "TestParseConfig_Errors",
		"multi-db": "TestMultiDB_Config",
	}
	tests := testNames(t)
	for _, k := range configKeys {
		id := k.name
		if k.scope != scopeRoot {
			id = string(k.scope) + "." + k.name
		}
		if k.ignored() || strings.HasPrefix(id, string(scopeMultiDB)+".") { // of which TestMultiDB_Config has the keys
			continue
		}
		if name, ok := elsewhere[id]; ok {
			if !strings.Contains(tests, name) {
				t.Errorf("%s: there is no test %s", id, name)
			}
			continue
		}
		e, ok := effects[id]
		if !ok {
			t.Errorf("%s: nothing shows that it has an effect", id)
		} else if builtFrom(t, e.with) == builtFrom(t, e.without) {
			t.Errorf("%s has no effect:\n%s", id, e.with)
		}
	}
}

// testNames returns the lines of this package that declare tests.
func testNames(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(sourceDir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d test files, %v", len(files), err)
	}
	var b strings.Builder
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(line, "func Test") {
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

// sourceDir is where the tests began to run: some change the folder.
var sourceDir, _ = os.Getwd()
