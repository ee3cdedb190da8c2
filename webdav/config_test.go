package webdav_test

import (
	"strings"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/webdav"
)

func TestConfig_WithURL(t *testing.T) {
	for url, want := range map[string][5]string{ // server, user, password, path, location
		"webdav://h/some/path":                {"http://h", "", "", "/some/path", "webdav://h/some/path"},
		"webdavs://h:8443/p":                  {"https://h:8443", "", "", "/p", "webdavs://h:8443/p"},
		"WEBDAVS://u:geheim@h/p":              {"https://h", "u", "geheim", "/p", "webdavs://h/p"},
		"webdav://u%40x:ge%2Fheim@h/a//b/../": {"http://h", "u@x", "ge/heim", "/a", "webdav://h/a"},
		"webdav://u@h/c%20d":                  {"http://h", "u", "", "/c d", "webdav://h/c d"},
		"webdav://[::1]:80/p?x=y":             {"http://[::1]:80", "", "", "/p", "webdav://[::1]:80/p"},
		"webdav://h":                          {"http://h", "", "", ".", "webdav://h/"},
	} {
		cfg, err := webdav.Config{}.WithURL(url)
		if err != nil {
			t.Fatal(err)
		}
		c, err := cfg.NewReplicaClient()
		if err != nil {
			t.Fatal(err)
		}
		if got := [5]string{c.URL, c.Username, c.Password, c.Path, c.Location()}; got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
		other, err := litestream.NewReplicaClientFromURL(url)
		if err != nil {
			t.Fatal(err)
		}
		if got := other.(*webdav.ReplicaClient).Location(); got != want[4] {
			t.Errorf("%s: factory leads to %s, want %s", url, got, want[4])
		}
	}
	for url, want := range map[string]string{
		"webdav:///p": "host required", "s3://b/p": "not a webdav URL", "webdav://u:geheim@/p": "host required",
	} {
		_, err := webdav.Config{}.WithURL(url)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: err=%v, want %q in it", url, err, want)
		}
	}

	// The URL's user wins; without one the keys count.
	keys := webdav.Config{Username: "key", Password: "kp"}
	for url, want := range map[string][2]string{"webdav://h/p": {"key", "kp"}, "webdav://u:p@h/p": {"u", "p"}} {
		cfg, err := keys.WithURL(url)
		if got := [2]string{cfg.Username, cfg.Password}; err != nil || got != want {
			t.Errorf("%s beside keys: %q, err=%v, want %q", url, got, err, want)
		}
	}
}

// Keys lead to the same place as a URL, also where the server's URL has a path or
// a user of its own.
func TestConfig_Options(t *testing.T) {
	for _, tt := range []struct {
		cfg  webdav.Config
		want [4]string // server, user, password, location
		err  string    // in the error; empty: none
	}{
		{webdav.Config{URL: "https://h/files/", Path: "a/b"}, [4]string{"https://h/files/", "", "", "webdavs://h/files/a/b"}, ""},
		{webdav.Config{URL: "http://u:geheim@h", Path: "/p"}, [4]string{"http://h", "u", "geheim", "webdav://h/p"}, ""},
		{webdav.Config{URL: "http://u:geheim@h", Username: "key", Password: "kp"}, [4]string{"http://h", "key", "kp", "webdav://h/"}, ""},
		{webdav.Config{}, [4]string{}, "webdav-url required"},
		{webdav.Config{URL: "ftp://u:geheim@h"}, [4]string{}, "invalid webdav-url"},
		{webdav.Config{URL: "http://u:geheim@h:x"}, [4]string{}, "invalid webdav-url"},
		{webdav.Config{URL: "h/geheim"}, [4]string{}, "invalid webdav-url"},
		{webdav.Config{URL: "http://h", MaxConns: -1}, [4]string{}, "number of connections"},
	} {
		c, err := tt.cfg.NewReplicaClient()
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "geheim") {
				t.Errorf("%q: err=%v, want %q in it", tt.cfg.URL, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := [4]string{c.URL, c.Username, c.Password, c.Location()}; got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.cfg, got, tt.want)
		}
	}
}

func FuzzWithURL(f *testing.F) {
	for _, s := range []string{"webdav://u:p@h/p", "webdavs://h", "webdav://h/%2f..", "webdav://:1/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cfg, err := webdav.Config{}.WithURL(s)
		if err != nil {
			return
		}
		if c, err := cfg.NewReplicaClient(); err == nil {
			_ = c.Init(t.Context()) // must not panic
			_ = c.Location()
		}
	})
}
