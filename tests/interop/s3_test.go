package interop_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/tests/servers"
)

const bucket = "backups"

// onS3 puts the replica of a scene on a server. Ours uses the configuration as
// spoil, which may be nil, leaves it.
func (s *scene) onS3(srv *servers.S3Server, spoil func(*s3.Config)) {
	s.t.Helper()
	var pool s3.Pool
	s.t.Cleanup(pool.CloseIdleConnections)
	s.client = func() litestream.ReplicaClient {
		cfg := s3.Config{
			Bucket: bucket, Path: "some/app.db", Endpoint: srv.Endpoint, Region: srv.Region,
			AccessKeyID: srv.AccessKey, SecretAccessKey: srv.SecretKey, SkipVerify: srv.CAFile != "",
		}
		if spoil != nil {
			spoil(&cfg)
		}
		c, err := pool.Get(cfg)
		if err != nil {
			s.t.Fatal(err)
		}
		return c
	}
	s.url = fmt.Sprintf("s3://%s/some/app.db?endpoint=%s&region=%s", bucket, srv.Endpoint, srv.Region)
	s.yaml = fmt.Sprintf("type: s3\nbucket: %s\npath: some/app.db\nendpoint: %s\nregion: %s", bucket, srv.Endpoint, srv.Region)
	s.env, s.s3 = srv.Env(), true
}

// TestS3 trades a replica on real servers: ours writes, upstream goes on,
// ours goes on, and both restore every position.
func TestS3(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		start func(tb testing.TB, overTLS bool) *servers.S3Server
		tls   bool
	}{
		{"versitygw", servers.Versitygw, false},
		{"versitygw over TLS", servers.Versitygw, true},
		{"ceph", servers.Ceph, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			srv := tt.start(t, tt.tls)
			srv.CreateBucket(bucket)
			s.onS3(srv, nil)
			s.loose = true
			s.create(4096, "wal")
			e := s.oursRun()
			e.sync()
			for i, w := range workload {
				s.exec(w.query)
				e.sync()
				if i == 3 {
					e.snapshot()
				}
			}
			e.stop()
			n := s.checkAll()

			s.exec("INSERT INTO ledger VALUES (1)")
			before := s.newest()
			d := s.theirsRun([]string{"1s"}, "")
			waitFor(t, "compaction by upstream", func() bool { return s.newestOf(1) > before })
			s.exec("INSERT INTO ledger VALUES (2)")
			d.stop()
			s.remember()
			if s.isFull(before + 1) {
				t.Error("upstream went on with a full copy")
			}
			s.wantLedger(2)

			s.exec("INSERT INTO ledger VALUES (3)")
			before = s.newest()
			e = s.oursRun()
			e.sync()
			e.snapshot()
			e.compact(2)
			s.exec("INSERT INTO ledger VALUES (4)")
			e.stop()
			if s.isFull(before + 1) {
				t.Error("ours went on with a full copy")
			}
			s.wantLedger(4)
			s.wantContiguous()
			t.Logf("%d and %d targets restored", n, s.checkTXIDs())
		})
	}
}

// TestS3_Outage takes the server away under load and brings it back.
func TestS3_Outage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	srv := servers.Versitygw(t, true)
	srv.CreateBucket(bucket)
	s.onS3(srv, nil)
	s.create(4096, "wal")
	b := s.oursStore([]time.Duration{500 * time.Millisecond}, nil)
	stopLoad := s.load()
	pos := b.db.Replica.Pos().TXID
	waitFor(t, "uploads", func() bool { return b.db.Replica.Pos().TXID > pos+2 })
	srv.Stop()
	waitFor(t, "error line", func() bool { return len(b.log.with("monitor error")) > 0 })
	pos = b.db.Pos().TXID
	waitFor(t, "captures without a server", func() bool { return b.db.Pos().TXID > pos+20 })
	srv.Restart()
	waitFor(t, "recovery", func() bool { return len(b.log.with("replica sync recovered")) > 0 })
	n := stopLoad()
	b.stop()
	s.remember()
	s.wantLedger(n)
	s.wantContiguous()
	// Compaction has a line of its own for each thing that it could not do.
	if got, all := b.log.with("monitor error"), b.log.with("level=ERROR"); len(got) != 1 || len(all) > 3 {
		t.Errorf("%d error lines about uploads, want 1, and at most 3 in all:\n%s", len(got), strings.Join(all, "\n"))
	}
	t.Logf("%d writes, newest position %s", n, s.newest())
}

// TestS3_Refused runs with a bucket that does not exist and with wrong
// credentials. The error names what to look at, once, the application notices
// nothing, and replication begins when the cause is gone.
func TestS3_Refused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		spoil  func(cfg *s3.Config)
		bucket bool
		want   []string
	}{
		{
			name: "bucket",
			want: []string{"NoSuchBucket", bucket, "some/app.db", "create the bucket"},
		},
		{
			name: "secret", bucket: true, spoil: func(cfg *s3.Config) { cfg.SecretAccessKey = "wrong" },
			want: []string{"SignatureDoesNotMatch", bucket, "some/app.db", "secret-access-key"},
		},
		{
			name: "key", bucket: true, spoil: func(cfg *s3.Config) { cfg.AccessKeyID = "wrong" },
			want: []string{"XAdminUserNotFound", bucket, "some/app.db", "access-key-id"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			srv := servers.Versitygw(t, false)
			if tt.bucket {
				srv.CreateBucket(bucket)
			}
			s.onS3(srv, tt.spoil)
			s.create(4096, "wal")
			refused := &counter{}
			b := s.oursStore(nil, func(st *litestream.Store) {
				st.ShutdownSyncTimeout = 0
				if !tt.bucket {
					st.ShutdownSyncTimeout = 20 * time.Second
				}
			})
			b.db.Replica.Client.(litestream.ObservableClient).SetObserver(refused)
			stopLoad := s.load()
			waitFor(t, "three refusals", func() bool { return refused.n.Load() >= 3 })
			lines := b.log.with("level=ERROR")
			if got := b.log.with(append(tt.want, "level=ERROR")...); len(lines) != 1 || len(got) != 1 {
				t.Errorf("error lines %q, want one with %q", lines, tt.want)
			}
			if tt.bucket {
				stopLoad()
				if err := b.close(); err == nil || !strings.Contains(err.Error(), tt.want[0]) {
					t.Errorf("close: %v, want %s", err, tt.want[0])
				}
				return
			}
			srv.CreateBucket(bucket)
			waitFor(t, "recovery", func() bool { return len(b.log.with("replica sync recovered")) > 0 })
			n := stopLoad()
			b.stop()
			s.remember()
			s.wantLedger(n)
		})
	}
}

// counter counts storage operations that failed.
type counter struct{ n atomic.Int64 }

func (c *counter) ObserveOperation(_, _ string, _ int64, _ time.Duration, code string) {
	if code != "" {
		c.n.Add(1)
	}
}
