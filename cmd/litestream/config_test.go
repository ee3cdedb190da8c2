package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	cfg, err := parseConfig([]byte(text), true)
	if err != nil {
		t.Fatalf("parse %q: %v", text, err)
	}
	return cfg
}

// location returns where a replica's client writes to.
func location(t *testing.T, rc *ReplicaConfig) string {
	t.Helper()
	client, err := newReplicaClient(rc)
	if err != nil {
		t.Fatal(err)
	}
	return redactedLocation(client)
}

// warningText returns what the configuration's warnings look like in a log.
func warningText(cfg *Config) string {
	var buf bytes.Buffer
	cfg.logWarnings(newLogger(&buf, LoggingConfig{}))
	return buf.String()
}

// TestReplicaConfig_FilePath holds that a URL without a path means the working
// directory, never the root.
func TestReplicaConfig_FilePath(t *testing.T) {
	dir := testFolder(t)
	for url, want := range map[string]string{"file://": dir, "file:///": "/", "file://./x": "/x", "file:///a/../b/": "/b"} {
		if got := (&ReplicaConfig{URL: url}).filePath(); got != want {
			t.Errorf("filePath of %s=%s, want %s", url, got, want)
		}
	}
}

func TestParseConfig_Values(t *testing.T) {
	t.Setenv("LOG_LEVEL", "")
	t.Setenv("TEST_BUCKET", "bkt")
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Chdir(dir)

	cfg := mustParse(t, `
addr: ":9090"
exec: "app -x"
l0-retention: 10m
l0-retention-check-interval: 1000000000 # bare integers are nanoseconds
shutdown-timeout: 5s
shutdown-sync-timeout: "0s"
shutdown-sync-interval: 1500.5
socket: {enabled: false, permissions: 0600, path: /x}
levels: [{interval: 1m}, {interval: 1h}]
snapshot:
  interval: 1h
snapshot:
  retention: 48h
retention: {enabled: no}
logging: {level: DEBUG, type: json, stderr: on, source: y}
checksums: yes
max-staged-bytes: 2MiB
region: eu-1
skip-verify: true
part-size: 8MB
concurrency: 7
sync-interval: 2s
bucket: default
defaults: &d
  monitor-interval: 3s
dbs:
  - <<: *d
    path: sqlite3:///abs/../a.db
    meta-path: ~/m
    busy-timeout: 5s
    min-checkpoint-page-count: 0x10
    truncate-page-n: -1
    max-sync-wal-bytes: 1_000
    restore-if-db-not-exists: Yes
    checksums: false
    replica:
      url: s3://$TEST_BUCKET/a
      sync-interval: 5s
      sign-payload: off
  - path: ~/b.db
    replicas:
      - path: rel/b
  - path: c.db
    replica:
      type: s3
      path: /c/
      part-size: 5MiB
`)
	got := map[string]any{
		"addr": cfg.Addr, "exec": cfg.Exec,
		"l0": *cfg.L0Retention, "l0check": *cfg.L0RetentionCheckInterval,
		"shutdown": cfg.shutdownTimeout, "synctimeout": *cfg.ShutdownSyncTimeout, "syncinterval": *cfg.ShutdownSyncInterval,
		"permissions": *cfg.Socket.Permissions,
		"levels":      []time.Duration{cfg.Levels[0].Interval, cfg.Levels[1].Interval},
		"snapshots":   []time.Duration{cfg.snapshotInterval(), cfg.snapshotRetention()},
		"retention":   *cfg.Retention.Enabled,
		"logging":     fmt.Sprint(cfg.Logging.Level, cfg.Logging.Type, cfg.Logging.Stderr, cfg.Logging.Source),
		"staged":      cfg.maxStagedBytes(),

		"a.path": cfg.DBs[0].Path, "a.meta": cfg.DBs[0].MetaPath, "a.busy": *cfg.DBs[0].BusyTimeout,
		"a.pages": *cfg.DBs[0].MinCheckpointPageN, "a.truncate": *cfg.DBs[0].TruncatePageN, "a.walbytes": *cfg.DBs[0].MaxSyncWALBytes,
		"a.restore": cfg.DBs[0].RestoreIfDBNotExists, "a.checksums": cfg.checksums(cfg.DBs[0]), "a.monitor": *cfg.DBs[0].MonitorInterval,
		"a.url": cfg.DBs[0].Replica.URL, "a.bucket": cfg.DBs[0].Replica.Bucket, "a.region": cfg.DBs[0].Replica.Region,
		"a.sync": cfg.DBs[0].Replica.syncInterval(), "a.sign": *cfg.DBs[0].Replica.SignPayload, "a.skip": cfg.DBs[0].Replica.SkipVerify,
		"a.part": int64(*cfg.DBs[0].Replica.PartSize), "a.conc": *cfg.DBs[0].Replica.Concurrency,
		"a.dest": location(t, cfg.DBs[0].Replica),

		"b.path": cfg.DBs[1].Path, "b.meta": cfg.DBs[1].MetaPath, "b.replica": cfg.DBs[1].Replica.Path,
		"b.type": cfg.DBs[1].Replica.replicaType(), "b.checksums": cfg.checksums(cfg.DBs[1]),

		"c.bucket": cfg.DBs[2].Replica.Bucket, "c.path": cfg.DBs[2].Replica.Path, "c.part": int64(*cfg.DBs[2].Replica.PartSize),
		"c.dest": location(t, cfg.DBs[2].Replica),
	}
	want := map[string]any{
		"addr": ":9090", "exec": "app -x",
		"l0": 10 * time.Minute, "l0check": time.Second,
		"shutdown": 5 * time.Second, "synctimeout": time.Duration(0), "syncinterval": 1500 * time.Nanosecond,
		"permissions": uint32(0o600),
		"levels":      []time.Duration{time.Minute, time.Hour},
		"snapshots":   []time.Duration{time.Hour, 48 * time.Hour},
		"retention":   false,
		"logging":     "DEBUGjsontrue true",
		"staged":      int64(2 << 20),

		"a.path": "/a.db", "a.meta": filepath.Join(dir, "m"), "a.busy": 5 * time.Second,
		"a.pages": 16, "a.truncate": -1, "a.walbytes": int64(1000),
		"a.restore": true, "a.checksums": false, "a.monitor": 3 * time.Second,
		"a.url": "s3://bkt/a", "a.bucket": "", "a.region": "eu-1",
		"a.sync": 5 * time.Second, "a.sign": false, "a.skip": true,
		"a.part": int64(8_000_000), "a.conc": 7,
		"a.dest": "s3://bkt/a",

		"b.path": filepath.Join(dir, "b.db"), "b.meta": filepath.Join(dir, ".b.db-litestream"), "b.replica": filepath.Join(dir, "rel/b"),
		"b.type": "file", "b.checksums": true,

		"c.bucket": "default", "c.path": "/c/", "c.part": int64(5 << 20),
		"c.dest": "s3://default//c/",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("parsed values (-want +got):\n%s", diff)
	}
}

func TestParseConfig_Defaults(t *testing.T) {
	for _, text := range []string{
		"", "# nothing\n", "dbs:\n", "snapshot:\nlevels:\nl0-retention: ~\nshutdown-timeout: null\nlogging:\n",
		"---\naddr:\n---\naddr: second document is not read\n",
	} {
		cfg := mustParse(t, text)
		if len(cfg.Levels) != 3 || cfg.snapshotInterval() != 24*time.Hour || cfg.snapshotRetention() != 24*time.Hour ||
			cfg.L0Retention != nil || cfg.shutdownTimeout != 30*time.Second || cfg.maxStagedBytes() != 1<<30 || cfg.Addr != "" {
			t.Errorf("parse %q: got %+v, want defaults", text, cfg)
		}
		if len(cfg.warnings) > 0 {
			t.Errorf("parse %q: warnings %s", text, warningText(cfg))
		}
	}
	if cfg := mustParse(t, "levels: []"); len(cfg.Levels) != 0 {
		t.Errorf("empty levels: got %d, want 0", len(cfg.Levels))
	}
}

func TestParseConfig_Errors(t *testing.T) {
	db := func(keys string) string { return "dbs:\n  - path: /a\n    replica: {path: /r}\n    " + keys }
	replica := func(keys string) string { return "dbs:\n  - path: /a\n    replica: {" + keys + "}" }
	for _, tt := range []struct {
		name, text, want string
	}{
		{"Syntax", "foo: [", "yaml: line 1: did not find expected node content"},
		{"Tab", "dbs:\n\t- path: a", "yaml: line 2: found character that cannot start any token"},
		{"NotMapping", "- a", "config (line 1): must be a mapping of keys to values"},
		{"Scalar", "foo", "config (line 1): must be a mapping of keys to values (got foo)"},
		{"DBsNotList", "dbs: {path: a}", "dbs (line 1): must be a list"},
		{"NullDB", "dbs:\n  - ", "dbs[0] (line 2): the list entry is empty"},
		{"NullLevel", "levels: [~]", "levels[0] (line 1): the list entry is empty"},
		{"NullReplica", "dbs: [{path: a, replicas: [null]}]", "dbs[0].replicas[0] (line 1): the list entry is empty"},
		{"StringWanted", "addr: [1]", "addr (line 1): must be text"},
		{"IntWanted", db(`min-checkpoint-page-count: "12"`), "dbs[0].min-checkpoint-page-count (line 4): must be an integer (got 12)"},
		{"BoolWanted", db(`restore-if-db-not-exists: "true"`), "dbs[0].restore-if-db-not-exists (line 4): must be true or false (got true)"},
		{"UintWanted", "socket: {permissions: -1}", "socket.permissions (line 1): must be an integer from 0 to 4294967295 (got -1)"},
		{"DurationDays", replica("path: /r, sync-interval: 5d"), "dbs[0].replica.sync-interval (line 3): must be a duration such as 500ms, 30s or 24h (got 5d)"},
		{"DurationQuotedInt", replica(`path: /r, sync-interval: "5"`), "dbs[0].replica.sync-interval (line 3): must be a duration such as 500ms, 30s or 24h (got 5)"},
		{"Size", replica("path: /r, part-size: 5foo"), "dbs[0].replica.part-size (line 3): must be a size such as 5MiB or 1GB (got 5foo)"},
		{"ReplicaNotMapping", "dbs: [{path: a, replica: \"file:///x\"}]", "dbs[0].replica (line 1): must be a mapping of keys to values (got file:///x)"},
		{"RetentionScalar", "retention: 5", "retention (line 1): must be a mapping of keys to values (got 5)"},

		{"SnapshotInterval", "snapshot: {interval: 0}", "snapshot.interval (line 1): must be greater than 0 (got 0s)"},
		{"SnapshotRetention", "snapshot:\n  retention: -1s", "snapshot.retention (line 2): must be greater than 0 (got -1s)"},
		{"DBSnapshot", db("snapshot: {interval: -1s}"), "dbs[0].snapshot.interval (line 4): must be greater than 0 (got -1s)"},
		{
			"SnapshotConflict", "dbs: [{path: /a, snapshot: {interval: 1s}, replica: {path: /y}},\n{path: /b, snapshot: {interval: 2s}, replica: {path: /z}}]",
			"dbs[1].snapshot.interval (line 2): conflicting database snapshot settings: /a has 1s, /b has 2s",
		},
		{"L0Retention", "l0-retention: -1s", "l0-retention (line 1): must not be negative (got -1s)"},
		{"L0Check", "l0-retention-check-interval: 0", "l0-retention-check-interval (line 1): must be greater than 0 (got 0s)"},
		{"ShutdownSyncTimeout", "shutdown-sync-timeout: -1s", "shutdown-sync-timeout (line 1): must not be negative (got -1s)"},
		{"ShutdownSyncInterval", "shutdown-sync-interval: 0s", "shutdown-sync-interval (line 1): must be greater than 0 (got 0s)"},
		{"Level", "levels:\n  - interval: 1s\n  - {}", "levels[1].interval (line 3): must be greater than 0 (got 0s)"},
		{"LevelCount", "levels: [" + strings.Repeat("{interval: 1s},", 9) + "]", "levels (line 1): must have at most 8 entries (got 9)"},
		{"GlobalSyncInterval", "sync-interval: -1s", "sync-interval (line 1): must be greater than 0 (got -1s)"},
		{"LoggingType", "logging: {type: JSON}", "logging.type (line 1): must be text, json or pretty (got JSON)"},
		{"MaxStaged", "max-staged-bytes: 0", "max-staged-bytes (line 1): must be greater than 0 (got 0)"},
		{"PageCount", db("min-checkpoint-page-count: 0"), "dbs[0].min-checkpoint-page-count (line 4): must be greater than 0 (got 0)"},

		{"NoPath", "dbs: [{replica: {path: /r}}]", "database config #1: dbs[0].path (line 1): must specify either 'path' or 'dir'"},
		{
			"DuplicatePath", "dbs:\n  - {path: /x/a, replica: {path: /r}}\n  - {path: /x/../x/a, replica: {path: /s}}",
			"database config #2: dbs[1].path (line 3): duplicate path, used by database config #1 (line 2) already (got /x/a)",
		},
		{
			"DuplicateDestination", "dbs:\n  - {path: /a, replica: {path: /r}}\n  - {path: /b, replica: {url: file:///r/}}",
			"dbs[1].replica (line 3): databases /a and /b have the same replica destination and would overwrite each other (got file:///r)",
		},
		{
			"DuplicateS3Destination", "dbs:\n  - {path: /a, replica: {url: s3://b/x/../k}}\n  - {path: /b, replica: {type: s3, bucket: b, path: k}}",
			"dbs[1].replica (line 3): databases /a and /b have the same replica destination and would overwrite each other (got s3://b/k)",
		},
		{"NoReplica", "dbs: [{path: /a}]", "dbs[0].replica (line 1): must specify a replica for the database"},
		{"EmptyReplicas", "dbs: [{path: /a, replicas: []}]", "dbs[0].replica (line 1): must specify a replica for the database"},
		{"BothReplicas", "dbs: [{path: /a, replica: {path: /r}, replicas: [{path: /y}]}]", "dbs[0].replicas (line 1): cannot specify both 'replica' and 'replicas'"},
		{"TwoReplicas", "dbs: [{path: /a, replicas: [{path: /y},{path: /z}]}]", "dbs[0].replicas (line 1): multiple replicas on a single database are no longer supported"},

		{"ReplicaSyncInterval", replica("path: /r, sync-interval: 0"), "dbs[0].replica.sync-interval (line 3): must be greater than 0 (got 0s)"},
		{"URLInPath", replica(`path: "s3://u:p@x/y"`), "dbs[0].replica.path (line 3): replica path cannot be a url, use the 'url' key instead (got s3://u:***@x/y)"},
		{"URLAndPath", replica(`url: "s3://x", path: y`), "dbs[0].replica.path (line 3): cannot specify url & path for s3 replica (got y)"},
		{"URLAndBucket", replica(`url: "s3://x", bucket: y`), "dbs[0].replica.bucket (line 3): cannot specify url & bucket for s3 replica (got y)"},
		{"NoScheme", replica(`url: foo`), "dbs[0].replica.url (line 3): replica url scheme required, such as s3:// or file:// (got foo)"},
		{"UnknownType", replica(`type: foo`), `dbs[0].replica.type (line 3): unknown replica type in config: "foo"`},
		{"UnknownScheme", replica(`url: "bogus://x"`), `dbs[0].replica.url (line 3): unknown replica type in config: "bogus"`},
		{"NATSNoBucket", replica(`type: nats`), "dbs[0].replica (line 3): bucket required for nats replica"},
		{"NATSBucket", replica(`type: nats, bucket: "a b"`), `dbs[0].replica (line 3): invalid nats bucket name: "a b"`},
		{"NATSJWT", replica(`url: "nats://h/b", jwt: x`), "dbs[0].replica (line 3): jwt without seed for nats replica"},
		{"NATSCert", replica(`url: "nats://h/b", client-cert: x`), "dbs[0].replica (line 3): client-cert and client-key must be set together for nats replica"},
		{
			"DuplicateNATSDestination", "dbs:\n  - {path: /a, replica: {url: 'nats://u:p@h/b'}}\n  - {path: /b, replica: {type: nats, url: 'nats://h:4222', bucket: b, path: x}}",
			"dbs[1].replica (line 3): databases /a and /b have the same replica destination and would overwrite each other (got nats://h:4222/b)",
		},
		{"ABSURLAndBucket", replica(`url: "abs://a@x", bucket: y`), "dbs[0].replica.bucket (line 3): cannot specify url & bucket for abs replica (got y)"},
		{"ABSNoAccount", replica(`url: "abs://x/y"`), "dbs[0].replica (line 3): account-name required for abs replica"},
		{"ABSNoBucket", replica(`type: abs, account-name: a`), "dbs[0].replica (line 3): bucket required for abs replica"},
		{"GSURLAndBucket", replica(`url: "gs://x", bucket: y`), "dbs[0].replica.bucket (line 3): cannot specify url & bucket for gs replica (got y)"},
		{"GSNoBucket", replica(`type: gs`), "dbs[0].replica (line 3): bucket required for gs replica"},
		{"OSSURLAndBucket", replica(`url: "oss://x", bucket: y`), "dbs[0].replica.bucket (line 3): cannot specify url & bucket for oss replica (got y)"},
		{"OSSNoBucket", replica(`type: oss`), "dbs[0].replica (line 3): bucket required for oss replica"},
		{"NoBucket", replica(`type: s3`), "dbs[0].replica (line 3): bucket required for s3 replica"},
		{"URLWithoutBucket", replica(`url: "s3://"`), "dbs[0].replica (line 3): bucket required for s3 replica"},
		{"URLQuery", replica(`url: "s3://b?part-size=x"`), `dbs[0].replica (line 3): invalid value for query parameter "partSize": "x" (must be a positive integer)`},
		{
			"DuplicateS3Host", "dbs:\n  - {path: /a, replica: {url: s3://b.s3.amazonaws.com/k}}\n  - {path: /b, replica: {url: s3://b/k}}",
			"dbs[1].replica (line 3): databases /a and /b have the same replica destination and would overwrite each other (got s3://b/k)",
		},
		{
			"SSEKeyFile", replica(`type: s3, bucket: b, path: p, sse-customer-key-path: /nonexistent/key`),
			"dbs[0].replica (line 3): read sse customer key: open /nonexistent/key: no such file or directory",
		},
		{"NoHost", replica(`type: sftp`), "dbs[0].replica (line 3): host required for sftp replica"},
		{"NoUser", replica(`url: "sftp://h/p"`), "dbs[0].replica (line 3): user required for sftp replica"},
		{"URLAndHost", replica(`url: "sftp://u@h/p", host: x`), "dbs[0].replica.host (line 3): cannot specify url & host for sftp replica (got x)"},
		{"NoWebDAVURL", replica(`type: webdav`), "dbs[0].replica (line 3): webdav-url required for webdav replica"},
		{"BadWebDAVURL", replica(`type: webdav, webdav-url: "ftp://u:p@h"`), `dbs[0].replica (line 3): invalid webdav-url: "ftp://h" is no http:// or https:// URL with a host`},
		{"URLAndWebDAVURL", replica(`url: "webdav://h/p", webdav-url: "http://u:p@h"`), "dbs[0].replica.webdav-url (line 3): cannot specify url & webdav-url for webdav replica (got http://u:***@h)"},
		{
			"DuplicateWebDAVDestination", "dbs:\n  - {path: /a, replica: {url: 'webdavs://u:p@h/x/r'}}\n  - {path: /b, replica: {type: webdav, webdav-url: 'https://h/x', path: /r/}}",
			"dbs[1].replica (line 3): databases /a and /b have the same replica destination and would overwrite each other (got webdavs://h/x/r)",
		},
		{"HostKey", replica(`url: "sftp://u@h/p", host-key: nonsense`), "dbs[0].replica (line 3): invalid host key: ssh: no key found"},
		{
			"DuplicateSFTPDestination", "user: u\ndbs:\n  - {path: /a, replica: {url: 'sftp://u:pass@h/r'}}\n  - {path: /b, replica: {type: sftp, host: h, path: /r/}}",
			"dbs[1].replica (line 4): databases /a and /b have the same replica destination and would overwrite each other (got sftp://u@h:22/r)",
		},
		{"NoFilePath", replica(`type: file`), "dbs[0].replica.path (line 3): file replica path required"},
		{"Age", replica(`path: /r, age: {identities: [x]}`), "dbs[0].replica.age (line 3): age encryption is not supported, as in Litestream v0.5; v0.3 is the last release that has it"},

		{"SocketPermissions", "socket:\n  permissions: 600", "socket.permissions (line 2): must be permission bits from 0 to 0777, written with a leading zero (got 01130)"},
		{"MCPAddr", "mcp-addr: localhost", "mcp-addr (line 1): address localhost: missing port in address: want HOST:PORT, such as 127.0.0.1:3001"},
		{"MCPPort", "\nmcp-addr: 127.0.0.1:70000", "mcp-addr (line 2): address 70000: invalid port"},
		{"Heartbeat", "heartbeat-url: ftp://h/secret\nheartbeat-interval: 59s", "heartbeat-interval (line 2): must be at least 1 minute (got 59s)\nheartbeat-url (line 1): must start with http:// or https:// (got ftp://h/***)"},
		{"HeartbeatZero", "heartbeat-interval: 0", "heartbeat-interval (line 1): must be at least 1 minute (got 0s)"},
		{"HeartbeatHost", "heartbeat-url: http://", "heartbeat-url (line 1): is not a URL with a host"},
		{"Validation", "validation: {interval: often}", "validation.interval (line 1): must be a duration such as 500ms, 30s or 24h (got often)"},
		{"VerifyCompaction", "verify-compaction: 2", "verify-compaction (line 1): must be true or false (got 2)"},
		{"MultiDB", "multi-db: [x]", "multi-db (line 1): must be a mapping of keys to values"},
		{"PrettyCase", "logging:\n  type: PRETTY", "logging.type (line 2): must be text, json or pretty (got PRETTY)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := parseConfig([]byte(tt.text), true)
			if err == nil {
				t.Fatalf("parsed %q as %+v, want an error", tt.text, cfg)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Fatalf("error of %q (-want +got):\n%s", tt.text, diff)
			}
		})
	}
}

// TestParseConfig_Off holds that a feature whose keys say that it is off is
// accepted without a word, by an empty value, zero or no.
func TestParseConfig_Off(t *testing.T) {
	cfg := mustParse(t, `
mcp-addr: ""
heartbeat-url:
heartbeat-interval:
validation: {interval: 0}
verify-compaction: false
multi-db:
socket: {enabled: false}
dbs: [{path: /a, dir: "", pattern: "", recursive: false, watch: no, meta-dir: "", replica: {path: /r}}]
`)
	if len(cfg.warnings) > 0 {
		t.Fatalf("warnings: %s", warningText(cfg))
	}
}

func TestParseConfig_Warnings(t *testing.T) {
	db := func(keys string) string { return "dbs:\n  - path: /a\n    " + keys + "\n    replica: {path: /r}" }
	replica := func(keys string) string { return "dbs:\n  - path: /a\n    replica: {path: /r, " + keys + "}" }
	for _, tt := range []struct {
		name, text, want string
	}{
		{"Typo", "l0-retentoin: 5m", `key=l0-retentoin line=1 reason="unknown key, ignored; did you mean \"l0-retention\"?"`},
		{"Underscore", db("busy_timeout: 5s"), `key=dbs[0].busy_timeout line=3 reason="unknown key, ignored; did you mean \"busy-timeout\"?"`},
		{"Misplaced", "busy-timeout: 5s", `key=busy-timeout line=1 reason="unknown key, ignored; the key belongs below \"dbs[]\""`},
		{"Unknown", "zzz: 1", `key=zzz line=1 reason="unknown key, ignored"`},
		{"Name", replica("name: s3"), `key=dbs[0].replica.name line=3 reason=ignored instead="a database has one replica, which needs no name"`},
		{"AutoRecover", replica("auto-recover: true"), `key=dbs[0].replica.auto-recover line=3 reason=ignored instead="local files that are missing or damaged are always made anew"`},
		{"GlobalAutoRecover", "auto-recover: yes", `key=auto-recover line=1 reason=ignored instead=`},
		{"ValidationInterval", replica("validation-interval: 1h"), `key=dbs[0].replica.validation-interval line=3 reason=ignored instead=`},
		{"ReplicaRetention", "snapshot: {retention: 48h}\n" + replica("retention: 1h"), `key=dbs[0].replica.retention line=4 reason=ignored instead="snapshot.retention, 48h0m0s, is in force"`},
		{"ReplicaSnapshotInterval", replica("snapshot-interval: 1h"), `reason=ignored instead="snapshot.interval, 24h0m0s, is in force"`},
		{"ReplicaRetentionCheck", replica("retention-check-interval: 1h"), `key=dbs[0].replica.retention-check-interval line=3 reason=ignored`},
		{"MaxCheckpoint", db("max-checkpoint-page-count: 5"), `key=dbs[0].max-checkpoint-page-count line=3 reason=ignored instead="truncate-page-n is in force`},
		{"LevelRetention", "levels: [{interval: 1m, retention: 1h}]", `key=levels[0].retention line=1 reason=ignored instead="snapshot.retention, 24h0m0s, is in force"`},
		{
			"NATSPath", "dbs:\n  - path: /a\n    replica: {url: 'nats://h/b', path: p}",
			`key=dbs[0].replica.path line=3 reason="ignored, as in Litestream v0.5: the bucket is the database's own; a url such as nats://host/bucket/path shares one"`,
		},
		{"Duplicate", "addr: a\naddr: b", `key=addr line=2 reason="repeats line 1, the later value is in force"`},
		{"ShutdownInt", "shutdown-timeout: 5", `key=shutdown-timeout line=1 reason="\"5\" is not a duration such as 30s; the default, 30s, is in force"`},
		{"ShutdownNegative", "shutdown-timeout: -5s", `key=shutdown-timeout line=1 reason="\"-5s\" is not a duration`},
		{"ShortRetention", "snapshot: {retention: 1h, interval: 2h}", `key=snapshot.retention line=1 reason="1h0m0s is shorter than snapshot.interval, 2h0m0s`},
		{"LogLevel", "logging: {level: loud}", `key=logging.level line=1 reason="unknown level \"loud\", info is in force"`},
		{"PromotionLost", "snapshot: {interval: 1h}\n" + db("snapshot: {interval: 2h}"), `key=dbs[0].snapshot.interval line=4 reason="not used: snapshot.interval, 1h0m0s, is set for all databases"`},
		{"OneKey", "dbs:\n  - path: /a\n    replica: {url: s3://b/k, access-key-id: x}", "key=dbs[0].replica line=3 reason=\"access-key-id and secret-access-key have an effect together only"},
		{"Unset", "# $NOT_IN_COMMENTS\naddr: $LITESTREAM_TEST_UNSET", `key=$LITESTREAM_TEST_UNSET line=2 reason="environment variable is not set`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.TrimSpace(warningText(mustParse(t, tt.text)))
			if strings.Count(got, "\n") > 0 || !strings.Contains(got, "level=WARN msg=config "+tt.want) && !strings.Contains(got, tt.want) {
				t.Fatalf("warnings of %q:\n got %s\nwant one with %s", tt.text, got, tt.want)
			}
		})
	}
}

// TestParseConfig_RepeatedWarnings holds that 100 databases with the same
// legacy key do not bury the log.
func TestParseConfig_RepeatedWarnings(t *testing.T) {
	var b strings.Builder
	b.WriteString("dbs:\n")
	for i := range 100 {
		fmt.Fprintf(&b, "  - {path: /db%d, replica: {path: /r%d, name: x}}\n", i, i)
	}
	got := warningText(mustParse(t, b.String()))
	if n := strings.Count(got, "\n"); n != 4 || !strings.Contains(got, "count=97") {
		t.Fatalf("got %d lines, want 3 and a summary of 97:\n%s", n, got)
	}
}

func TestParseConfig_Promotion(t *testing.T) {
	cfg := mustParse(t, "dbs: [{path: /a, replica: {path: /r}}, {path: /b, snapshot: {interval: 2h, retention: 72h}, replica: {path: /s}}]")
	if cfg.snapshotInterval() != 2*time.Hour || cfg.snapshotRetention() != 72*time.Hour {
		t.Fatalf("got %s, %s; want those of /b", cfg.snapshotInterval(), cfg.snapshotRetention())
	}
}

func TestParseConfig_Env(t *testing.T) {
	t.Setenv("LITESTREAM_TEST_X", "x")
	text := "addr: $LITESTREAM_TEST_X-${LITESTREAM_TEST_X}-$PID"
	if got, want := mustParse(t, text).Addr, fmt.Sprintf("x-x-%d", os.Getpid()); got != want {
		t.Errorf("expanded: got %q, want %q", got, want)
	}
	cfg, err := parseConfig([]byte(text), false)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.Addr, "$LITESTREAM_TEST_X-${LITESTREAM_TEST_X}-$PID"; got != want {
		t.Errorf("not expanded: got %q, want %q", got, want)
	}
}

// TestParseConfig_Merge holds yaml.v2's order: a merge key takes effect where
// it stands.
func TestParseConfig_Merge(t *testing.T) {
	for text, want := range map[string]string{
		"{<<: {addr: b}, addr: a}":                 "a",
		"{addr: a, <<: {addr: b}}":                 "b",
		"{<<: [{addr: b}, {addr: c}]}":             "b",
		"{x: &x {addr: b}, <<: *x}":                "b",
		"{x: &x {addr: b}, y: &y [*x], <<: *y}":    "b",
		"{x: &x {<<: {addr: b}}, exec: e, <<: *x}": "b",
	} {
		if got := mustParse(t, text).Addr; got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	if _, err := parseConfig([]byte("<<: 5"), false); err == nil {
		t.Error("merge of a scalar: want an error")
	}
}

// TestParseConfig_AliasBomb holds that a small file cannot cost much.
func TestParseConfig_AliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 {addr: x}\n")
	for i := range 15 {
		fmt.Fprintf(&b, "a%d: &a%d {<<: [%s]}\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 9), ","))
	}
	b.WriteString("<<: *a15\n")
	if _, err := parseConfig([]byte(b.String()), false); err == nil || !strings.Contains(err.Error(), errConfigTooLarge.Error()) {
		t.Fatalf("got %v, want %v", err, errConfigTooLarge)
	}
}

// TestConfigKeys holds that the table and the structs name the same keys.
func TestConfigKeys(t *testing.T) {
	structs := map[scope]reflect.Type{
		scopeRoot: reflect.TypeFor[Config](), scopeDB: reflect.TypeFor[DBConfig](), scopeReplica: reflect.TypeFor[ReplicaConfig](),
		scopeSnapshot: reflect.TypeFor[SnapshotConfig](), scopeLevel: reflect.TypeFor[LevelConfig](), scopeLogging: reflect.TypeFor[LoggingConfig](),
		scopeSocket: reflect.TypeFor[SocketConfig](), scopeRetention: reflect.TypeFor[RetentionConfig](), scopeValidation: reflect.TypeFor[ValidationConfig](), scopeAge: reflect.TypeFor[AgeConfig](),
		scopeMultiDB: reflect.TypeFor[MultiDBConfig](), scopeWriteDetection: reflect.TypeFor[WriteDetectionConfig](), scopeLimits: reflect.TypeFor[LimitsConfig](), scopeDrill: reflect.TypeFor[DrillConfig](),
	}
	seen := make(map[string]bool)
	for _, k := range configKeys {
		id := string(k.scope) + "." + k.name
		if seen[id] {
			t.Errorf("%s stands twice in the table", id)
		}
		seen[id] = true
		if k.ignored() {
			continue
		}
		if _, ok := fieldByKey(reflect.New(structs[k.scope]).Elem(), k.name); !ok {
			t.Errorf("%s has no field", id)
		}
	}
	for s, typ := range structs {
		for _, f := range reflect.VisibleFields(typ) {
			if tag := f.Tag.Get("yaml"); tag != "" && tag != ",inline" && !seen[string(s)+"."+tag] {
				t.Errorf("%s.%s is missing in the table", s, tag)
			}
		}
	}
}

func TestSecret_Hidden(t *testing.T) {
	cfg := mustParse(t, "secret-access-key: geheim\nsse-customer-key: geheim\naccess-key-id: geheim")
	var buf bytes.Buffer
	newLogger(&buf, LoggingConfig{}).Info("x", "a", cfg.SecretAccessKey, "b", cfg.ReplicaSettings)
	for _, s := range []string{buf.String(), fmt.Sprintf("%v %+v %#v", cfg.ReplicaSettings, cfg.ReplicaSettings, cfg.ReplicaSettings)} {
		if strings.Contains(s, "geheim") {
			t.Errorf("secret shown: %s", s)
		}
	}
}

func TestReadConfigFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yml")
	if _, err := readConfigFile(path, true); err == nil || err.Error() != "config file not found: "+path {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("l0-retention: x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readConfigFile(path, true); err == nil || !strings.HasPrefix(err.Error(), path+": l0-retention (line 1): ") {
		t.Errorf("bad file: %v", err)
	}
	t.Setenv("LITESTREAM_CONFIG", path)
	if got := configPath(""); got != path {
		t.Errorf("path from environment: %s", got)
	}
	if got := configPath("/x"); got != "/x" {
		t.Errorf("path from flag: %s", got)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("addr: x\nlevels: [{interval: 1s}]\n")
	f.Add("dbs: [{path: a, replica: {url: \"s3://b/p?endpoint=x\"}}]")
	f.Add("dbs:\n- path: a\n  replicas:\n  - {path: b, sync-interval: 1.5, part-size: 5MiB}\n")
	f.Add("a: &a {<<: *a}\n<<: *a\nsocket: {permissions: 0600}\nshutdown-timeout: !!str 5s\n? [x]\n: y\n")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := parseConfig([]byte(text), true)
		if err != nil {
			return
		}
		for _, db := range cfg.DBs {
			if db.Path == "" || db.MetaPath == "" || db.Replica == nil {
				t.Fatalf("%q: incomplete database %+v", text, db)
			}
		}
		warningText(cfg)
	})
}

// TestExampleConfigs holds that the examples are accepted without a warning,
// and that they stand for the replicas that one would expect.
func TestExampleConfigs(t *testing.T) {
	const tenant = "/data/p1/databases/d1/branches/main/tenants/t42.db"
	type example struct {
		DBs     int
		Tenant  string // a path that the patterns match
		Replica string // of it
	}
	want := map[string]example{
		"litestream.yml":    {DBs: 2},
		"multi-db-s3.yml":   {Tenant: tenant, Replica: "s3://my-backups/p1/d1/main/t42"},
		"multi-db-file.yml": {Tenant: tenant, Replica: "file:///mnt/backup/p1/d1/main/t42"},
		"mixed.yml": {
			DBs: 1, Tenant: "/var/lib/app/archive/2024/t42.sqlite",
			Replica: "s3://my-backups/tenants/var/lib/app/archive/2024/t42.sqlite",
		},
	}
	paths, err := filepath.Glob("../../examples/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]example)
	for _, path := range paths {
		name := filepath.Base(path)
		if name == "alerts.yml" { // for Prometheus
			continue
		}
		cfg, err := readConfigFile(path, false)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(cfg.warnings) > 0 {
			t.Errorf("%s: warnings %s", name, warningText(cfg))
		}
		e := example{DBs: len(cfg.DBs), Tenant: want[name].Tenant}
		if m := cfg.MultiDB; m != nil {
			found, err := m.tenants.Lookup(e.Tenant)
			if err != nil || !m.Enabled {
				t.Errorf("%s: enabled %t, %v", name, m.Enabled, err)
			}
			client, err := m.client(&found)
			if err != nil {
				t.Fatal(err)
			}
			e.Replica = redactedLocation(client)
		}
		got[name] = e
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("examples (-want +got):\n%s", diff)
	}
}
