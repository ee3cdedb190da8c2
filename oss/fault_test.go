package oss_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/oss"
	"github.com/benbjohnson/litestream/tests/servers"
)

func isPart(r *http.Request) bool { return hasQuery("PUT", "partNumber")(r) }

func TestReplicaClient_BrokenUpload(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	data := replicatest.File(t, 1, 1, 3*oss.MinPartSize+12345, 0)
	for name, tt := range map[string]struct {
		match  func(*http.Request) bool
		source func() io.Reader
		set    func(*oss.Options)
	}{
		"Single":   {servers.Method("PUT"), func() io.Reader { return bytes.NewReader(data) }, func(*oss.Options) {}},
		"Parts":    {isPart, func() io.Reader { return bytes.NewReader(data) }, smallParts},
		"Stream":   {isPart, func() io.Reader { return stream(data) }, smallParts},
		"Create":   {hasQuery("POST", "uploads"), func() io.Reader { return bytes.NewReader(data) }, smallParts},
		"Complete": {hasQuery("POST", "uploadId"), func() io.Reader { return bytes.NewReader(data) }, smallParts},
	} {
		for kindName, kind := range map[string]servers.HTTPFault{"Cut": servers.BreakUpload, "Lost": servers.Lose, "Storm": storm, "Flip": servers.FlipUpload} {
			if kindName == "Cut" && name == "Create" || kindName == "Flip" && (name == "Create" || name == "Complete") {
				continue // there is no content to break
			}
			t.Run(name+kindName, func(t *testing.T) {
				p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
				c := newClient(t, p.URL, "broken/"+name+kindName, tt.set)
				if kindName != "Lost" {
					p.Break(servers.Next(1<<40, tt.match, kind))
					ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
					if _, err := c.WriteLTXFile(ctx, 0, 1, 1, tt.source()); err == nil || litestream.IsPermanent(err) {
						t.Errorf("every request breaks: err=%v, want one that is not permanent", err)
					}
					cancel()
					if a := replicatest.List(t, c, 0, 0, false); len(a) != 0 {
						t.Errorf("listed %v after a failed upload, want nothing", a)
					}
				}
				p.Break(servers.Next(1, tt.match, kind))
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

// Whatever an upload fails of, its parts are freed.
func TestReplicaClient_AbortedUpload(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
	c := newClient(t, p.URL, "p", smallParts)
	data := replicatest.File(t, 1, 1, 5*oss.MinPartSize, 0)
	p.Break(servers.Next(1<<40, hasQuery("POST", "uploadId"), storm))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for _, r := range []io.Reader{bytes.NewReader(data), io.MultiReader(bytes.NewReader(data[:len(data)/2]), iotest.ErrReader(io.ErrClosedPipe))} {
		if _, err := c.WriteLTXFile(ctx, 0, 1, 1, r); err == nil {
			t.Error("no error")
		}
	}
	if n := srv.Uploads(bucket); n != 0 {
		t.Errorf("%d uploads left", n)
	}
}

func TestReplicaClient_BrokenDownload(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
	c := newClient(t, p.URL, "p", func(o *oss.Options) { o.ResponseTimeout = time.Second })
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
	srv := newServer(t)
	p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
	c := newClient(t, p.URL, "p", smallParts)
	for i, size := range []int{1000, 2*oss.MinPartSize + 5} {
		txid := ltx.TXID(i + 2)
		data := replicatest.File(t, txid, txid, size, 0)
		p.Break(servers.Next(1, func(r *http.Request) bool { return r.Header.Get("X-Oss-Forbid-Overwrite") != "" }, servers.Lose))
		_, err := c.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(data))
		if !errors.Is(err, fs.ErrExist) || p.Hits() != 1 {
			t.Errorf("exclusive write of %d bytes: err=%v, want fs.ErrExist", size, err)
		}
		if got, err := replicatest.Read(t, c, 0, txid, txid, 0, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("exclusive write: read %d bytes, err=%v, want our own", len(got), err)
		}
	}
}

func TestReplicaClient_ServerAway(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	away := httptest.NewServer(srv)
	c := newClient(t, away.URL, "p")
	replicatest.Write(t, c, 0, 1, 1, replicatest.File(t, 1, 1, 200, 0))
	away.CloseClientConnections()
	away.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, listErr := c.LTXFiles(ctx, 0, 0, false)
	_, writeErr := c.WriteLTXFile(ctx, 0, 2, 2, bytes.NewReader(replicatest.File(t, 2, 2, 200, 0)))
	for _, err := range []error{listErr, writeErr} {
		if re, ok := errors.AsType[*litestream.ReplicaError](err); !ok || re.Permanent {
			t.Errorf("server away: err=%v, want a ReplicaError that is not permanent", err)
		}
	}
}

// A copy of a bucket may have lost the metadata. The time is in the file too.
func TestReplicaClient_LostMetadata(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	c := newClient(t, srv.Endpoint, "p")
	for _, txid := range []ltx.TXID{5, 7} {
		srv.Put(bucket, "p/0000/"+ltx.FormatFilename(txid, txid), replicatest.File(t, txid, txid, 300, 0))
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
