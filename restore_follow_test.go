package litestream_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

func TestFollow(t *testing.T) {
	for _, pageSize := range []int{512, 4096, 65536} {
		for _, checksum := range []bool{false, true} {
			t.Run(fmt.Sprintf("page=%d/checksum=%v", pageSize, checksum), func(t *testing.T) {
				client := newMemReplica()
				s := newSource(t, client, pageSize, checksum)
				s.fill(1)
				opt := followOptions(t, nil)
				f := startFollow(t, client, opt)
				f.await("entering follow mode", "txid=0000000000000001")
				for range 3 {
					s.fill(5) // each makes five transactions
					f.awaitTXID(s.txid)
				}
				f.stop()
				wantFollowed(t, opt.OutputPath, s.images[s.txid], s.txid)
				if f.res.TXID != s.txid {
					t.Errorf("result says txid %s, want %s", f.res.TXID, s.txid)
				}
				if got := sqliteCheck(t, opt.OutputPath, "PRAGMA journal_mode"); got != "delete" {
					t.Errorf("journal mode %s, want delete", got)
				}
				want := []string{"restored.db", "restored.db-follow", "restored.db-txid"}
				if got := folderNames(t, filepath.Dir(opt.OutputPath)); strings.Join(got, " ") != strings.Join(want, " ") {
					t.Errorf("files %q, want %q", got, want)
				}
				// Again, after transactions nobody followed, one of which
				// makes the file shorter.
				s.fill(5)
				f = startFollow(t, client, opt)
				f.awaitTXID(s.txid)
				f.stop()
				wantFollowed(t, opt.OutputPath, s.images[s.txid], s.txid)
			})
		}
	}
}

// TestFollow_Crash looks at the files after every step of an update, as if the
// follower had been killed there: SQLite sees a whole transaction, and the
// next follower goes on.
func TestFollow_Crash(t *testing.T) {
	client := newMemReplica()
	s := newSource(t, client, 1024, true)
	s.fill(2)
	clones := t.TempDir()
	type crash struct {
		step     string
		from, to ltx.TXID
	}
	var crashes []crash
	var opt litestream.RestoreOptions
	from, to := s.txid, s.txid
	pages := 0
	opt = followOptions(t, func(step string) error {
		if step == "page" {
			if pages++; pages%17 != 1 {
				return nil
			}
		}
		// The source's goroutine waits for this update, so from and to hold.
		copyFolder(t, filepath.Dir(opt.OutputPath), filepath.Join(clones, fmt.Sprint(len(crashes))))
		crashes = append(crashes, crash{step, from, to})
		return nil
	})
	f := startFollow(t, client, opt)
	f.await("entering follow mode")
	for range 5 { // each kind of transaction: grow, change, delete, shrink
		from = s.txid
		to = from + 1
		s.fillKind(int(s.txid) % 5)
		f.awaitTXID(s.txid)
	}
	f.stop()
	t.Logf("%d crashes", len(crashes))
	if len(crashes) < 30 {
		t.Fatalf("%d crashes, want at least 30", len(crashes))
	}
	for i, c := range crashes {
		for _, reader := range []bool{false, true} {
			dir := filepath.Join(clones, fmt.Sprintf("%d-%v", i, reader))
			copyFolder(t, filepath.Join(clones, fmt.Sprint(i)), dir)
			path := filepath.Join(dir, "restored.db")
			if reader {
				sqliteCheck(t, path, "SELECT count(*) FROM t")
				before, after := followedDiff(path, s.images[c.from]), followedDiff(path, s.images[c.to])
				committed := c.step == "commit" || c.step == "position"
				if committed && after != "" || !committed && before != "" {
					t.Fatalf("crash %d at %s from %s: a reader finds neither side: %q, %q", i, c.step, c.from, before, after)
				}
			}
			opt := followOptions(t, nil)
			opt.OutputPath = path
			f := startFollow(t, client, opt)
			f.await("follow", "txid="+s.txid.String())
			f.stop()
			wantFollowed(t, path, s.images[s.txid], s.txid)
		}
	}
}

// TestFollow_StepFails lets every step of an update fail once: the follower
// goes on by itself.
func TestFollow_StepFails(t *testing.T) {
	client := newMemReplica()
	s := newSource(t, client, 4096, true)
	s.fill(2)
	errBroken := errors.New("broken")
	n, fail, pages := 0, 0, 0
	opt := followOptions(t, func(step string) error {
		if step == "page" {
			if pages++; pages%17 != 1 {
				return nil
			}
		}
		if n++; n == fail {
			n, fail = 0, fail+1
			return &os.PathError{Op: "write", Path: "x", Err: errBroken}
		}
		return nil
	})
	f := startFollow(t, client, opt)
	f.await("entering follow mode")
	for range 6 {
		n, fail = 0, 1
		s.fill(1)
		f.await("follow: recovered")
	}
	f.stop()
	wantFollowed(t, opt.OutputPath, s.images[s.txid], s.txid)
	if got := f.logged("WARN"); got != 6 {
		t.Errorf("%d warnings, want one for each of 6 updates that failed again and again:\n%s", got, strings.Join(f.seen, ""))
	}
}

func TestFollow_Resume(t *testing.T) {
	client := newMemReplica()
	s := newSource(t, client, 4096, false)
	s.fill(3)
	tests := []struct {
		name string
		prep func(path string)
		want string // in the error; empty: it follows
	}{
		{"position file missing", func(path string) { os.Remove(path + "-txid") }, "database exists but no -txid file found"},
		{"position file empty", func(path string) { os.WriteFile(path+"-txid", nil, 0o644) }, "parse txid file"},
		{"position file damaged", func(path string) { os.WriteFile(path+"-txid", []byte("hello\n"), 0o644) }, "parse txid file"},
		{"position ahead", func(path string) { os.WriteFile(path+"-txid", []byte("00000000000000ff\n"), 0o644) }, "is ahead of the replica's latest TXID 0000000000000003"},
		{"no newline", func(path string) { os.WriteFile(path+"-txid", []byte("0000000000000003"), 0o644) }, ""},
		{"state file missing", func(path string) { os.Remove(path + "-follow") }, ""},
		{"state file damaged", func(path string) { os.WriteFile(path+"-follow", []byte(`{"version":1,"from"`), 0o644) }, ""},
		{"database deleted", func(path string) { os.Remove(path) }, ""},
		{"database empty", func(path string) { os.Truncate(path, 0) }, ""},
		{"not a database", func(path string) { os.WriteFile(path, []byte("hello, world"), 0o644) }, "not a database"},
		{"log with content", func(path string) { os.WriteFile(path+"-wal", []byte("frames"), 0o644) }, "wrote to its log"},
		{"left temporary files", func(path string) {
			os.WriteFile(path+".tmp", []byte("half"), 0o644)
			os.WriteFile(path+"-txid.tmp", []byte("00"), 0o644)
			os.WriteFile(path+"-follow.tmp", []byte("{"), 0o644)
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opt := followOptions(t, nil)
			f := startFollow(t, client, opt)
			f.await("entering follow mode")
			f.stop()
			tt.prep(opt.OutputPath)
			f = startFollow(t, client, opt)
			if tt.want != "" {
				if err := f.ended(); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("err=%v, want %q", err, tt.want)
				}
				return
			}
			f.await("entering follow mode")
			f.stop()
			wantFollowed(t, opt.OutputPath, s.images[s.txid], s.txid)
		})
	}
}
