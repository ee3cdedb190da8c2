package doctor_test

import (
	"context"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/abs"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/internal/doctor"
	"github.com/benbjohnson/litestream/internal/testutil"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/sftp"
	"github.com/benbjohnson/litestream/tests/servers"
	"github.com/benbjohnson/litestream/webdav"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8))) }

const (
	bucket = "litestream"
	folder = "some/app"
)

// s3Client returns a client whose connections are closed when the test ends.
func s3Client(tb testing.TB, cfg s3.Config) *s3.ReplicaClient {
	tb.Helper()
	pool := &s3.Pool{}
	tb.Cleanup(pool.CloseIdleConnections)
	c, err := pool.Get(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func fakeClient(tb testing.TB, f *fakeS3) *s3.ReplicaClient {
	tb.Helper()
	return s3Client(tb, s3.Config{Bucket: bucket, Path: folder, Endpoint: f.URL, AccessKeyID: "a", SecretAccessKey: "b"})
}

func run(tb testing.TB, c litestream.ReplicaClient, path string, depth doctor.Depth) *doctor.Report {
	tb.Helper()
	if err := c.Init(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return doctor.Run(tb.Context(), doctor.Options{Client: c, Path: path, Depth: depth})
}

// wantAll checks that all of a full run is there and went well.
func wantAll(t *testing.T, r *doctor.Report) {
	t.Helper()
	var names []string
	for _, c := range r.Checks {
		names = append(names, c.Name)
		if c.Status != doctor.OK || c.Text == "" || c.Advice != "" {
			t.Errorf("%+v, want ok", c)
		}
	}
	want := []string{
		"connect", "put", "list", "read", "replace", "second writer", "named objects",
		"large file", "many files", "delete", "clean up",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
	if s := r.Speed; s.PutMillis <= 0 || s.GetMillis <= 0 || s.ListMillis <= 0 || s.FilesPerS <= 0 || s.UploadMB <= 0 || s.DownloadMB <= 0 {
		t.Errorf("speed %+v, want all measured", s)
	}
}

func TestRun_S3(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *servers.S3Server{
		"Versitygw":    func(tb testing.TB) *servers.S3Server { tb.Helper(); return servers.Versitygw(tb, false) },
		"VersitygwTLS": func(tb testing.TB) *servers.S3Server { tb.Helper(); return servers.Versitygw(tb, true) },
		"Ceph":         func(tb testing.TB) *servers.S3Server { tb.Helper(); return servers.Ceph(tb, true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := start(t)
			srv.CreateBucket(bucket)
			cfg := s3.Config{
				Bucket: bucket, Path: folder, Endpoint: srv.Endpoint, Region: srv.Region,
				AccessKeyID: srv.AccessKey, SecretAccessKey: srv.SecretKey, SkipVerify: srv.CAFile != "",
			}
			c := s3Client(t, cfg)
			if name == "VersitygwTLS" {
				if r := run(t, c, folder, doctor.Quick); r.Count(doctor.OK) != len(r.Checks) {
					t.Errorf("%+v, want all ok", r.Checks)
				}
			} else {
				wantAll(t, run(t, c, folder, doctor.Full))
			}
			wantEmpty(t, c)
			if name != "Versitygw" {
				return
			}
			cfg.Bucket = "nosuchbucket"
			wantCheck(t, run(t, s3Client(t, cfg), folder, doctor.Full), "connect", doctor.Failed,
				"NoSuchBucket", "create the bucket, or correct its name, region and endpoint")
			cfg.Bucket, cfg.SecretAccessKey = bucket, "wrong"
			wantCheck(t, run(t, s3Client(t, cfg), folder, doctor.Full), "connect", doctor.Failed,
				"SignatureDoesNotMatch", "correct secret-access-key")
		})
	}
}

// wantEmpty checks by a client of its own that nothing is left.
func wantEmpty(t *testing.T, c litestream.ReplicaClient) {
	t.Helper()
	empty, err := c.(litestream.ObjectClient).Empty(t.Context())
	if err != nil || !empty {
		t.Errorf("empty=%t, err=%v after the run, want an empty place", empty, err)
	}
}

func TestRun_Azurite(t *testing.T) {
	t.Parallel()
	srv := servers.Azurite(t)
	srv.CreateContainer(bucket)
	pool := &abs.Pool{}
	t.Cleanup(pool.CloseIdleConnections)
	c, err := pool.Get(abs.Config{AccountName: srv.AccountName, AccountKey: srv.AccountKey, Endpoint: srv.Endpoint, Bucket: bucket, Path: folder})
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, run(t, c, folder, doctor.Full))
	wantEmpty(t, c)
}

func TestRun_GCS(t *testing.T) {
	srv := servers.FakeGCS(t, false)
	srv.CreateBucket(bucket)
	t.Setenv("STORAGE_EMULATOR_HOST", srv.Endpoint)
	pool := &gs.Pool{}
	t.Cleanup(pool.CloseIdleConnections)
	c, err := pool.Get(gs.Config{Bucket: bucket, Path: folder})
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, run(t, c, folder, doctor.Full))
	wantEmpty(t, c)
}

func TestRun_OpenSSH(t *testing.T) {
	t.Parallel()
	srv := servers.SSHD(t)
	pool := &sftp.Pool{}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	dir := path.Join(srv.Dir, folder)
	c, err := pool.Get(sftp.Config{Host: srv.Addr, User: srv.User, KeyPath: srv.KeyPath, HostKey: srv.HostKey, Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, run(t, c, dir, doctor.Full))
	wantEmpty(t, c)
}

func TestRun_WebDAV(t *testing.T) {
	for name, tt := range map[string]struct {
		start func(testing.TB) *servers.WebDAVServer
		weak  bool
	}{"Lighttpd": {servers.Lighttpd, false}, "Nginx": {servers.Nginx, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := tt.start(t)
			pool := &webdav.Pool{}
			t.Cleanup(pool.CloseIdleConnections)
			c, err := pool.Get(webdav.Config{URL: srv.URL, Username: srv.Username, Password: srv.Password, Path: "/" + folder})
			if err != nil {
				t.Fatal(err)
			}
			r := run(t, c, "/"+folder, doctor.Quick)
			if n := r.Count(doctor.OK); n != len(r.Checks) && !tt.weak {
				t.Errorf("%+v, want all ok", r.Checks)
			}
			if n := r.Count(doctor.Failed); n != 0 {
				t.Errorf("%+v, want no failure", r.Checks)
			}
			wantEmpty(t, c)
			if left, err := filepath.Glob(filepath.Join(srv.Dir, folder, "!litestream", "*")); err != nil || len(left) > 0 && !tt.weak {
				t.Errorf("%q are left, err=%v, want no folder", left, err)
			}
		})
	}
}

func TestRun_File(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	wantAll(t, run(t, file.NewReplicaClient(dir), dir, doctor.Full))
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v are left, err=%v, want nothing", entries, err)
	}
	locked := filepath.Join(dir, "file")
	if err := os.WriteFile(locked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, file.NewReplicaClient(locked), locked, doctor.Full)
	wantCheck(t, r, "connect", doctor.Failed, "not a directory", "")
}

// wantCheck checks what is said of one thing. Empty texts are not compared.
func wantCheck(t *testing.T, r *doctor.Report, name string, status doctor.Status, text, advice string) {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name != name {
			continue
		}
		if c.Status != status || !strings.Contains(c.Text, text) || !strings.Contains(c.Advice, advice) {
			t.Errorf("%s: %s, %q, advice %q\nwant %s, %q, advice %q", name, c.Status, c.Text, c.Advice, status, text, advice)
		}
		return
	}
	t.Errorf("no check %q in %+v", name, r.Checks)
}

// Every way a server can do wrong is told in words, and everything else is
// tried on.
func TestRun_BadServers(t *testing.T) {
	denied := func(methods ...string) func(*http.Request) (int, string) {
		return func(r *http.Request) (int, string) {
			for _, m := range methods {
				method, query, _ := strings.Cut(m, "?")
				if r.Method == method && (query == "" || r.URL.Query().Has(query)) {
					return http.StatusForbidden, "AccessDenied"
				}
			}
			return 0, ""
		}
	}
	for _, tt := range []struct {
		name   string
		set    func(*fakeS3)
		full   bool
		check  string
		status doctor.Status
		text   string
		advice string
		left   bool
	}{
		{
			name: "Good", full: true, check: "clean up", status: doctor.OK, text: "nothing is left behind",
		},
		{
			name: "IgnoresConditions", set: func(f *fakeS3) { f.ignoreConditions = true },
			check: "second writer", status: doctor.Warning,
			text:   "conditional writes are ignored by this server: a second writer may go unnoticed",
			advice: "make sure that one daemon alone writes to this path",
		},
		{
			name: "IgnoresConditionsOfObjects", set: func(f *fakeS3) { f.ignoreConditions = true },
			check: "named objects", status: doctor.Warning, text: "conditional writes are ignored by this server", advice: "one daemon alone",
		},
		{
			name: "RefusesConditions", set: func(f *fakeS3) { f.refuseConditions = true },
			check: "second writer", status: doctor.Warning,
			text:   "s3 server knows no conditional writes, a second writer of this replica may go unnoticed",
			advice: "one daemon alone",
		},
		{
			name: "LooksBeforeItWrites", set: func(f *fakeS3) {
				f.racy = func(key string) bool { return strings.Contains(key, "/0000/") && !strings.Contains(key, "0064-") }
			},
			check: "second writer", status: doctor.Warning,
			text: "of 8 writers of one file at the same time, 8 were told that they wrote it", advice: "the server looks and writes in two steps",
		},
		{
			name: "IgnoresRange", set: func(f *fakeS3) { f.ignoreRange = true },
			check: "read", status: doctor.Warning, text: "ignores the range of reads and sends whole objects",
		},
		{
			name: "DeniesDelete", set: func(f *fakeS3) { f.deny = denied("POST?delete") },
			check: "delete", status: doctor.Failed, text: "AccessDenied: told by the test",
			advice: "allow these credentials to list, get, put and delete objects in the bucket; without it old files are never removed", left: true,
		},
		{
			name: "DeniesDeleteLeft", set: func(f *fakeS3) { f.deny = denied("POST?delete") },
			check: "clean up", status: doctor.Failed, text: "files or more are left below some/app/!litestream/doctor-",
			advice: "delete the folder some/app/!litestream/doctor-", left: true,
		},
		{
			name: "DeniesPut", set: func(f *fakeS3) { f.deny = denied("PUT") },
			check: "put", status: doctor.Failed, text: "AccessDenied: told by the test", advice: "allow these credentials to list, get, put and delete",
		},
		{
			name: "DeniesGet", set: func(f *fakeS3) {
				f.deny = func(r *http.Request) (int, string) {
					if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, ".ltx") {
						return http.StatusForbidden, "AccessDenied"
					}
					return 0, ""
				}
			},
			check: "read", status: doctor.Failed, text: "AccessDenied: told by the test", advice: "allow these credentials to list, get, put and delete",
		},
		{
			name: "DeniesList", set: func(f *fakeS3) { f.deny = denied("GET?list-type") },
			check: "connect", status: doctor.Failed, text: "AccessDenied: told by the test", advice: "allow these credentials to list",
		},
		{
			name: "DeniesListPutWorks", set: func(f *fakeS3) { f.deny = denied("GET?list-type") },
			check: "put", status: doctor.OK, text: "10 files of 4 KiB",
		},
		{
			name: "DeniesMultipart", full: true, set: func(f *fakeS3) { f.deny = denied("POST?uploads") },
			check: "large file", status: doctor.Failed, text: "AccessDenied",
		},
		{
			name: "ListsOnePage", full: true, set: func(f *fakeS3) { f.firstPageOnly = true },
			check: "many files", status: doctor.Failed,
			text:   "1050 files were stored, the listing has 1000 and the first 1000 are right: it is not complete",
			advice: "a restore would miss transactions",
		},
		{
			name: "ListsWithoutToken", full: true, set: func(f *fakeS3) { f.noToken = true },
			check: "many files", status: doctor.Failed, text: "listing is cut off: no continuation token",
		},
		{
			name: "CutsLargeObjects", full: true, set: func(f *fakeS3) { f.truncate = 1 << 20 },
			check: "large file", status: doctor.Failed, text: "a large file of 17825792 bytes comes back with 1048576", advice: "nothing can be restored from it",
		},
		{
			name: "CutsSmallObjects", set: func(f *fakeS3) { f.truncate = 1000 },
			check: "list", status: doctor.Failed, text: "a file of 4096 bytes is listed with 1000: it was cut short", advice: "does not keep what it accepts",
		},
		{
			name: "ChangesBytes", set: func(f *fakeS3) { f.flip = true },
			check: "read", status: doctor.Failed, text: "a file of 4096 bytes comes back changed",
		},
		{
			name: "ReadsOldVersions", set: func(f *fakeS3) { f.stale = true },
			check: "replace", status: doctor.Failed, text: "after a file was replaced, the old one is read",
		},
		{
			name: "KeepsDeleted", set: func(f *fakeS3) { f.sticky = true },
			check: "delete", status: doctor.Failed, text: "files are still listed after they were deleted", left: true,
		},
		{
			name: "OtherClock", set: func(f *fakeS3) { f.skew = -3 * time.Hour },
			check: "list", status: doctor.Warning, text: "ahead of the storage's", advice: "set the clocks (NTP)",
		},
		{
			name: "ClockBehind", set: func(f *fakeS3) { f.skew = 3 * time.Hour },
			check: "list", status: doctor.Warning, text: "behind the storage's",
		},
		{
			name: "RefusesClock", set: func(f *fakeS3) {
				f.deny = func(*http.Request) (int, string) { return http.StatusForbidden, "RequestTimeTooSkewed" }
			},
			check: "connect", status: doctor.Failed, text: "RequestTimeTooSkewed", advice: "set this machine's clock (NTP)",
		},
		{
			name: "OtherRegion", set: func(f *fakeS3) {
				f.deny = func(*http.Request) (int, string) { return http.StatusBadRequest, "AuthorizationHeaderMalformed" }
			},
			check: "connect", status: doctor.Failed, text: "AuthorizationHeaderMalformed", advice: "set region to where the bucket lies",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeS3(t)
			if tt.set != nil {
				tt.set(f)
			}
			depth := doctor.Quick
			if tt.full {
				depth = doctor.Full
			}
			r := run(t, fakeClient(t, f), folder, depth)
			wantCheck(t, r, tt.check, tt.status, tt.text, tt.advice)
			if keys := f.keys(); len(keys) > 0 != tt.left {
				t.Errorf("left %q, want any: %t", keys, tt.left)
			}
		})
	}
}

// A bucket host that has no address asks for path style.
func TestRun_NoBucketHost(t *testing.T) {
	c := s3Client(t, s3.Config{
		Bucket: bucket, Path: folder, Endpoint: "https://storage.invalid", AccessKeyID: "a", SecretAccessKey: "b", ForcePathStyle: new(false),
	})
	r := run(t, c, folder, doctor.Full)
	wantCheck(t, r, "connect", doctor.Failed, "litestream.storage.invalid", "")
	wantCheck(t, r, "the rest", doctor.Skipped, "not tried: the storage cannot be reached", "")
	if len(r.Checks) != 2 {
		t.Errorf("%d checks, want 2: nothing was written", len(r.Checks))
	}
}

// Deletes that nobody wants are no failure.
func TestRun_KeepsFiles(t *testing.T) {
	f := newFakeS3(t)
	f.sticky = true
	r := doctor.Run(t.Context(), doctor.Options{Client: fakeClient(t, f), Path: folder, Depth: doctor.Quick, KeepsFiles: true})
	wantCheck(t, r, "delete", doctor.Warning, "files cannot be deleted, which this configuration does not want either (retention.enabled: false)", "")
	wantCheck(t, r, "clean up", doctor.Warning, "are left below some/app/!litestream/doctor-", "delete the folder")
	if n := r.Count(doctor.Failed); n != 0 {
		t.Errorf("%d checks failed, want none", n)
	}
}

// A run that is interrupted at any request leaves nothing behind.
func TestRun_Interrupted(t *testing.T) {
	for _, after := range []int{3, 20, 60, 120, 700} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			f := newFakeS3(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			requests := make(chan struct{}, after)
			f.before = func(*http.Request) {
				select {
				case requests <- struct{}{}:
				default:
					cancel()
				}
			}
			r := doctor.Run(ctx, doctor.Options{Client: fakeClient(t, f), Path: folder})
			last := r.Checks[len(r.Checks)-1]
			if last.Name != "clean up" || last.Status != doctor.OK {
				t.Errorf("last check %+v, want a clean up that went well", last)
			}
			wantCheck(t, r, "the rest", doctor.Skipped, "not tried: interrupted", "")
			if keys := f.keys(); len(keys) > 0 {
				t.Errorf("left %d objects, such as %q", len(keys), keys[0])
			}
		})
	}
}

// A client of one path only is tried through its named objects.
func TestRun_OnePath(t *testing.T) {
	c := testutil.NewMemClient()
	r := doctor.Run(t.Context(), doctor.Options{Client: c})
	wantCheck(t, r, "named objects", doctor.OK, "", "")
	wantCheck(t, r, "clean up", doctor.OK, "", "")
	wantEmpty(t, c)
}

// The scratch folder of a whole bucket lies at its top.
func TestRun_Paths(t *testing.T) {
	for path, want := range map[string]string{"": "!litestream/doctor-", ".": "!litestream/doctor-", "a/": "a/!litestream/doctor-", "a/b": "a/b/!litestream/doctor-"} {
		f := newFakeS3(t)
		f.sticky = true
		cfg := s3.Config{Bucket: bucket, Path: path, Endpoint: f.URL, AccessKeyID: "a", SecretAccessKey: "b"}
		doctor.Run(t.Context(), doctor.Options{Client: s3Client(t, cfg), Path: path, Depth: doctor.Brief})
		for _, key := range f.keys() {
			if !strings.HasPrefix(key, want) {
				t.Errorf("path %q: wrote %q, want %s…", path, key, want)
			}
		}
	}
}
