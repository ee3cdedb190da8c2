package abs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/abs"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
)

// TestReplicaClient_Azurite shares one server, which takes seconds to start.
func TestReplicaClient_Azurite(t *testing.T) {
	t.Parallel()
	srv := servers.Azurite(t)
	srv.CreateContainer(bucket)
	for name, test := range map[string]func(*testing.T, *servers.AzureServer){
		"Contract": testContract, "CutUpload": testCutUpload, "CutDownload": testCutDownload, "LostAnswer": testLostAnswer,
		"Refusals": testRefusals, "LostMetadata": testLostMetadata, "SAS": testSAS, "TwoWriters": testTwoWriters,
		"Purge": testPurge, "PurgeSnapshots": testPurgeSnapshots,
	} {
		t.Run(name, func(t *testing.T) { test(t, srv) })
	}
	t.Run("ServerAway", func(t *testing.T) { testServerAway(t, srv) })
}

// serverClient returns a client of a path on the server, or on a proxy of it.
func serverClient(tb testing.TB, srv *servers.AzureServer, p *servers.HTTPProxy, path string, set ...func(*abs.Options)) *abs.ReplicaClient {
	tb.Helper()
	endpoint := srv.Endpoint
	if p != nil {
		endpoint = p.URL + "/" + srv.AccountName
	}
	return newClient(tb, endpoint, path, append([]func(*abs.Options){func(o *abs.Options) {
		o.AccountName, o.AccountKey = srv.AccountName, srv.AccountKey
	}}, set...)...)
}

func smallBlocks(o *abs.Options) { o.BlockSize = 256 << 10 }

func testContract(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	plain := srv.Container(bucket)
	var n atomic.Int64
	const blockSize = 1 << 20
	replicatest.Run(t, func(tb testing.TB) litestream.ReplicaClient {
		tb.Helper()
		return serverClient(tb, srv, nil, fmt.Sprintf("some/db%d", n.Add(1)), func(o *abs.Options) { o.BlockSize = blockSize })
	}, replicatest.Options{
		PartSize: blockSize,
		Quick:    true,
		Base:     func(testing.TB) string { return fmt.Sprintf("base%d", n.Add(1)) },
		Foreign: replicatest.Foreign{
			Put: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) {
				tb.Helper()
				put(tb, srv, foreignKey(c, level, name), []byte("x"))
			},
			Has: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) bool {
				tb.Helper()
				_, err := plain.NewBlobClient(foreignKey(c, level, name)).GetProperties(tb.Context(), nil)
				return err == nil
			},
		},
	})
}

func foreignKey(c litestream.ReplicaClient, level int, name string) string {
	return fmt.Sprintf("%s/ltx/%d/%s", c.(*abs.ReplicaClient).Path, level, name)
}

// put stores a blob past the client.
func put(tb testing.TB, srv *servers.AzureServer, key string, content []byte) {
	tb.Helper()
	_, err := srv.Container(bucket).NewBlockBlobClient(key).Upload(tb.Context(), streaming.NopCloser(bytes.NewReader(content)), nil)
	if err != nil {
		tb.Fatal(err)
	}
}

// stream hides that a source can be read at any place.
func stream(b []byte) io.Reader { return io.MultiReader(bytes.NewReader(b)) }

func testCutUpload(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	data := replicatest.File(t, 1, 1, 1<<20+12345, 0)
	for name, set := range map[string]func(*abs.Options){"Single": func(*abs.Options) {}, "Blocks": smallBlocks} {
		for kindName, kind := range map[string]servers.HTTPFault{"Cut": servers.BreakUpload, "Lost": servers.Lose, "Storm": storm} {
			p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
			c := serverClient(t, srv, p, "cut/"+name+kindName, set)
			for txid, source := range []io.Reader{bytes.NewReader(data), stream(data)} {
				txid := ltx.TXID(txid + 1)
				p.Break(servers.Next(2, servers.Method("PUT"), kind))
				info, err := c.WriteLTXFile(t.Context(), 0, txid, txid, source)
				if err != nil || info.Size != int64(len(data)) || p.Hits() != 2 {
					t.Fatalf("%s %s: info=%v err=%v, fault met %d times", name, kindName, info, err, p.Hits())
				}
				if got, err := replicatest.Read(t, c, 0, txid, txid, 0, 0); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s %s: read %d bytes, err=%v, want the %d written", name, kindName, len(got), err, len(data))
				}
			}
			p.Break(servers.Next(1<<40, servers.Method("PUT"), servers.BreakUpload))
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if _, err := c.WriteLTXFile(ctx, 0, 9, 9, bytes.NewReader(data)); err == nil || litestream.IsPermanent(err) {
				t.Errorf("every request breaks: err=%v, want one that is not permanent", err)
			}
			cancel()
			if a := replicatest.List(t, c, 0, 9, false); len(a) != 0 {
				t.Errorf("listed %v after a failed upload, want nothing", a)
			}
		}
	}
}

func testCutDownload(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
	c := serverClient(t, srv, p, "download", func(o *abs.Options) { o.ResponseTimeout = time.Second })
	replicatest.BrokenDownload(t, c, map[string]func(){
		"Cut":     func() { p.Break(servers.Next(1, servers.Method("GET"), servers.BreakDownload)) },
		"Stalled": func() { p.Break(servers.Next(1, servers.Method("GET"), servers.StallDownload)) },
	})
	data := replicatest.File(t, 1, 1, 1<<20, 0)
	for _, set := range []func(*abs.Options){func(*abs.Options) {}, smallBlocks} {
		c := serverClient(t, srv, p, "flip", set)
		replicatest.Write(t, c, 0, 2, 2, data)
		p.Break(servers.Next(1, servers.Method("GET"), servers.FlipDownload))
		if _, err := replicatest.Read(t, c, 0, 2, 2, 0, 0); err == nil || !strings.Contains(err.Error(), "checksum") {
			t.Errorf("a flipped bit: err=%v, want one about the checksum", err)
		}
		if got, err := replicatest.Read(t, c, 0, 2, 2, 0, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("after the faults: read %d bytes, err=%v", len(got), err)
		}
	}
}

// The repeated request of an exclusive write finds the first one's blob. That is
// reported: the caller compares.
func testLostAnswer(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
	c := serverClient(t, srv, p, "lost")
	data := replicatest.File(t, 2, 2, 1000, 0)
	p.Break(servers.Next(1, servers.Method("PUT"), servers.Lose))
	_, err := c.WriteLTXFileExclusive(t.Context(), 0, 2, 2, bytes.NewReader(data))
	if !errors.Is(err, fs.ErrExist) || p.Hits() != 1 {
		t.Errorf("exclusive write: err=%v, want fs.ErrExist", err)
	}
	if got, err := replicatest.Read(t, c, 0, 2, 2, 0, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("exclusive write: read %d bytes, err=%v, want our own", len(got), err)
	}
}

func testRefusals(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	for name, tt := range map[string]struct {
		set  func(*abs.Options)
		code string
	}{
		"Key":       {func(o *abs.Options) { o.AccountKey = accountKey }, "AuthorizationFailure AuthenticationFailed"},
		"Container": {func(o *abs.Options) { o.Bucket = "nosuchcontainer" }, "ContainerNotFound"},
		"SAS": {func(o *abs.Options) {
			o.SASToken = "?sv=2020-08-04&ss=b&srt=co&sp=rwdlc&se=2030-01-01T00:00:00Z&sig=geheim"
		}, "AuthorizationFailure AuthenticationFailed"},
	} {
		c := serverClient(t, srv, nil, "p", tt.set)
		errs := make(map[string]error)
		_, errs["list"] = c.LTXFiles(t.Context(), 0, 0, false)
		_, errs["get"] = c.OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
		_, errs["put"] = c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, 200, 0)))
		errs["delete"] = c.DeleteLTXFiles(t.Context(), []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}})
		for op, err := range errs {
			re, ok := errors.AsType[*litestream.ReplicaError](err)
			if !ok {
				t.Errorf("%s %s: err=%v, want a ReplicaError", name, op, err)
				continue
			}
			if !re.Permanent || re.Hint == "" || re.Bucket == "" || re.Key == "" || re.Code == "" || !strings.Contains(tt.code, re.Code) {
				t.Errorf("%s %s: %v, want a permanent error with hint, container, key and code %s", name, op, re, tt.code)
			}
			if errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s %s: %v looks like a missing file, has a secret or several lines", name, op, err)
			}
		}
	}
}

// A copy of a container may have lost the metadata. The time is in the file too.
func testLostMetadata(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	c := serverClient(t, srv, nil, "meta")
	for _, txid := range []ltx.TXID{5, 7} {
		put(t, srv, "meta/ltx/0/"+ltx.FormatFilename(txid, txid), replicatest.File(t, txid, txid, 300, 0))
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

// A token in place of the key can do all that is needed.
func testSAS(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	c := serverClient(t, srv, nil, "sas", smallBlocks, func(o *abs.Options) {
		o.SASToken, o.AccountKey = containerSAS(t, srv), ""
	})
	for i, n := range []int{200, 1 << 20} {
		txid := ltx.TXID(i + 1)
		data := replicatest.File(t, txid, txid, n, 0)
		replicatest.Write(t, c, 0, txid, txid, data)
		if got, err := replicatest.Read(t, c, 0, txid, txid, 0, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes, err=%v, want the %d written", len(got), err, n)
		}
	}
	if got := len(replicatest.List(t, c, 0, 0, true)); got != 2 {
		t.Errorf("listed %d files, want 2", got)
	}
	if err := c.DeleteAll(t.Context()); err != nil {
		t.Error(err)
	}
}

// Of two that store one blob in blocks at the same time, neither mixes into the
// other's, and one wins.
func testTwoWriters(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	c := serverClient(t, srv, nil, "two", smallBlocks)
	mine, theirs := replicatest.File(t, 1, 1, 1<<20, 1), replicatest.File(t, 1, 1, 1<<20, 2)
	var between error
	r := io.MultiReader(bytes.NewReader(mine[:600<<10]), readFunc(func() {
		_, between = c.WriteLTXFileExclusive(t.Context(), 0, 1, 1, bytes.NewReader(theirs))
	}), bytes.NewReader(mine[600<<10:]))
	if _, err := c.WriteLTXFileExclusive(t.Context(), 0, 1, 1, r); !errors.Is(err, fs.ErrExist) || between != nil {
		t.Errorf("the second: err=%v, want fs.ErrExist; the first: %v", err, between)
	}
	if got, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err != nil || !bytes.Equal(got, theirs) {
		t.Errorf("read %d bytes, err=%v, want the winner's", len(got), err)
	}
}

type readFunc func()

func (f readFunc) Read([]byte) (int, error) { f(); return 0, io.EOF }

func testServerAway(t *testing.T, srv *servers.AzureServer) {
	t.Helper()
	c := serverClient(t, srv, nil, "away")
	replicatest.Outage(t, c, time.Second, srv.Stop, srv.Restart)
}
