package webdav_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
	"github.com/benbjohnson/litestream/webdav"
)

// dav is as much of a server as writes and reads need, with no folders.
type dav struct {
	heeds func() bool // whether a move is to heed "Overwrite: F"; nil: always

	mu    sync.Mutex
	files map[string][]byte
	moves int
}

func newDAV(heeds func() bool) *dav { return &dav{heeds: heeds, files: map[string][]byte{}} }

func (d *dav) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	data, ok := d.files[r.URL.Path]
	switch {
	case r.Method == http.MethodPut:
		d.files[r.URL.Path] = body
		w.WriteHeader(http.StatusCreated)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodHead:
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	case r.Method == http.MethodGet:
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data)
	case r.Method == http.MethodDelete:
		delete(d.files, r.URL.Path)
	case r.Method == "MOVE":
		d.moves++
		to, err := url.Parse(r.Header.Get("Destination"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if _, there := d.files[to.Path]; there && r.Header.Get("Overwrite") == "F" && (d.heeds == nil || d.heeds()) {
			w.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		d.files[to.Path] = data
		delete(d.files, r.URL.Path)
		w.WriteHeader(http.StatusCreated)
	}
}

// TestExamine looks once per server whether exclusive writes of the same moment
// have one winner, warns if they have not, and leaves nothing behind.
func TestExamine(t *testing.T) {
	t.Parallel()
	var moves int
	for name, tt := range map[string]struct {
		heeds func() bool
		warns int
		moves int // of the examination
	}{
		"heeds":     {nil, 0, 16},
		"ignores":   {func() bool { return false }, 1, 4},
		"by chance": {func() bool { moves++; return moves != 5 }, 1, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDAV(tt.heeds)
			srv := httptest.NewServer(d)
			t.Cleanup(srv.Close)
			log := &counter{}
			base := newClient(t, webdav.Config{URL: srv.URL, Path: "p"})
			base.SetLogger(slog.New(log))
			for i := range 3 {
				c := base.WithPrefix(fmt.Sprintf("p%d", i)).(litestream.ExclusiveWriter)
				if _, err := c.WriteLTXFileExclusive(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, 200, 0))); err != nil {
					t.Fatal(err)
				}
			}
			if got := log.count(); got != tt.warns {
				t.Errorf("%d warnings, want %d", got, tt.warns)
			}
			if got := d.moves - 3; got != tt.moves {
				t.Errorf("%d moves to examine the server, want %d", got, tt.moves)
			}
			if len(d.files) != 3 {
				t.Errorf("%d files are left, want 3", len(d.files))
			}
		})
	}
}

// TestExamine_Servers finds nothing wrong with servers that are right.
func TestExamine_Servers(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *servers.WebDAVServer{"lighttpd": servers.Lighttpd, "rclone": servers.Rclone} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &counter{}
			c := newClient(t, configOf(start(t), "r"))
			c.SetLogger(slog.New(log))
			if _, err := c.WriteLTXFileExclusive(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, 200, 0))); err != nil {
				t.Fatal(err)
			}
			if log.count() != 0 {
				t.Error("warned")
			}
		})
	}
}

// counter counts the warnings of a log.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *counter) Enabled(context.Context, slog.Level) bool { return true }
func (c *counter) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c *counter) WithGroup(string) slog.Handler            { return c }

func (c *counter) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Level >= slog.LevelWarn && strings.Contains(r.Message, "replaces a file") {
		c.n++
	}
	return nil
}
