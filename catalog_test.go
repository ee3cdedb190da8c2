package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/catalog"
)

const testEpoch = "0123456789abcdef0123456789abcdef"

// catalogFixture is a root with a catalog of three databases, one of them deleted.
type catalogFixture struct {
	dir    string
	client *file.ReplicaClient
	log    bytes.Buffer
}

func newCatalogFixture(t *testing.T) *catalogFixture {
	t.Helper()
	f := &catalogFixture{dir: t.TempDir()}
	f.client = file.NewReplicaClient(f.dir)
	f.write(t, "!litestream/epoch", []byte(testEpoch+"\n"))
	f.writeSource(t, "a0", "h1", testEpoch, []catalog.Entry{
		{
			Path: []byte("/d/a.db"), Replica: []byte("h1/a"), TXID: 5, SyncedAt: 1000, Earliest: 900, Size: 8192,
			HasOwner: true, Owner: catalog.Owner{Mode: 0o640, UID: 7, GID: 8},
		},
		{Path: []byte("/d/b.db"), Replica: []byte("h1/b"), TXID: 1, SyncedAt: 1000, Deleted: 1100},
		{Path: []byte("/d/c\xff.db"), Replica: []byte("h1/c%FF"), TXID: 2, SyncedAt: 1, Proven: 3},
	})
	f.writeIndex(t, "a0")
	for _, replica := range []string{"h1/a", "h1/b", "h1/c%FF", "h2/a"} {
		f.write(t, replica+"/ltx/0/0000000000000001-0000000000000001.ltx", nil)
	}
	return f
}

func (f *catalogFixture) write(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(f.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *catalogFixture) writeIndex(t *testing.T, names ...string) {
	t.Helper()
	b, err := catalog.EncodeIndex(names)
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, catalog.IndexName, b)
}

// writeSource writes one catalog, each entry in a layer of its own.
func (f *catalogFixture) writeSource(t *testing.T, id, host, epoch string, entries []catalog.Entry) {
	t.Helper()
	head := &catalog.Head{Generation: 1, Epoch: epoch, Host: host, Template: "{{hostname}}/{{tenant}}", WrittenAt: time.Unix(2000, 0).UTC()}
	w := catalog.NewWriter()
	for i, e := range entries {
		w.Reset()
		if err := w.Add(&e); err != nil {
			t.Fatal(err)
		}
		b, err := w.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("1-%d", i)
		f.write(t, catalog.ObjectName(id, name), b)
		head.Layers = append(head.Layers, catalog.Layer{Segments: []catalog.Segment{catalog.NewSegment(name, b, 1)}})
	}
	b, err := catalog.EncodeHead(head)
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, catalog.HeadName(id), b)
}

func (f *catalogFixture) open(t *testing.T) (*litestream.Catalog, error) {
	t.Helper()
	f.log.Reset()
	return litestream.OpenCatalog(t.Context(), f.client, litestream.CatalogOptions{
		Logger: slog.New(slog.NewTextHandler(&f.log, nil)),
		DatabasePath: func(replica string) (string, error) {
			if host, name, ok := strings.Cut(replica, "/"); ok && host == "h1" {
				return "/d/" + name + ".db", nil
			}
			return "", errors.New("not ours")
		},
	})
}

func replicasOf(c *litestream.Catalog) (list []string) {
	for e := range c.Entries() {
		list = append(list, e.Replica)
	}
	return list
}

func TestOpenCatalog(t *testing.T) {
	f := newCatalogFixture(t)
	c, err := f.open(t)
	if err != nil {
		t.Fatal(err)
	}
	at := func(s int64) time.Time { return time.Unix(s, 0).UTC() }
	want := []litestream.CatalogEntry{
		{Path: "/d/a.db", Replica: "h1/a", Host: "h1", TXID: 5, SyncedAt: at(1000), Earliest: at(900), Size: 8192, HasOwner: true, Mode: 0o640, UID: 7, GID: 8},
		{Path: "/d/b.db", Replica: "h1/b", Host: "h1", TXID: 1, SyncedAt: at(1000), DeletedAt: at(1100)},
		{Path: "/d/c\xff.db", Replica: "h1/c%FF", Host: "h1", TXID: 2, SyncedAt: at(1), ProvenAt: at(3)},
	}
	if diff := cmp.Diff(want, slices.Collect(c.Entries())); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if c.Rebuilt() || c.Len() != 3 || f.log.Len() > 0 {
		t.Errorf("rebuilt %v, %d entries, log %q", c.Rebuilt(), c.Len(), f.log.String())
	}
	wantSources := []litestream.CatalogSource{{Host: "h1", Template: "{{hostname}}/{{tenant}}", WrittenAt: at(2000), Entries: 3}}
	if diff := cmp.Diff(wantSources, c.Sources()); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
	for range c.Entries() {
		break // which must not panic
	}
}

// Two configurations of one root: each replica comes once, the newest counts.
func TestOpenCatalog_Sources(t *testing.T) {
	f := newCatalogFixture(t)
	f.writeSource(t, "b0", "h2", testEpoch, []catalog.Entry{
		{Path: []byte("/d/a.db"), Replica: []byte("h2/a"), TXID: 9, SyncedAt: 1},
		{Path: []byte("/e/a.db"), Replica: []byte("h1/a"), TXID: 4, SyncedAt: 999},
		{Path: []byte("/e/b.db"), Replica: []byte("h1/b"), TXID: 2, SyncedAt: 1001},
	})
	f.writeIndex(t, "a0", "b0")
	c, err := f.open(t)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for e := range c.Entries() {
		got[e.Replica] = e.Host + e.Path
	}
	want := map[string]string{"h1/a": "h1/d/a.db", "h1/b": "h2/e/b.db", "h1/c%FF": "h1/d/c\xff.db", "h2/a": "h2/d/a.db"}
	if diff := cmp.Diff(want, got); diff != "" || c.Len() != 4 {
		t.Errorf("%d entries (-want +got):\n%s", c.Len(), diff)
	}
}

// TestOpenCatalog_Lost holds that whatever is missing or damaged leads to a
// listing, with one line in the log.
func TestOpenCatalog_Lost(t *testing.T) {
	remove := func(name string) func(*catalogFixture) error {
		return func(f *catalogFixture) error { return os.Remove(filepath.Join(f.dir, filepath.FromSlash(name))) }
	}
	flip := func(name string) func(*catalogFixture) error {
		return func(f *catalogFixture) error {
			path := filepath.Join(f.dir, filepath.FromSlash(name))
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(path, b, 0o600)
		}
	}
	index := func(names ...string) func(*catalogFixture) error {
		return func(f *catalogFixture) error {
			b, err := catalog.EncodeIndex(names)
			return errors.Join(err, os.WriteFile(filepath.Join(f.dir, catalog.IndexName), b, 0o600))
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(*catalogFixture) error
	}{
		{"NoIndex", remove("!litestream/catalogs")},
		{"Index", flip("!litestream/catalogs")},
		{"EmptyIndex", index()},
		{"NoHead", remove("!litestream/catalog/a0/head")},
		{"Head", flip("!litestream/catalog/a0/head")},
		{"NoBase", remove("!litestream/catalog/a0/1-0")},
		{"Base", flip("!litestream/catalog/a0/1-0")},
		{"NoDelta", remove("!litestream/catalog/a0/1-2")},
		{"Delta", flip("!litestream/catalog/a0/1-2")},
		{"NoEpoch", remove("!litestream/epoch")},
		{"Epoch", flip("!litestream/epoch")},
		{"OneOfTwo", index("a0", "b0")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newCatalogFixture(t)
			if err := tt.damage(f); err != nil {
				t.Fatal(err)
			}
			c, err := f.open(t)
			if err != nil {
				t.Fatal(err)
			}
			want := []litestream.CatalogEntry{
				{Replica: "h2/a"},
				{Path: "/d/a.db", Replica: "h1/a"},
				{Path: "/d/b.db", Replica: "h1/b"},
				{Path: "/d/c%FF.db", Replica: "h1/c%FF"},
			}
			if diff := cmp.Diff(want, slices.Collect(c.Entries())); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			if !c.Rebuilt() || c.Len() != 4 || strings.Count(f.log.String(), "\n") != 1 {
				t.Errorf("rebuilt %v, %d entries, log %q", c.Rebuilt(), c.Len(), f.log.String())
			}
		})
	}
}

// What a newer version wrote is not guessed at, and a root that cannot be read
// is not taken for one without a catalog.
func TestOpenCatalog_Refuses(t *testing.T) {
	f := newCatalogFixture(t)
	b, err := f.client.ReadObject(t.Context(), catalog.HeadName("a0"))
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, catalog.HeadName("a0"), bytes.Replace(b, []byte(" 1 "), []byte(" 2 "), 1))
	if _, err := f.open(t); !errors.Is(err, catalog.ErrVersion) || !strings.Contains(err.Error(), "use the version of litestream that wrote it") {
		t.Errorf("newer version: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := litestream.OpenCatalog(ctx, f.client, litestream.CatalogOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// A writer may replace everything between the head and the parts.
func TestOpenCatalog_Replaced(t *testing.T) {
	f := newCatalogFixture(t)
	client := &replacingClient{ReplicaClient: f.client, f: f, t: t}
	c, err := litestream.OpenCatalog(t.Context(), client, litestream.CatalogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := replicasOf(c); c.Rebuilt() || !slices.Equal(got, []string{"h1/new"}) {
		t.Errorf("rebuilt %v, entries %q", c.Rebuilt(), got)
	}
}

// replacingClient writes another catalog behind the back of a reader that knows
// the head already.
type replacingClient struct {
	*file.ReplicaClient
	f    *catalogFixture
	t    *testing.T
	done bool
}

func (c *replacingClient) ReadObject(ctx context.Context, name string) ([]byte, error) {
	if !c.done && strings.HasSuffix(name, "/1-0") {
		c.done = true
		for _, n := range []string{"1-0", "1-1", "1-2"} {
			if err := os.Remove(filepath.Join(c.f.dir, catalog.ObjectName("a0", n))); err != nil {
				c.t.Fatal(err)
			}
		}
		defer c.f.writeSource(c.t, "a0", "h1", testEpoch, []catalog.Entry{{Path: []byte("/n"), Replica: []byte("h1/new")}})
	}
	return c.ReplicaClient.ReadObject(ctx, name)
}
