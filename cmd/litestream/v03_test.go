package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// TestV03Commands uses a replica that holds nothing but a backup of v0.3.
func TestV03Commands(t *testing.T) {
	dir := testFolder(t)
	replica, db := filepath.Join(dir, "replica"), filepath.Join(dir, "app.db")
	var buf bytes.Buffer
	w := lz4.NewWriter(&buf)
	_, err := w.Write(testDatabase(t))
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(replica, "generations/0123456789abcdef/snapshots/00000000.snapshot.lz4"), buf.String())
	writeFile(t, filepath.Join(dir, ".app.db-litestream", "generation"), "0123456789abcdef\n")
	conf := filepath.Join(dir, "litestream.yml")
	writeFile(t, conf, "dbs:\n  - path: "+db+"\n    replica:\n      path: "+replica+"\n")

	for _, tt := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"ltx", "-config", conf, db}, 0, "level  min_txid", "Note: the replica holds a backup of Litestream v0.3 (generations: 1, files: 1"},
		{[]string{"status", "-config", conf}, 0, "no database", "was replicated by Litestream v0.3"},
		{[]string{"timeline", "-config", conf, db}, 1, "", "holds a backup of Litestream v0.3 only, made from"},
		{[]string{"diff", "file://" + replica, "2020-01-01T00:00:00Z"}, 1, "", "holds a backup of Litestream v0.3 only, made from"},
		{[]string{"timeline", "-json", "file://" + replica}, 1, "", "it has no transactions to list; restore -timestamp T restores it"},
		{[]string{"restore", "-config", conf, "-dry-run", db}, 0, "format: backup of Litestream v0.3", ""},
		{[]string{"restore", "-config", conf, "-dry-run", "-json", db}, 0, `"format": "v0.3"`, ""},
		{[]string{"restore", "-config", conf, "-txid", "0000000000000001", db}, 1, "", "which has no txids"},
		{[]string{"restore", "-config", conf, "-timestamp", "2001-01-01T00:00:00Z", db}, 1, "", "the first one is of"},
		{[]string{"restore", "-config", conf, "-json", db}, 0, `"txid": ""`, ""},
		{[]string{"restore", "-config", conf, "-json", "-force", "-integrity-check", "none", db}, 0, `"integrity_check": "none"`, ""},
	} {
		r := runCommand(t, tt.args...)
		if r.code != tt.code || !strings.Contains(r.stdout, tt.stdout) || !strings.Contains(r.stderr, tt.stderr) {
			t.Errorf("%q: code %d, want %d with %q and %q\nstdout: %s\nstderr: %s", tt.args, r.code, tt.code, tt.stdout, tt.stderr, r.stdout, r.stderr)
		}
	}
	if data, err := os.ReadFile(db); err != nil || !bytes.Equal(data, testDatabase(t)) {
		t.Errorf("restored %d bytes, err=%v", len(data), err)
	}
}
