package compare_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/testutil"
)

const pageSize = 4096

// newScene fills a folder with what the command lines work on.
//
//	app.db, .app.db-litestream   a database with two local LTX files and a log
//	live.db, second.db           databases that nobody replicated yet
//	backup                       replica of app.db: a snapshot at 2, files 1 to 3
//	gap                          replica whose second file is missing
//	empty                        folder without anything
//	old                          existing output of a restore
//	*.yml                        configurations, good and bad
func newScene(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"empty", "folder.db", "backup", "watched"} {
		mkdir(t, filepath.Join(dir, name))
	}
	states := databaseStates(t, filepath.Join(dir, "app.db"), 3)
	databaseStates(t, filepath.Join(dir, "live.db"), 1)
	databaseStates(t, filepath.Join(dir, "second.db"), 1)
	mkdir(t, filepath.Join(dir, "watched", "sub"))
	databaseStates(t, filepath.Join(dir, "watched", "w.db"), 1)
	databaseStates(t, filepath.Join(dir, "watched", "sub", "x.db"), 1)
	databaseStates(t, filepath.Join(dir, "watched", "other"), 1)
	writeFile(t, filepath.Join(dir, "watched", "text.db"), "this is no database, but has its name")
	for i := range states {
		txid := ltx.TXID(i + 1)
		pages := changedPages(states[i], states[max(i-1, 0)])
		if i == 0 {
			pages = changedPages(states[0], nil)
		}
		hdr := ltx.Header{MinTXID: txid, Commit: uint32(len(states[i]) / pageSize)}
		for _, replica := range []string{"backup", "gap", ".app.db-litestream"} {
			if replica != "gap" || i != 1 {
				writeLTX(t, filepath.Join(dir, replica), 0, hdr, pages)
			}
		}
		if i == 1 {
			writeLTX(t, filepath.Join(dir, "backup"), 9, ltx.Header{MinTXID: 1, MaxTXID: txid, Commit: hdr.Commit}, changedPages(states[1], nil))
		}
	}
	damaged := filepath.Join(dir, "damaged", "ltx", "0", ltx.FormatFilename(1, 1))
	writeFile(t, damaged, strings.Repeat("x", 300))
	for name, text := range map[string]string{
		"app.db-wal":            strings.Repeat("x", 12392),
		"old":                   "not empty",
		"zero.db":               "",
		"side-wal":              "left over",
		"text.db":               strings.Repeat("this is not a database\n", 100),
		"plain":                 "a file where a socket should be",
		"empty/.keep":           "",
		"litestream.yml":        "dbs:\n- path: app.db\n  replica: {path: backup}\n- path: missing.db\n  replicas:\n  - url: s3://bucket/prefix\n- path: zero.db\n  replica: {path: empty}\n- path: hole.db\n  replica: {path: gap}\n",
		"empty.yml":             "dbs: []\n",
		"live.yml":              "dbs:\n- path: live.db\n  replica: {path: live.replica}\n",
		"env.yml":               "dbs:\n- path: $NAME.db\n  replica: {path: \"${OTHER}backup\"}\n",
		"stderr.yml":            "logging: {stderr: true, level: debug, type: json}\ndbs:\n- path: app.db\n  replica: {path: backup}\n",
		"text.yml":              "dbs:\n- path: text.db\n  replica: {path: text.replica}\n",
		"folder.yml":            "shutdown-sync-timeout: 100ms\ndbs:\n- path: folder.db\n  replica: {path: r}\n",
		"exec.yml":              "exec: 'true'\ndbs:\n- path: live.db\n  replica: {path: live.replica}\n",
		"logtype.yml":           "logging: {type: bogus}\ndbs: []\n",
		"unknown.yml":           "bogus: 1\ndbs:\n- path: app.db\n  bogus: 1\n  replica: {path: backup, bogus: 1}\n",
		"dir.yml":               "dbs:\n- dir: watched\n  pattern: '*.db'\n  replica: {path: watched.replica}\n",
		"tree.yml":              "dbs:\n- dir: watched\n  pattern: '*.db'\n  recursive: true\n  meta-dir: meta\n  replica: {path: watched.replica}\n",
		"watch.yml":             "shutdown-sync-timeout: 1s\nsocket: {enabled: true, path: SCRATCH/s}\ndbs:\n- dir: watched\n  pattern: '*.db'\n  watch: true\n  recursive: true\n  monitor-interval: 50ms\n  meta-path: meta\n  replica: {path: watched.replica, sync-interval: 50ms}\n",
		"socket.yml":            "shutdown-sync-timeout: 1s\nsocket: {enabled: true, path: SCRATCH/s}\ndbs:\n- path: live.db\n  monitor-interval: 50ms\n  replica: {path: live.replica, sync-interval: 50ms}\n- path: missing.db\n  monitor-interval: 50ms\n  replica: {path: missing.replica, sync-interval: 50ms}\n",
		"none.yml":              "socket: {enabled: true, path: SCRATCH/s}\ndbs: []\n",
		"pretty.yml":            "logging: {type: pretty}\ndbs:\n- path: live.db\n  replica: {path: live.replica}\n",
		"s3.yml":                "dbs:\n- path: app.db\n  replica: {type: s3, bucket: b, path: p, region: us-east-1, endpoint: \"http://127.0.0.1:1\", access-key-id: a, secret-access-key: b}\n",
		"other.yml":             "dbs:\n- path: app.db\n  replica: {type: sftp, host: h, user: u, path: /p}\n",
		"socket-permission.yml": "socket: {enabled: true, path: SCRATCH/plain}\ndbs: []\n",
	} {
		writeFile(t, filepath.Join(dir, name), text)
	}
	for name, text := range badConfigurations {
		writeFile(t, filepath.Join(dir, name+".yml"), text)
	}
}

// badConfigurations are configuration files that are refused, by name.
var badConfigurations = map[string]string{
	"bad-yaml":             "dbs: [\n",
	"bad-tab":              "dbs:\n\t- path: a\n",
	"bad-list":             "- a\n",
	"bad-map":              "dbs: {path: a}\n",
	"bad-null":             "dbs: [null]\n",
	"bad-addr":             "addr: [1]\ndbs: []\n",
	"bad-level":            "levels: [{interval: 1s}, {}]\n",
	"bad-level-list":       "levels: 5\n",
	"bad-snapshot":         "snapshot: {interval: 0}\n",
	"bad-snapshot-keep":    "snapshot: {retention: -1s}\n",
	"bad-snapshot-db":      "dbs: [{path: a, snapshot: {interval: 0}, replica: {path: x}}]\n",
	"bad-snapshot-two":     "dbs: [{path: a, snapshot: {interval: 1h}, replica: {path: x}}, {path: b, snapshot: {interval: 2h}, replica: {path: y}}]\n",
	"bad-l0":               "l0-retention: -1s\n",
	"bad-l0-check":         "l0-retention-check-interval: 0\n",
	"bad-sync-timeout":     "shutdown-sync-timeout: -1s\n",
	"bad-sync-interval":    "shutdown-sync-interval: 0s\n",
	"bad-heartbeat":        "heartbeat-url: ftp://x\n",
	"bad-heartbeat-often":  "heartbeat-url: http://x\nheartbeat-interval: 1s\n",
	"bad-retention":        "retention: 24h\n",
	"bad-duration":         "dbs: [{path: a, monitor-interval: 5d, replica: {path: y}}]\n",
	"bad-bool":             "dbs: [{path: a, restore-if-db-not-exists: 5, replica: {path: y}}]\n",
	"bad-int":              "dbs: [{path: a, truncate-page-n: many, replica: {path: y}}]\n",
	"bad-size":             "dbs: [{path: a, replica: {url: \"s3://b/p\", part-size: big}}]\n",
	"bad-no-path":          "dbs: [{replica: {path: y}}]\n",
	"bad-no-replica":       "dbs: [{path: a}]\n",
	"bad-two-replicas":     "dbs: [{path: a, replicas: [{path: y}, {path: z}]}]\n",
	"bad-both-replicas":    "dbs: [{path: a, replica: {path: y}, replicas: [{path: z}]}]\n",
	"bad-no-replicas":      "dbs: [{path: a, replicas: []}]\n",
	"bad-twice":            "dbs: [{path: a, replica: {path: y}}, {path: ./a, replica: {path: z}}]\n",
	"bad-path-dir":         "dbs: [{path: a, dir: b, pattern: '*', replica: {path: y}}]\n",
	"bad-no-pattern":       "dbs: [{dir: b, replica: {path: y}}]\n",
	"bad-watch":            "dbs: [{path: a, watch: true, replica: {path: y}}]\n",
	"bad-meta-dir":         "dbs: [{path: a, meta-dir: m, replica: {path: y}}]\n",
	"bad-meta-both":        "dbs: [{dir: b, pattern: '*', meta-dir: m, meta-path: n, replica: {path: y}}]\n",
	"bad-dir-missing":      "dbs: [{dir: nowhere, pattern: '*', replica: {path: y}}]\n",
	"bad-dir-file":         "dbs: [{dir: app.db, pattern: '*', replica: {path: y}}]\n",
	"bad-dir-empty":        "dbs: [{dir: empty, pattern: '*.db', replica: {path: y}}]\n",
	"bad-dir-pattern":      "dbs: [{dir: watched, pattern: '[', replica: {path: y}}]\n",
	"bad-dir-slash":        "dbs: [{dir: watched, pattern: 'a/*.db', replica: {path: y}}]\n",
	"bad-dir-replica":      "dbs: [{dir: watched, pattern: '*.db'}]\n",
	"bad-replica-interval": "dbs: [{path: a, replica: {path: y, sync-interval: 0}}]\n",
	"bad-root-interval":    "sync-interval: -1s\ndbs: [{path: a, replica: {path: y}}]\n",
	"bad-type":             "dbs: [{path: a, replica: {type: bogus, path: y}}]\n",
	"bad-scheme":           "dbs: [{path: a, replica: {url: \"bogus://x/y\"}}]\n",
	"bad-url-path":         "dbs: [{path: a, replica: {path: \"s3://x\"}}]\n",
	"bad-url-and-path":     "dbs: [{path: a, replica: {url: \"s3://a/b\", path: c}}]\n",
	"bad-url-bucket":       "dbs: [{path: a, replica: {url: \"s3://a/b\", bucket: c}}]\n",
	"bad-no-bucket":        "dbs: [{path: a, replica: {type: s3, path: x}}]\n",
	"bad-no-file":          "dbs: [{path: a, replica: {type: file}}]\n",
	"bad-query":            "dbs: [{path: a, replica: {url: \"s3://b/p?concurrency=x\"}}]\n",
	"bad-age":              "dbs: [{path: a, replica: {path: y, age: {recipients: [x]}}}]\n",
	"bad-sse-path":         "dbs: [{path: a, replica: {url: \"s3://b/p\", sse-customer-key-path: none}}]\n",
	"bad-sse-key":          "dbs: [{path: a, replica: {url: \"s3://b/p\", sse-customer-key: short}}]\n",
	"bad-sse-both":         "dbs: [{path: a, replica: {url: \"s3://b/p\", sse-kms-key-id: k, sse-customer-key: MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=}}]\n",
}

// databaseStates makes a database, and returns its bytes after each of n
// transactions.
func databaseStates(t *testing.T, path string, n int) (states [][]byte) {
	t.Helper()
	for i := range n {
		writeRow(t, path, fmt.Sprintf("PRAGMA page_size=%d; CREATE TABLE IF NOT EXISTS t%d (x); INSERT INTO t%d VALUES (%d)", pageSize, i, i, i))
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, data)
	}
	return states
}

// writeRow runs statements on a database with a connection of its own.
func writeRow(t *testing.T, path, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statements); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// changedPages returns the pages of a database that differ from those before.
func changedPages(data, before []byte) map[uint32][]byte {
	pages := map[uint32][]byte{}
	for i := 0; i < len(data); i += pageSize {
		if page := data[i : i+pageSize]; i+pageSize > len(before) || !bytes.Equal(page, before[i:i+pageSize]) {
			pages[uint32(i/pageSize)+1] = page
		}
	}
	return pages
}

// writeLTX puts a file on a level of a replica, in a year of its own so that
// its time is told from the present.
func writeLTX(t *testing.T, dir string, level int, hdr ltx.Header, pages map[uint32][]byte) {
	t.Helper()
	hdr.MaxTXID = max(hdr.MaxTXID, hdr.MinTXID)
	at := time.Date(2020, 1, 2, 3, 4, int(hdr.MaxTXID), 0, time.UTC)
	hdr.Flags, hdr.Timestamp = ltx.HeaderFlagNoChecksum, at.UnixMilli()
	// One frame of a log that is gone, without which upstream cannot go on.
	hdr.WALOffset, hdr.WALSize, hdr.WALSalt1, hdr.WALSalt2 = 32, pageSize+24, 1, 2
	path := filepath.Join(dir, "ltx", fmt.Sprint(level), ltx.FormatFilename(hdr.MinTXID, hdr.MaxTXID))
	writeFile(t, path, string(testutil.BuildLTX(t, hdr, pages)))
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// copyScene copies a scene, with the times of its files. What the scene wrote
// as SCRATCH in its configurations becomes the folder of the copy.
func copyScene(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.Ext(path) == ".yml" {
			data = bytes.ReplaceAll(data, []byte("SCRATCH"), []byte(to))
		}
		if err := os.WriteFile(target, data, 0o600); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chtimes(target, info.ModTime(), info.ModTime())
	})
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}
