package sftp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superfly/ltx"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/sftp"
	"github.com/benbjohnson/litestream/tests/servers"
)

// TestWeakServer uses a server that can do nothing beside the protocol's own
// requests: everything works but that a second writer may go unnoticed, which
// is said once.
func TestWeakServer(t *testing.T) {
	srv := startWeak(t)
	var log bytes.Buffer
	c := newClient(t, srv.config(inDir(t, "r")))
	c.SetLogger(slog.New(slog.NewTextHandler(&log, nil)))
	for i := range 3 {
		for _, n := range []int{300, 100_000, 1_000_000} {
			data := replicatest.File(t, 1, 1, n, uint64(i))
			replicatest.Write(t, c, 0, 1, 1, data)
			if got, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("read %d bytes of %d, err=%v", len(got), n, err)
			}
		}
	}
	for txid := ltx.TXID(1); txid <= 2; txid++ {
		_, err := c.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(replicatest.File(t, txid, txid, 200, 9)))
		if got, want := errors.Is(err, fs.ErrExist), txid == 1; got != want || (err != nil) != want {
			t.Errorf("exclusive write of %s: err=%v", txid, err)
		}
	}
	if n := strings.Count(log.String(), "second writer"); n != 1 {
		t.Errorf("%d warnings about exclusive writes, want 1:\n%s", n, log.String())
	}
	var wg sync.WaitGroup // more at a time than the one session that the server allows
	for i := range 20 {
		txid := ltx.TXID(100 + i)
		data := replicatest.File(t, txid, txid, 500, 0)
		wg.Go(func() {
			if _, err := c.WriteLTXFile(t.Context(), 0, txid, txid, bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := len(replicatest.List(t, c, 0, 100, true)); got != 20 {
		t.Errorf("%d files, want 20", got)
	}
	if n := srv.loginN(); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
}

// TestRefused names what is wrong and what to do, and makes no second attempt.
func TestRefused(t *testing.T) {
	srv := startWeak(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(srv.hostKey))
	if err != nil {
		t.Fatal(err)
	}
	other := startWeak(t)
	otherKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(other.hostKey))
	if err != nil {
		t.Fatal(err)
	}
	badKey := filepath.Join(home, "bad")
	if err := os.WriteFile(badKey, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		known ssh.PublicKey
		set   func(cfg *sftp.Config)
		want  []string // none: it works
	}{
		{"HostKey", nil, func(*sftp.Config) {}, nil},
		{"Fingerprint", nil, func(cfg *sftp.Config) { cfg.HostKey = ssh.FingerprintSHA256(key) }, nil},
		{"Any", nil, func(cfg *sftp.Config) { cfg.HostKey = sftp.AnyHostKey }, nil},
		{"Known", key, func(cfg *sftp.Config) { cfg.HostKey = "" }, nil},
		{"Unknown", nil, func(cfg *sftp.Config) { cfg.HostKey = "" }, []string{"is not known", ssh.FingerprintSHA256(key), "set host-key"}},
		{"Changed", otherKey, func(cfg *sftp.Config) { cfg.HostKey = "" }, []string{"is not the one that is known", "somebody may stand between"}},
		{"OtherHostKey", nil, func(cfg *sftp.Config) { cfg.HostKey = other.hostKey }, []string{"is not the one that is known"}},
		{"OtherFingerprint", nil, func(cfg *sftp.Config) { cfg.HostKey = ssh.FingerprintSHA256(otherKey) }, []string{"is not the one that is known"}},
		{"Password", nil, func(cfg *sftp.Config) { cfg.Password = "secret-guess" }, []string{"unable to authenticate", "check user, password"}},
		{"NoCredential", nil, func(cfg *sftp.Config) { cfg.Password = "" }, []string{"unable to authenticate"}},
		{"MissingKey", nil, func(cfg *sftp.Config) { cfg.KeyPath = "/nowhere/key" }, []string{"/nowhere/key", "correct key-path"}},
		{"BadKey", nil, func(cfg *sftp.Config) { cfg.KeyPath = badKey }, []string{badKey, "set key-path"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(home, ".ssh", "known_hosts")
			line := ""
			if tt.known != nil {
				line = knownhosts.Line([]string{srv.addr}, tt.known) + "\n"
			}
			if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := srv.config(inDir(t, "r"))
			tt.set(&cfg)
			c := newClient(t, cfg)
			began := time.Now()
			_, err := c.LTXFiles(t.Context(), 0, 0, false)
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !litestream.IsPermanent(err) {
				t.Errorf("err=%v, want a permanent one", err)
			}
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("err=%v, want %q in it", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "secret-guess") {
				t.Errorf("the password is in %v", err)
			}
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

// TestOpenSSH_Permission names a folder that may not be written to.
func TestOpenSSH_Permission(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	srv := servers.SSHD(t)
	if err := os.Chmod(srv.Dir, 0o500); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, configOf(srv, "r"))
	_, err := c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, 200, 0)))
	if !errors.Is(err, fs.ErrPermission) || !litestream.IsPermanent(err) {
		t.Errorf("err=%v, want a permanent fs.ErrPermission", err)
	}
}

// TestOpenSSH_Names leaves nothing but the files, with the times of their
// headers, and does not replace what is there.
func TestOpenSSH_Names(t *testing.T) {
	t.Parallel()
	srv := servers.SSHD(t)
	c := newClient(t, configOf(srv, "r"))
	var log bytes.Buffer
	c.SetLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for _, n := range []int{200, 40_000, 1_500_000} {
		txid := ltx.TXID(n)
		if _, err := c.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(replicatest.File(t, txid, txid, n, 0))); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(srv.Dir, "r", "ltx", "0"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		minTXID, _, err := ltx.ParseFilename(entry.Name())
		fi, statErr := entry.Info()
		if err != nil || statErr != nil {
			t.Errorf("left behind: %s", entry.Name())
			continue
		}
		if want := replicatest.TimeOf(minTXID).Truncate(time.Second); !fi.ModTime().Equal(want) {
			t.Errorf("%s: time %s, want %s", entry.Name(), fi.ModTime(), want)
		}
	}
	if len(entries) != 3 {
		t.Errorf("%d files, want 3", len(entries))
	}
	if strings.Contains(log.String(), "does not sync folders") || !strings.Contains(log.String(), "connection open") {
		t.Errorf("log:\n%s", log.String())
	}
}

// TestOpenSSH_Cut cuts the connection after a random number of bytes, again
// and again. Whatever was acknowledged is there, whole, and nothing else.
func TestOpenSSH_Cut(t *testing.T) {
	t.Parallel()
	srv := servers.SSHD(t)
	proxy := servers.NewProxy(t, srv.Addr)
	cfg := configOf(srv, "r")
	cfg.Host = proxy.Addr
	c := newClient(t, cfg)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	rounds := 40
	if testing.Short() {
		rounds = 15
	}
	acked := map[ltx.TXID][]byte{}
	failed := 0
	for i := range rounds {
		txid := ltx.TXID(i + 1)
		data := replicatest.File(t, txid, txid, 200+rnd.IntN(400_000), 0)
		proxy.CutAfter(1 + rnd.Int64N(2*int64(len(data))))
		var r io.Reader = bytes.NewReader(data)
		if i%3 == 0 {
			r = io.MultiReader(r) // cannot be sent again
		}
		if _, err := c.WriteLTXFile(t.Context(), 0, txid, txid, r); err != nil {
			failed++
			if litestream.IsPermanent(err) {
				t.Errorf("%v is permanent", err)
			}
		} else {
			acked[txid] = data
		}
		proxy.CutAfter(1 + rnd.Int64N(2*int64(len(data))))
		got, err := replicatest.Read(t, c, 0, txid, txid, 0, 0)
		switch {
		case err != nil && acked[txid] == nil && errors.Is(err, fs.ErrNotExist):
		case err != nil:
			t.Errorf("read %s: %v", txid, err)
		case !bytes.Equal(got, data):
			t.Errorf("read %s: %d bytes, want %d", txid, len(got), len(data))
		}
	}
	proxy.CutAfter(-1)
	for _, info := range replicatest.List(t, c, 0, 0, true) {
		delete(acked, info.MinTXID)
	}
	if len(acked) > 0 {
		t.Errorf("%d acknowledged files are missing", len(acked))
	}
	if failed > rounds/2 || proxy.Cuts() < rounds/2 {
		t.Errorf("%d of %d writes failed at %d cuts", failed, rounds, proxy.Cuts())
	}
	t.Logf("%d cuts, %d of %d writes failed", proxy.Cuts(), failed, rounds)
}

// TestOpenSSH_Hang stops all bytes. A canceled request ends at once, one that
// waits ends after the response timeout, and work goes on when bytes flow. Only
// who asks the silent server is impatient: on a busy machine one that answers is
// slow, too.
func TestOpenSSH_Hang(t *testing.T) {
	t.Parallel()
	srv := servers.SSHD(t)
	proxy := servers.NewProxy(t, srv.Addr)
	cfg := configOf(srv, "r")
	cfg.Host = proxy.Addr
	c := newClient(t, cfg)
	impatient := newClient(t, cfg, func(o *sftp.Options) { o.ResponseTimeout, o.DialTimeout = 300*time.Millisecond, 300*time.Millisecond })
	data := replicatest.File(t, 1, 1, 3_000_000, 0)
	replicatest.Write(t, c, 0, 1, 1, data)
	rc, err := c.OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
	if err != nil {
		t.Fatal(err)
	}

	proxy.Hang()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.LTXFiles(ctx, 0, 0, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err=%v, want context.DeadlineExceeded", err)
	}
	if _, err := c.WriteLTXFile(ctx, 0, 2, 2, bytes.NewReader(data)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err=%v, want context.DeadlineExceeded", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := impatient.LTXFiles(ctx, 0, 0, false); err == nil || ctx.Err() != nil || litestream.IsPermanent(err) {
		t.Errorf("a server that never answers: err=%v", err)
	}
	proxy.Cut()
	proxy.Resume()
	got, err := io.ReadAll(rc) // goes on over a new connection
	if err := errors.Join(err, rc.Close()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read on: %d bytes of %d, err=%v", len(got), len(data), err)
	}
	if got := len(replicatest.List(t, c, 0, 0, false)); got != 1 {
		t.Errorf("%d files, want 1", got)
	}
}

// TestOpenSSH_Restart ends the server under load and starts it again.
func TestOpenSSH_Restart(t *testing.T) {
	t.Parallel()
	srv := servers.SSHD(t)
	c := newClient(t, configOf(srv, "r"))
	replicatest.Write(t, c, 0, 1, 1, replicatest.File(t, 1, 1, 200, 0))
	var wg sync.WaitGroup
	started := make(chan struct{}, 8)
	for i := range 8 {
		txid := ltx.TXID(i + 2)
		data := replicatest.File(t, txid, txid, 2_000_000, 0)
		wg.Go(func() {
			started <- struct{}{}
			if _, err := c.WriteLTXFile(t.Context(), 0, txid, txid, bytes.NewReader(data)); err != nil {
				t.Errorf("write %s: %v", txid, err)
			}
		})
	}
	<-started
	srv.Restart()
	wg.Wait()
	if got := len(replicatest.List(t, c, 0, 0, false)); got != 9 {
		t.Errorf("%d files, want 9", got)
	}

	srv.Stop()
	_, err := c.LTXFiles(t.Context(), 0, 0, false)
	if err == nil || litestream.IsPermanent(err) {
		t.Errorf("a server that is away: err=%v, want a passing one", err)
	}
	srv.Restart()
	if got := len(replicatest.List(t, c, 0, 0, false)); got != 9 {
		t.Errorf("%d files, want 9", got)
	}
}

// TestSweep removes what a crash left, once the process has written itself.
func TestSweep(t *testing.T) {
	t.Parallel()
	srv := servers.SSHD(t)
	c := newClient(t, configOf(srv, "r"))
	replicatest.Sweep(t, c, path.Join(srv.Dir, "r", "ltx", "0"))
}
