package litestream_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/tests/servers"
)

// serverBucket is a bucket of a server with the connections to it.
type serverBucket struct {
	t    *testing.T
	pool s3.Pool
	cfg  s3.Config
}

// newServerBucket starts an S3 server. The test is skipped where none is
// installed.
func newServerBucket(t *testing.T) *serverBucket {
	t.Helper()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket("bucket")
	b := &serverBucket{t: t, cfg: s3.Config{
		Bucket: "bucket", Endpoint: srv.Endpoint, Region: srv.Region, AccessKeyID: srv.AccessKey, SecretAccessKey: srv.SecretKey,
	}}
	t.Cleanup(b.pool.CloseIdleConnections)
	return b
}

// at returns the replica of a path.
func (b *serverBucket) at(path string) *serverReplica {
	b.t.Helper()
	cfg := b.cfg
	cfg.Path = path
	c, err := b.pool.Get(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return &serverReplica{t: b.t, client: c}
}

// serverReplica is a replica on a server, whose files can be damaged.
type serverReplica struct {
	t      *testing.T
	client *s3.ReplicaClient
}

func (r *serverReplica) name(k fileKey) string {
	return fmt.Sprintf("%04x/%s", k.level, ltx.FormatFilename(k.min, k.max))
}

func (r *serverReplica) put(k fileKey, data []byte) {
	r.t.Helper()
	if err := r.client.WriteObject(r.t.Context(), r.name(k), data, false); err != nil {
		r.t.Fatal(err)
	}
}

func (r *serverReplica) remove(k fileKey) {
	r.t.Helper()
	if err := r.client.DeleteLTXFiles(r.t.Context(), []*ltx.FileInfo{{Level: k.level, MinTXID: k.min, MaxTXID: k.max}}); err != nil {
		r.t.Fatal(err)
	}
}

// Every kind of damage is found on an S3 server by the lowest level that
// promises it and by those above; nothing is found where there is none.
func TestVerify_DamageS3(t *testing.T) {
	t.Parallel()
	b := newServerBucket(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	times := 3
	if testing.Short() {
		times = 1
	}
	for _, kind := range damageKinds {
		t.Run(kind.name, func(t *testing.T) {
			f := newVerifyFixtureAt(t, rng, true, b.at("some/"+kind.name))
			f.now = time.Now().Add(time.Minute) // of the server, which stamps what is written
			for range times {
				for f.reset(); !kind.apply(f); f.reset() {
				}
				if damageFound(f, kind) {
					neverWrong(f, litestream.VerifyResult{})
				}
				for level := kind.level + 1; level <= litestream.VerifyRestore; level++ {
					if res := f.verify(level); res.State == litestream.VerifyOK {
						t.Errorf("%s found nothing", level)
					}
				}
				if t.Failed() {
					t.Fatalf("of %+v", f.shape)
				}
			}
			f.reset()
			for level := litestream.VerifyList; level <= litestream.VerifyRestore; level++ {
				if res := f.verify(level); res.State != litestream.VerifyOK || res.Good != f.src.txid {
					t.Errorf("healed, %s finds %s: %s", level, res.State, res.Summary())
				}
			}
		})
	}
}

// The drill proves the databases of a fleet on an S3 server, finds what was
// damaged there, and says when it is over.
func TestMultiDBManager_DrillS3(t *testing.T) {
	t.Parallel()
	b := newServerBucket(t)
	const n = 12
	f := newMemFleet(t)
	f.remote = func(path string) litestream.ReplicaClient { return b.at(strings.TrimSuffix("fleet/"+path, "/")).client }
	f.cfg.ScanInterval = time.Hour
	f.cfg.Drill = litestream.DrillConfig{Interval: 24 * time.Hour, Budget: 1 << 30}
	f.rested(n)
	f.open()
	defer f.close()
	value := func(name string, labels ...string) float64 {
		return fleetValue(t, f.reg, "litestream_multidb_"+name, labels...)
	}
	pass := func(what string, done func() bool) {
		t.Helper()
		waitFor(t, what, func() bool {
			if !done() && f.m.DrillIdle() {
				f.advance(time.Hour)
				f.m.DrillNow()
			}
			return done()
		})
	}
	waitFor(t, "the first backups", func() bool { return f.m.Counts()["clean"] == n })
	pass("all to be proven", func() bool {
		return value("drill_unproven_databases") == 0 && value("drill_checks_total", "ok") >= n
	})

	first := fileKey{0, 1, 1}
	cut, flipped, gone := b.at("fleet/t003"), b.at("fleet/t004"), b.at("fleet/t005")
	good := map[*serverReplica][]byte{}
	for _, r := range []*serverReplica{cut, flipped, gone} {
		data, err := r.client.ReadObject(t.Context(), r.name(first))
		if err != nil {
			t.Fatal(err)
		}
		good[r] = data
	}
	cut.put(first, good[cut][:len(good[cut])/2])
	bad := bytes.Clone(good[flipped])
	bad[len(bad)/2] ^= 1
	flipped.put(first, bad)
	gone.remove(first)
	pass("the alarms", func() bool { return value("drill_failed_databases") == 3 })
	for name, state := range map[string]string{"t003.db": "corrupt", "t004.db": "corrupt", "t005.db": "missing-lost"} {
		want := fmt.Sprintf(`msg="drill: the replica is damaged" db=%s state=%s`, f.path(name), state)
		f.log.mu.Lock()
		if log := f.log.b.String(); strings.Count(log, want) != 1 {
			t.Errorf("%d lines with %q, want 1", strings.Count(log, want), want)
		}
		f.log.mu.Unlock()
	}
	if got, looked := value("drill_requests_total"), value("drill_checks_total", "ok"); got > 12*looked+100 || value("drill_read_bytes_total") == 0 {
		t.Errorf("%v requests for %v databases", got, looked)
	}
	for r, data := range good {
		r.put(first, data)
	}
	pass("the end of the alarms", func() bool { return value("drill_failed_databases") == 0 })
}
