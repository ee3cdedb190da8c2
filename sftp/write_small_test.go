package sftp_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
)

// TestOpenSSH_RoundTrips counts how often an upload waits for the server: each
// time costs a round trip, which may take longer than all the rest.
func TestOpenSSH_RoundTrips(t *testing.T) {
	t.Parallel()
	srv := servers.SSHD(t)
	proxy := servers.NewProxy(t, srv.Addr)
	cfg := configOf(srv, "r")
	cfg.Host = proxy.Addr
	c := newClient(t, cfg)
	replicatest.Write(t, c, 0, 1, 1, replicatest.File(t, 1, 1, 4000, 0)) // connects, and makes the folders
	const files = 50
	for _, tt := range []struct {
		name  string
		first ltx.TXID
		write func(txid ltx.TXID, data []byte) error
	}{
		{"Replace", 1000, func(txid ltx.TXID, data []byte) error {
			_, err := c.WriteLTXFile(t.Context(), 0, txid, txid, bytes.NewReader(data))
			return err
		}},
		{"Exclusive", 2000, func(txid ltx.TXID, data []byte) error {
			_, err := c.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(data))
			return err
		}},
	} {
		before := proxy.Turns()
		for i := range ltx.TXID(files) {
			if err := tt.write(tt.first+i, replicatest.File(t, tt.first+i, tt.first+i, 4000, 0)); err != nil {
				t.Fatal(err)
			}
		}
		// The connection's own housekeeping may add a few.
		if got, most := proxy.Turns()-before, 3*files+5; got > most {
			t.Errorf("%s: %d round trips for %d files, want at most %d", tt.name, got, files, most)
		}
	}
}

// TestOpenSSH_Small stores files of the sizes around those that are sent in
// another way, and expects bytes and times, and nothing else, on the server.
func TestOpenSSH_Small(t *testing.T) {
	t.Parallel()
	srv := servers.SSHD(t)
	c := newClient(t, configOf(srv, "r"))
	replicatest.Write(t, c, 0, 1, 1, replicatest.File(t, 1, 1, 200, 0))
	for i, size := range []int{200, 32 << 10, 100_000, 260_000, 300_000} {
		txid := ltx.TXID(i + 2)
		data := replicatest.File(t, txid, txid, size, uint64(i))
		info, err := c.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := replicatest.Read(t, c, 0, txid, txid, 0, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes of %d, err=%v", len(got), len(data), err)
		}
		fi, err := os.Stat(filepath.Join(levelDir(c, 0), ltx.FormatFilename(txid, txid)))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := fi.ModTime().UTC(), info.CreatedAt.Truncate(time.Second); !got.Equal(want) {
			t.Errorf("time %s, want %s", got, want)
		}
		if size > 256<<10 {
			continue // what fails there is removed by and by
		}
		// A second writer finds the name taken, and leaves nothing behind.
		_, err = c.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(data))
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("second writer of %d bytes: err=%v, want that it exists", size, err)
		}
	}
	if got, want := names(t, levelDir(c, 0)), 6; len(got) != want {
		t.Errorf("%d files, want %d: %v", len(got), want, got)
	}
}

// TestOpenSSH_SmallFails makes each step of a small file fail, and expects an
// error that says so, and that the next file goes well.
func TestOpenSSH_SmallFails(t *testing.T) {
	t.Parallel()
	srv := servers.SSHD(t)
	c := newClient(t, configOf(srv, "r"))
	write := func(txid ltx.TXID) error {
		_, err := c.WriteLTXFile(t.Context(), 0, txid, txid, bytes.NewReader(replicatest.File(t, txid, txid, 4000, 0)))
		return err
	}
	if err := write(1); err != nil {
		t.Fatal(err)
	}
	dir := levelDir(c, 0)
	if err := os.RemoveAll(dir); err != nil { // the folder is made again
		t.Fatal(err)
	}
	if err := write(2); err != nil {
		t.Fatal(err)
	}
	taken := filepath.Join(dir, ltx.FormatFilename(3, 3))
	if err := os.MkdirAll(path.Join(taken, "x"), 0o755); err != nil { // cannot be replaced
		t.Fatal(err)
	}
	if err := write(3); err == nil || !strings.Contains(err.Error(), "put") {
		t.Errorf("write over a folder: err=%v, want one of the upload", err)
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("%v, want a file and a folder only", got)
	}
	if err := write(4); err != nil {
		t.Error(err)
	}
}

func names(tb testing.TB, dir string) (names []string) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
