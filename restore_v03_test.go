package litestream_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pierrec/lz4/v4"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// v03Time is when the snapshot of newV03 was stored; each other file one
// second after the one before.
var v03Time = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

// newV03 writes a backup as v0.3 does, of three logs, and returns its folder,
// the files in their order, and the newest database.
func newV03(t *testing.T) (dir string, files []string, image []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.db")
	dir = t.TempDir()
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	exec := func(query string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	exec("PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0; CREATE TABLE t (v)")
	put := func(name string, from string) {
		t.Helper()
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		w := lz4.NewWriter(&buf)
		_, err = w.Write(data)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		name = filepath.Join(dir, "generations", "0123456789abcdef", name)
		at := v03Time.Add(time.Duration(len(files)) * time.Second)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, buf.Bytes(), 0o600), os.Chtimes(name, at, at)); err != nil {
			t.Fatal(err)
		}
		files = append(files, name)
	}
	put("snapshots/00000000.snapshot.lz4", path)
	for i := range 3 {
		exec("INSERT INTO t VALUES (randomblob(5000))")
		put(fmt.Sprintf("wal/%08x_00000000.wal.lz4", i), path+"-wal")
		exec("PRAGMA wal_checkpoint(TRUNCATE)")
	}
	if image, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return dir, files, image
}

func TestRestoreV03(t *testing.T) {
	dir, files, image := newV03(t)
	opt := testOptions(t)
	opt.LedgerPath = filepath.Join(t.TempDir(), "ledger")
	if err := os.WriteFile(opt.LedgerPath, []byte("of another database"), 0o600); err != nil {
		t.Fatal(err)
	}
	res, err := litestream.Restore(t.Context(), file.NewReplicaClient(dir), opt)
	if err != nil {
		t.Fatal(err)
	}
	wantImage(t, opt.OutputPath, image)
	want := litestream.RestoreResult{
		Timestamp: v03Time.Add(3 * time.Second), PageSize: 4096, PageN: uint32(len(image) / 4096),
		Bytes: int64(len(image)), V03: res.V03, IntegrityCheck: litestream.IntegrityCheckQuick,
	}
	if diff := cmp.Diff(want, res); diff != "" || len(res.V03) != len(files) {
		t.Errorf("result (-want +got), %d files:\n%s", len(res.V03), diff)
	}
	if got := folderNames(t, filepath.Dir(opt.OutputPath)); !cmp.Equal(got, []string{"restored.db"}) {
		t.Errorf("left %q", got)
	}
	if _, err := os.Stat(opt.LedgerPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ledger of another database: err=%v, want none left", err)
	}
}

// TestRestoreV03_Faults damages a backup. An error names the place and what to
// do, and the database that stood there stays.
func TestRestoreV03_Faults(t *testing.T) {
	before := "-timestamp " + v03Time.Add(time.Second).Format(time.RFC3339Nano)
	for _, tt := range []struct {
		name string
		harm func(files []string) error
		txid ltx.TXID
		want []string
		is   error
	}{
		{
			name: "Gap", harm: func(f []string) error { return os.Remove(f[2]) }, is: litestream.ErrNonContiguous,
			want: []string{"generation 0123456789abcdef", "index 00000001, offset 00000000", before},
		},
		{
			name: "Truncated", harm: func(f []string) error { return os.Truncate(f[2], 100) },
			want: []string{"generations/0123456789abcdef/wal/00000001_00000000.wal.lz4", "ends early", before},
		},
		{name: "TruncatedSnapshot", harm: func(f []string) error { return os.Truncate(f[0], 100) }, want: []string{"ends early", "nothing before it"}},
		{name: "NoSnapshot", harm: func(f []string) error { return os.Remove(f[0]) }, is: litestream.ErrNonContiguous, want: []string{"no snapshot", "3 wal segments"}},
		{
			name: "TXID", harm: func([]string) error { return nil }, txid: 1, is: litestream.ErrTxNotAvailable,
			want: []string{"v0.3, which has no txids"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, files, _ := newV03(t)
			if err := tt.harm(files); err != nil {
				t.Fatal(err)
			}
			opt := testOptions(t)
			opt.TXID, opt.Force = tt.txid, true
			if err := errors.Join(os.MkdirAll(filepath.Dir(opt.OutputPath), 0o755), os.WriteFile(opt.OutputPath, []byte("old"), 0o600)); err != nil {
				t.Fatal(err)
			}
			_, err := litestream.Restore(t.Context(), file.NewReplicaClient(dir), opt)
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("err=%v, want %v", err, tt.is)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("err=%v, want %q in it", err, want)
				}
			}
			wantImage(t, opt.OutputPath, []byte("old"))
			if got := folderNames(t, filepath.Dir(opt.OutputPath)); !cmp.Equal(got, []string{"restored.db"}) {
				t.Errorf("left %q", got)
			}
		})
	}
}

func TestUsesV03(t *testing.T) {
	at := func(n int) time.Time { return v03Time.Add(time.Duration(n) * time.Second) }
	snapshot := func(n int) litestream.V03File { return litestream.V03File{Snapshot: true, CreatedAt: at(n)} }
	wal := func(n int) litestream.V03File { return litestream.V03File{CreatedAt: at(n)} }
	old := []litestream.V03File{snapshot(10), wal(20)}
	for _, tt := range []struct {
		name  string
		level int
		ltx   int // seconds; 0 is none
		files []litestream.V03File
		until int
		want  bool
	}{
		{"Neither", 0, 0, nil, 0, false},
		{"OnlyV03", 0, 0, old, 0, true},
		{"OnlyLTX", 0, 30, nil, 0, false},
		{"LTXIsNewer", 9, 30, old, 0, false},
		{"V03IsNewer", 9, 15, old, 0, true}, // its log counts, not its snapshots alone
		{"MomentBeforeMove", 9, 30, old, 25, true},
		{"MomentOfMove", 9, 30, old, 30, true}, // LTX files are strictly before
		{"MomentBehindMove", 9, 30, old, 31, false},
		{"MomentBehindMoveNoSnapshotYet", 0, 30, old, 31, false},
		{"BeforeBoth", 9, 30, old, 5, true}, // to name the first moment of all
		{"BeforeBothLTXFirst", 9, 8, old, 5, false},
		{"NoSnapshot", 9, 5, old[1:], 0, false},
	} {
		var levels [litestream.SnapshotLevel + 1][]*ltx.FileInfo
		if tt.ltx != 0 {
			levels[tt.level] = []*ltx.FileInfo{{Level: tt.level, MinTXID: 1, MaxTXID: 1, CreatedAt: at(tt.ltx)}}
		}
		var until time.Time
		if tt.until != 0 {
			until = at(tt.until)
		}
		if got := litestream.UsesV03(levels, tt.files, until); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}
