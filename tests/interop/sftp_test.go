package interop_test

import (
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/sftp"
	"github.com/benbjohnson/litestream/tests/servers"
)

// onSFTP puts the replica of a scene on a server.
func (s *scene) onSFTP(srv *servers.SFTPServer) {
	s.t.Helper()
	var pool sftp.Pool
	s.t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			s.t.Error(err)
		}
	})
	folder := path.Join(srv.Dir, "some/app.db")
	s.client = func() litestream.ReplicaClient {
		c, err := pool.Get(sftp.Config{Host: srv.Addr, User: srv.User, KeyPath: srv.KeyPath, HostKey: srv.HostKey, Path: folder})
		if err != nil {
			s.t.Fatal(err)
		}
		return c
	}
	s.yaml = fmt.Sprintf("type: sftp\nhost: %s\nuser: %s\nkey-path: %s\nhost-key: %s\npath: %s", srv.Addr, srv.User, srv.KeyPath, srv.HostKey, folder)
	s.noURL = true
}

// trade lets ours write, upstream go on, and ours go on again; both restore
// every position.
func (s *scene) trade() {
	s.t.Helper()
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
	s.check(target{}, nil)
	n := s.checkTXIDs()

	s.exec("INSERT INTO ledger VALUES (1)")
	before := s.newest()
	d := s.theirsRun([]string{"1s"}, "")
	waitFor(s.t, "compaction by upstream", func() bool { return s.newestOf(1) > before })
	s.exec("INSERT INTO ledger VALUES (2)")
	d.stop()
	s.remember()
	if s.isFull(before + 1) {
		s.t.Error("upstream went on with a full copy")
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
		s.t.Error("ours went on with a full copy")
	}
	s.wantLedger(4)
	s.wantContiguous()
	s.t.Logf("%d and %d targets restored", n, s.checkTXIDs())
}

func TestSFTP(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.onSFTP(servers.SSHD(t))
	s.trade()
}

// TestSFTP_Outage takes the server away under load and brings it back.
func TestSFTP_Outage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	srv := servers.SSHD(t)
	s.onSFTP(srv)
	s.outage(srv.Stop, srv.Restart)
}

// outage takes the server of a replica away under load and brings it back.
func (s *scene) outage(stop, restart func()) {
	s.t.Helper()
	s.create(4096, "wal")
	b := s.oursStore([]time.Duration{500 * time.Millisecond}, nil)
	stopLoad := s.load()
	pos := b.db.Replica.Pos().TXID
	waitFor(s.t, "uploads", func() bool { return b.db.Replica.Pos().TXID > pos+2 })
	stop()
	waitFor(s.t, "error line", func() bool { return len(b.log.with("monitor error")) > 0 })
	pos = b.db.Pos().TXID
	waitFor(s.t, "captures without a server", func() bool { return b.db.Pos().TXID > pos+20 })
	restart()
	waitFor(s.t, "recovery", func() bool { return len(b.log.with("replica sync recovered")) > 0 })
	n := stopLoad()
	b.stop()
	s.remember()
	s.wantLedger(n)
	s.wantContiguous()
	if got := b.log.with("monitor error"); len(got) != 1 {
		s.t.Errorf("%d error lines about uploads, want 1:\n%s", len(got), strings.Join(got, "\n"))
	}
	s.t.Logf("%d writes, newest position %s", n, s.newest())
}
