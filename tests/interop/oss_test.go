package interop_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/fakeoss"
	"github.com/benbjohnson/litestream/oss"
	"github.com/benbjohnson/litestream/tests/servers"
)

// ossPlace is a bucket on a server that checks signatures, those of Alibaba's own
// library in upstream's program among them.
type ossPlace struct {
	*servers.OSSServer
	pool oss.Pool
}

const ossRegion = "cn-shanghai"

func newOSSPlace(t *testing.T) *ossPlace {
	t.Helper()
	p := &ossPlace{OSSServer: servers.OSS(t, func(o *fakeoss.Options) { o.Region = ossRegion })}
	p.CreateBucket(bucket, false)
	t.Cleanup(p.pool.CloseIdleConnections)
	return p
}

// yaml is the place in a configuration.
func (p *ossPlace) yaml(path string) string {
	return fmt.Sprintf("type: oss\nbucket: %s\npath: '%s'\nendpoint: %s\nregion: %s", bucket, path, p.Endpoint, ossRegion)
}

// onOSS puts the replica of a scene there. Upstream knows Alibaba's own endpoints
// alone by URL, so it restores by its configuration.
func (s *scene) onOSS(p *ossPlace, path string) {
	s.t.Helper()
	s.client = func() litestream.ReplicaClient {
		c, err := p.pool.Get(oss.Config{
			AccessKeyID: p.AccessKeyID, AccessKeySecret: p.AccessKeySecret, Region: ossRegion, Bucket: bucket, Path: path, Endpoint: p.Endpoint,
		})
		if err != nil {
			s.t.Fatal(err)
		}
		return c
	}
	s.yaml, s.noURL = p.yaml(path), true
	s.env = append(s.env, "OSS_ACCESS_KEY_ID="+p.AccessKeyID, "OSS_ACCESS_KEY_SECRET="+p.AccessKeySecret)
}

// TestOSS trades a replica on a server of the protocol of Alibaba Cloud OSS.
func TestOSS(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.onOSS(newOSSPlace(t), "some/app.db")
	s.trade()
	t.Logf("%d targets restored with times", s.checkAll())
}

// TestOSS_Path holds that both programs mean the same keys by a path.
func TestOSS_Path(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{
		"dot": ".", "slashes": "lead//trail/", "unclean": "a//b/../c", "odd": "a b+%ä",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			srv := newOSSPlace(t)
			s.onOSS(srv, path)
			s.create(4096, "wal")
			d := s.theirsRun([]string{"1h"}, "")
			waitFor(t, "file of upstream at the path", func() bool { return len(s.listing()[0]) > 0 })
			d.stop()
			if keys := srv.Keys(bucket); slices.ContainsFunc(keys, func(key string) bool { return !strings.HasPrefix(key, path+"/000") }) {
				t.Errorf("keys of upstream: %q, want all below %q", keys, path+"/000")
			}
		})
	}
}

// TestOSS_Fleet finds databases by pattern. Each is restored by upstream, by the
// library, and by our command from its URL.
func TestOSS_Fleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	place := newOSSPlace(t)
	f.template = place.yaml("fleet/" + fleetPath)
	f.extra = "checksums: false"
	for i, name := range []string{"a", "b", "c"} {
		f.add("p", name+".db", 4096, []string{"wal", "delete", "wal"}[i]).onOSS(place, "fleet/p/"+name)
	}
	f.main.env = append(f.main.env, "OSS_ACCESS_KEY_ID="+place.AccessKeyID, "OSS_ACCESS_KEY_SECRET="+place.AccessKeySecret)
	d := f.start()
	f.commit("INSERT INTO ledger DEFAULT VALUES")
	f.commit("INSERT INTO t (v) VALUES (zeroblob(9000))")
	d.stop()
	for i, s := range f.tenants {
		s.check(target{}, s.images[s.newest()])
		url := fmt.Sprintf("oss://%s/fleet/p/%c?endpoint=%s&region=%s", bucket, 'a'+i, place.Endpoint, ossRegion)
		path := s.output()
		cmd := exec.CommandContext(t.Context(), ourProgram(t), "restore", "-o", path, url)
		cmd.Env = s.env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("restore %s: %v\n%s", url, err, out)
		}
		if got := s.take(path); !bytes.Equal(got, s.images[s.newest()]) {
			t.Errorf("%s: the restored database differs", url)
		}
	}
}
