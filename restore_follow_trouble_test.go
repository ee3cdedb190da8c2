package litestream_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// drop removes files of a level from a replica in memory.
func (c *memReplica) drop(level int, from, to ltx.TXID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.files {
		if k.level == level && k.min >= from && k.max <= to {
			delete(c.files, k)
		}
	}
}

func TestPlanFollow(t *testing.T) {
	const at = 5
	tests := []struct {
		name  string
		files string // level:min-max
		want  string
		full  bool
		err   error
	}{
		{name: "empty", err: litestream.ErrNoBackups},
		{name: "behind", files: "0:1-1 9:1-4", err: litestream.ErrFollowResume},
		{name: "nothing new", files: "0:5-5 1:1-5 9:1-5"},
		{name: "one", files: "0:5-5 0:6-6", want: "0:6-6"},
		{name: "several", files: "0:6-6 0:8-8 0:7-7", want: "0:6-6 0:7-7 0:8-8"},
		{name: "higher level reaches farther", files: "0:6-6 0:7-7 1:4-7 0:8-8", want: "1:4-7 0:8-8"},
		{name: "level 0 is gone", files: "0:9-9 2:1-4 1:5-6 3:7-8", want: "1:5-6 3:7-8 0:9-9"},
		{name: "level 8", files: "8:1-9", want: "8:1-9"},
		{name: "no snapshot where a chain does", files: "0:6-6 0:7-7 9:1-7", want: "0:6-6 0:7-7"},
		{name: "gap, snapshot behind it", files: "0:8-8 9:1-7", want: "9:1-7 0:8-8", full: true},
		{name: "only a newer snapshot", files: "9:1-7", want: "9:1-7", full: true},
		{name: "chain, then a gap with a snapshot", files: "0:6-6 0:9-9 9:1-8", want: "9:1-8 0:9-9", full: true},
		{name: "gap, old snapshot", files: "0:8-8 9:1-3", err: litestream.ErrNonContiguous},
		{name: "chain up to a gap", files: "0:6-6 0:8-8 9:1-3", want: "0:6-6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var levels [litestream.SnapshotLevel + 1][]*ltx.FileInfo
			for f := range strings.FieldsSeq(tt.files) {
				var info ltx.FileInfo
				if _, err := fmt.Sscanf(f, "%d:%d-%d", &info.Level, (*uint64)(&info.MinTXID), (*uint64)(&info.MaxTXID)); err != nil {
					t.Fatal(err)
				}
				levels[info.Level] = append(levels[info.Level], &info)
			}
			files, full, err := litestream.PlanFollow(levels, at)
			if !errors.Is(err, tt.err) || full != tt.full {
				t.Fatalf("full=%v err=%v, want %v, %v", full, err, tt.full, tt.err)
			}
			var got []string
			for _, info := range files {
				got = append(got, fmt.Sprintf("%d:%d-%d", info.Level, info.MinTXID, info.MaxTXID))
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestFollow_Gap holds that a follower that was away goes on from whatever the
// replica still has.
func TestFollow_Gap(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(c *memReplica, s *source)
		log    string
	}{
		{"level 1", func(c *memReplica, s *source) {
			s.write(1, 3, s.txid)
			c.drop(0, 1, s.txid)
		}, ""},
		{"levels 3 and 8", func(c *memReplica, s *source) {
			s.write(8, 1, 6)
			s.write(3, 5, s.txid)
			c.drop(0, 1, s.txid)
		}, ""},
		{"snapshot", func(c *memReplica, s *source) {
			s.write(litestream.SnapshotLevel, 1, s.txid-2)
			c.drop(0, 1, s.txid-2)
		}, "continuing from the snapshot"},
		{"snapshot of a shorter database", func(c *memReplica, s *source) {
			s.exec("DELETE FROM t")
			s.exec("VACUUM")
			s.capture()
			s.write(litestream.SnapshotLevel, 1, s.txid)
			c.drop(0, 1, s.txid)
		}, "continuing from the snapshot"},
		{"snapshot of another page size", func(c *memReplica, s *source) {
			s.exec("PRAGMA page_size=8192")
			s.exec("VACUUM")
			s.pageSize = 8192
			s.capture()
			s.write(litestream.SnapshotLevel, 1, s.txid)
			c.drop(0, 1, s.txid)
		}, "continuing from the snapshot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := newMemReplica()
			s := newSource(t, client, 1024, true)
			s.fill(3)
			opt := followOptions(t, nil)
			f := startFollow(t, client, opt)
			f.await("entering follow mode")
			f.stop()
			s.fill(5)
			tt.change(client, s)
			f = startFollow(t, client, opt)
			f.awaitTXID(s.txid)
			s.exec("INSERT INTO t (v) VALUES ('more')")
			s.capture()
			f.awaitTXID(s.txid)
			f.stop()
			wantFollowed(t, opt.OutputPath, s.images[s.txid], s.txid)
			sqliteCheck(t, opt.OutputPath, "SELECT count(*) FROM t")
			if (f.logged("continuing from the snapshot") > 0) != (tt.log != "") {
				t.Errorf("log:\n%s", strings.Join(f.seen, ""))
			}
		})
	}
}

// TestFollow_Trouble holds that each trouble is logged once, and that the
// follower goes on when it is over.
func TestFollow_Trouble(t *testing.T) {
	newFollowed := func(t *testing.T) (*memReplica, *source, *following) {
		t.Helper()
		client := newMemReplica()
		s := newSource(t, client, 1024, false)
		s.fill(3)
		f := startFollow(t, client, followOptions(t, nil))
		f.await("entering follow mode")
		return client, s, f
	}
	check := func(t *testing.T, s *source, f *following, warnings int) {
		t.Helper()
		f.stop()
		wantFollowed(t, f.opt.OutputPath, s.images[s.txid], s.txid)
		if got := f.logged("level=WARN"); got != warnings {
			t.Errorf("%d warnings, want %d:\n%s", got, warnings, strings.Join(f.seen, ""))
		}
	}
	t.Run("gap", func(t *testing.T) {
		client, s, f := newFollowed(t)
		s.fillKind(0)
		client.drop(0, s.txid, s.txid)
		s.fillKind(2)
		f.await("replica lacks files", "missing txids 0000000000000004-0000000000000004")
		s.fillKind(3)
		s.write(litestream.SnapshotLevel, 1, s.txid)
		f.awaitTXID(s.txid)
		f.await("follow: recovered")
		check(t, s, f, 2) // the second says that it goes on from the snapshot
	})
	t.Run("damaged file, another level has it", func(t *testing.T) {
		client := newMemReplica()
		s := newSource(t, client, 1024, false)
		s.fill(3)
		damaged := fileKey{0, s.txid + 1, s.txid + 1}
		client.onOpen = func(k fileKey, _, _ int64, r io.ReadCloser) (io.ReadCloser, error) {
			if k == damaged {
				return io.NopCloser(strings.NewReader(strings.Repeat("x", 1<<20))), nil
			}
			return r, nil
		}
		f := startFollow(t, client, followOptions(t, nil))
		f.await("entering follow mode")
		s.fillKind(0)
		f.await("file of the replica is damaged", "0000000000000004-0000000000000004.ltx")
		s.fillKind(2)
		s.write(1, 3, s.txid)
		f.awaitTXID(s.txid)
		check(t, s, f, 1)
	})
	t.Run("truncated file, put right", func(t *testing.T) {
		client := testutil.NewMemClient()
		s := newSource(t, client, 1024, false)
		s.fill(3)
		f := startFollow(t, client, followOptions(t, nil))
		f.await("entering follow mode")
		s.fillKind(0)
		f.awaitTXID(s.txid)
		f.stop()
		s.fillKind(2)
		data, _ := client.Data(0, s.txid, s.txid)
		client.Put(0, s.txid, s.txid, data[:len(data)/2], time.Now())
		f = startFollow(t, client, f.opt)
		f.await("file of the replica is damaged", "0000000000000005-0000000000000005.ltx")
		client.Put(0, s.txid, s.txid, data, time.Now())
		f.awaitTXID(s.txid)
		check(t, s, f, 1)
	})
	t.Run("replica away", func(t *testing.T) {
		client := testutil.NewMemClient()
		s := newSource(t, client, 1024, false)
		s.fill(3)
		away := make(chan bool, 1)
		away <- false
		tries := make(chan struct{}, 1000)
		client.Fail = func(op string, _ int, _, _ ltx.TXID) error {
			now := <-away
			away <- now
			if !now || op == "write" {
				return nil
			}
			tries <- struct{}{}
			return errors.New("connection refused")
		}
		f := startFollow(t, client, followOptions(t, nil))
		f.await("entering follow mode")
		<-away
		away <- true
		s.fillKind(0)
		f.await("replica cannot be read", "connection refused")
		for range 5 {
			<-tries
		}
		<-away
		away <- false
		f.await("follow: recovered")
		f.awaitOrAt(s.txid)
		check(t, s, f, 1)
	})
	t.Run("long reader", func(t *testing.T) {
		_, s, f := newFollowed(t)
		reader := startChild(t, "app", f.opt.OutputPath)
		reader.exec("BEGIN", "SELECT count(*) FROM t")
		s.fillKind(0)
		f.await("readers keep the database locked")
		reader.exec("COMMIT")
		f.await("follow: recovered")
		check(t, s, f, 1)
	})
	t.Run("replica of another database", func(t *testing.T) {
		client := newMemReplica()
		s := newSource(t, client, 1024, true)
		s.fill(3)
		opt := followOptions(t, nil)
		f := startFollow(t, client, opt)
		f.await("entering follow mode")
		f.stop()
		other := newSource(t, client, 1024, true)
		clear(client.files)
		other.fill(3)
		other.exec("UPDATE t SET v = 'other' WHERE id < 4")
		other.capture()
		f = startFollow(t, client, opt)
		if err := f.ended(); !errors.Is(err, litestream.ErrFollowModified) || !strings.Contains(err.Error(), "another database") {
			t.Fatalf("err=%v, want ErrFollowModified", err)
		}
		wantFollowed(t, opt.OutputPath, s.images[s.txid], s.txid)
	})
}

// awaitOrAt waits for a position that may have been logged already.
func (f *following) awaitOrAt(txid ltx.TXID) {
	f.tb.Helper()
	if f.logged("to_txid="+txid.String()) == 0 {
		f.awaitTXID(txid)
	}
}

// TestFollow_ForeignWriter holds that a program that writes to a followed
// database is noticed, whether the follower runs or not, and that what it
// wrote stays.
func TestFollow_ForeignWriter(t *testing.T) {
	replace := func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+".new", b, 0o644); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	}
	for _, tt := range []struct {
		name    string
		write   func(t *testing.T, path string)
		stopped bool // noticed after a restart too
		stays   bool
	}{
		{"insert", func(t *testing.T, path string) {
			t.Helper()
			startChild(t, "app", path).exec("PRAGMA busy_timeout=5000", "INSERT INTO t (id, v) VALUES (999999, 'mine')")
		}, true, true},
		{"write-ahead log", func(t *testing.T, path string) {
			t.Helper()
			startChild(t, "app", path).exec("PRAGMA busy_timeout=5000", "PRAGMA journal_mode=wal", "INSERT INTO t (id, v) VALUES (999999, 'mine')")
		}, true, true},
		{"replaced", func(t *testing.T, path string) {
			t.Helper()
			if err := replace(path); err != nil {
				t.Fatal(err)
			}
		}, false, false},
		{"deleted", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, false, false},
	} {
		for _, running := range []bool{true, false} {
			if !running && !tt.stopped {
				continue
			}
			t.Run(fmt.Sprintf("%s/running=%v", tt.name, running), func(t *testing.T) {
				client := newMemReplica()
				s := newSource(t, client, 1024, false)
				s.fill(3)
				opt := followOptions(t, nil)
				f := startFollow(t, client, opt)
				f.await("entering follow mode")
				s.fillKind(0)
				f.awaitTXID(s.txid)
				if !running {
					f.stop()
				}
				tt.write(t, opt.OutputPath)
				if !running {
					s.fillKind(2)
					f = startFollow(t, client, opt)
				}
				if err := f.ended(); !errors.Is(err, litestream.ErrFollowModified) {
					t.Fatalf("err=%v, want ErrFollowModified", err)
				}
				if tt.stays {
					if got := sqliteCheck(t, opt.OutputPath, "SELECT v FROM t WHERE id = 999999"); got != "mine" {
						t.Errorf("the program's row is %q", got)
					}
				}
				if _, err := os.Stat(filepath.Join(filepath.Dir(opt.OutputPath), "restored.db.tmp")); err == nil {
					t.Error("the staging file was left behind")
				}
			})
		}
	}
}

// TestFollow_Twice holds that a second follower of the same output is refused.
func TestFollow_Twice(t *testing.T) {
	client := newMemReplica()
	s := newSource(t, client, 1024, false)
	s.fill(3)
	opt := followOptions(t, nil)
	f := startFollow(t, client, opt)
	f.await("entering follow mode")
	if err := startFollow(t, client, opt).ended(); err == nil || !strings.Contains(err.Error(), "another restore to") {
		t.Errorf("second follower: %v", err)
	}
	f.stop()
}
