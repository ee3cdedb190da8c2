package gs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
)

// smallChunks makes a megabyte an upload in several chunks.
func smallChunks(o *gs.Options) { o.ChunkSize = 256 << 10 }

// stream hides that a source can be read at any place.
func stream(b []byte) io.Reader { return io.MultiReader(bytes.NewReader(b)) }

func TestReplicaClient_CutUpload(t *testing.T) {
	t.Parallel()
	srv := servers.FakeGCS(t, false)
	srv.CreateBucket(bucket)
	data := replicatest.File(t, 1, 1, 1<<20+12345, 0)
	for _, tt := range []struct {
		name   string
		method string
		source func() io.Reader
		set    func(*gs.Options)
	}{
		{"Simple", "POST", func() io.Reader { return bytes.NewReader(data) }, func(*gs.Options) {}},
		{"Section", "PUT", func() io.Reader { return bytes.NewReader(data) }, smallChunks},
	} {
		for kindName, kind := range map[string]servers.HTTPFault{"Cut": servers.BreakUpload, "Lost": servers.Lose, "Storm": storm} {
			t.Run(tt.name+kindName, func(t *testing.T) {
				p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
				c := newClient(t, p.URL, "cut/"+tt.name+kindName, tt.set)
				if kindName != "Lost" {
					p.Break(servers.Next(1<<40, servers.Method(tt.method), kind))
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					if _, err := c.WriteLTXFile(ctx, 0, 1, 1, tt.source()); err == nil || litestream.IsPermanent(err) {
						t.Errorf("every request breaks: err=%v, want one that is not permanent", err)
					}
					cancel()
					if a := replicatest.List(t, c, 0, 0, false); len(a) != 0 {
						t.Errorf("listed %v after a failed upload, want nothing", a)
					}
				}
				p.Break(servers.Next(1, servers.Method(tt.method), kind))
				info, err := c.WriteLTXFile(t.Context(), 0, 1, 1, tt.source())
				if err != nil || info.Size != int64(len(data)) || p.Hits() != 1 {
					t.Fatalf("info=%v err=%v, fault met %d times", info, err, p.Hits())
				}
				if got, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err != nil || !bytes.Equal(got, data) {
					t.Errorf("read %d bytes, err=%v, want the %d written", len(got), err, len(data))
				}
			})
		}
	}
}

// A stream is sent in chunks, of which the service keeps what it has whole
// units of. What it lacks is sent again, and only that.
func TestReplicaClient_ResumedUpload(t *testing.T) {
	t.Parallel()
	for _, size := range []int{256 << 10, 512 << 10, 1 << 20, 1<<20 + 1, 1<<20 + 12345} {
		data := replicatest.File(t, 1, 1, size, 0)
		for name, source := range map[string]func() io.Reader{
			"Section": func() io.Reader { return bytes.NewReader(data) },
			"Stream":  func() io.Reader { return stream(data) },
		} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				for _, fault := range []string{"", "cut", "lose", "storm"} {
					srv := newSessionServer(t, fault)
					c := newClient(t, srv.URL, "p", smallChunks)
					info, err := c.WriteLTXFile(t.Context(), 0, 1, 1, source())
					if err != nil || info.Size != int64(size) || !bytes.Equal(srv.done, data) {
						t.Fatalf("%q: err=%v, server has %d bytes, want %d", fault, err, len(srv.done), size)
					}
					if most := int64(size) + srv.repeated; srv.received > most {
						t.Errorf("%q: %d bytes were sent for %d, of which %d had to be repeated", fault, srv.received, size, srv.repeated)
					}
					if fault != "" && srv.faults == 0 {
						t.Errorf("%q: the fault was not met", fault)
					}
				}
			})
		}
	}
}

func TestReplicaClient_CutDownload(t *testing.T) {
	t.Parallel()
	srv := servers.FakeGCS(t, false)
	srv.CreateBucket(bucket)
	p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
	c := newClient(t, p.URL, "p", func(o *gs.Options) { o.ResponseTimeout = time.Second })
	replicatest.BrokenDownload(t, c, map[string]func(){
		"Cut":     func() { p.Break(servers.Next(1, servers.Method("GET"), servers.BreakDownload)) },
		"Stalled": func() { p.Break(servers.Next(1, servers.Method("GET"), servers.StallDownload)) },
	})
	for _, n := range []int{1 << 20, 1000} {
		data := replicatest.File(t, 2, 2, n, 0)
		replicatest.Write(t, c, 0, 2, 2, data)
		p.Break(servers.Next(1, servers.Method("GET"), servers.FlipDownload))
		if _, err := replicatest.Read(t, c, 0, 2, 2, 0, 0); err == nil || !strings.Contains(err.Error(), "checksum") {
			t.Errorf("a flipped bit in %d bytes: err=%v, want one about the checksum", n, err)
		}
		if got, err := replicatest.Read(t, c, 0, 2, 2, 0, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("after the faults: read %d bytes, err=%v", len(got), err)
		}
	}
}

// The repeated request of an exclusive write finds the first one's object. That
// is reported: the caller compares.
func TestReplicaClient_LostAnswer(t *testing.T) {
	t.Parallel()
	srv := servers.FakeGCS(t, false)
	srv.CreateBucket(bucket)
	p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
	c := newClient(t, p.URL, "p")
	data := replicatest.File(t, 2, 2, 1000, 0)
	p.Break(servers.Next(1, servers.Method("POST"), servers.Lose))
	_, err := c.WriteLTXFileExclusive(t.Context(), 0, 2, 2, bytes.NewReader(data))
	if !errors.Is(err, fs.ErrExist) || p.Hits() != 1 {
		t.Errorf("exclusive write: err=%v, want fs.ErrExist", err)
	}
	if got, err := replicatest.Read(t, c, 0, 2, 2, 0, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("exclusive write: read %d bytes, err=%v, want our own", len(got), err)
	}
}

func TestReplicaClient_ServerAway(t *testing.T) {
	t.Parallel()
	srv := servers.FakeGCS(t, true)
	srv.CreateBucket(bucket)
	c := newClient(t, srv.Endpoint, "p")
	replicatest.Outage(t, c, time.Second, srv.Stop, srv.Restart)
}

// A bucket that does not exist looks like no missing file.
func TestReplicaClient_MissingBucket(t *testing.T) {
	t.Parallel()
	srv := servers.FakeGCS(t, false)
	c := newClient(t, srv.Endpoint, "p")
	_, err := c.LTXFiles(t.Context(), 0, 0, false)
	re, ok := errors.AsType[*litestream.ReplicaError](err)
	if !ok || !re.Permanent || re.Bucket != bucket || re.Hint == "" || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list: %v, want a permanent error with bucket and hint", err)
	}
	if _, err := c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, 200, 0))); err == nil {
		t.Error("write: no error")
	}
}

// A copy of a bucket may have lost the metadata. The time is in the file too.
func TestReplicaClient_LostMetadata(t *testing.T) {
	t.Parallel()
	srv := servers.FakeGCS(t, false)
	srv.CreateBucket(bucket)
	c := newClient(t, srv.Endpoint, "p")
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, txid := range []ltx.TXID{5, 7} {
		put(t, plain, srv.Endpoint, "p/ltx/0/"+ltx.FormatFilename(txid, txid), string(replicatest.File(t, txid, txid, 300, 0)))
	}
	replicatest.Write(t, c, 0, 6, 6, replicatest.File(t, 6, 6, 200, 0))
	a := replicatest.List(t, c, 0, 6, true)
	if len(a) != 2 || !a[0].CreatedAt.Equal(replicatest.TimeOf(6)) || !a[1].CreatedAt.Equal(replicatest.TimeOf(7)) {
		t.Errorf("listed %v, want two files with the times of their headers", a)
	}
	if a := replicatest.List(t, c, 0, 0, false); time.Since(a[0].CreatedAt) > time.Hour {
		t.Errorf("without metadata: %v, want the time of upload", a[0].CreatedAt)
	}
}
