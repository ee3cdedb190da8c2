package servers

import (
	"crypto/md5"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Credentials of WebDAV servers.
const (
	davUser     = "davuser"
	davPassword = "davpass"
)

// WebDAVServer is a running WebDAV server. Its methods are for the test's
// goroutine.
type WebDAVServer struct {
	Addr     string // host:port on loopback, plain http
	URL      string // such as http://127.0.0.1:21000
	Username string // empty: it asks for no credentials
	Password string
	Dir      string // what it serves, as this host sees it

	p *process
}

// Stop ends the server and waits for it. Its data stays, and its port refuses
// connections until Restart.
func (s *WebDAVServer) Stop() { s.p.stop() }

// Restart starts a stopped server again on the same port with the same data.
func (s *WebDAVServer) Restart() {
	s.p.stop()
	s.p.start()
}

// Lighttpd starts a lighttpd with mod_webdav, which asks for credentials. The
// test is skipped where it is not installed.
func Lighttpd(tb testing.TB) *WebDAVServer {
	tb.Helper()
	path := program(tb, "lighttpd")
	dir := tb.TempDir()
	s := newWebDAVServer(tb, dir)
	s.Username, s.Password = davUser, davPassword
	tmp := filepath.Join(dir, "tmp")
	mkdir(tb, tmp)
	users := writeConfig(tb, dir, "users", davUser+":"+davPassword+"\n")
	port := portOf(tb, s.Addr)
	config := writeConfig(tb, dir, "lighttpd.conf", fmt.Sprintf(`server.port = %s
server.bind = "127.0.0.1"
server.document-root = %q
server.modules = ("mod_auth", "mod_authn_file", "mod_webdav")
server.errorlog = %q
server.upload-dirs = ( %q )
auth.backend = "plain"
auth.backend.plain.userfile = %q
auth.require = ( "/" => ("method" => "basic", "realm" => "dav", "require" => "valid-user") )
webdav.activate = "enable"
webdav.sqlite-db-name = %q
`, port, s.Dir, filepath.Join(dir, "error.log"), tmp, users, filepath.Join(dir, "locks.db")))
	s.p = &process{tb: tb, name: "lighttpd", path: path, args: []string{"-D", "-f", config}, dir: dir, addr: s.Addr}
	s.p.start()
	return s
}

// Nginx starts an nginx with its own DAV module and dav-ext, which lists. The
// test is skipped where it is not installed.
func Nginx(tb testing.TB) *WebDAVServer {
	tb.Helper()
	path := program(tb, "nginx")
	const module = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so"
	if _, err := os.Stat(module); err != nil {
		missing(tb, "nginx's dav-ext module", "servers")
	}
	dir := tb.TempDir()
	s := newWebDAVServer(tb, dir)
	config := writeConfig(tb, dir, "nginx.conf", fmt.Sprintf(`load_module %s;
daemon off;
%s
worker_processes 1;
pid %s/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path %s/body;
  proxy_temp_path %s/proxy;
  fastcgi_temp_path %s/fastcgi;
  uwsgi_temp_path %s/uwsgi;
  scgi_temp_path %s/scgi;
  client_max_body_size 0;
  server {
    listen %s;
    root %s;
    location / {
      dav_methods PUT DELETE MKCOL MOVE;
      dav_ext_methods PROPFIND OPTIONS;
    }
  }
}
`, module, nginxUser(), dir, dir, dir, dir, dir, dir, s.Addr, s.Dir))
	s.p = &process{tb: tb, name: "nginx", path: path, args: []string{"-c", config, "-p", dir}, dir: dir, addr: s.Addr, family: true}
	s.p.start()
	return s
}

// nginxUser keeps the workers the user that the test is.
func nginxUser() string {
	if os.Geteuid() == 0 {
		return "user root;"
	}
	return ""
}

func newWebDAVServer(tb testing.TB, dir string) *WebDAVServer {
	tb.Helper()
	s := &WebDAVServer{Addr: freeAddr(tb), Dir: filepath.Join(dir, "data")}
	s.URL = "http://" + s.Addr
	mkdir(tb, s.Dir)
	return s
}

func writeConfig(tb testing.TB, dir, name, text string) string {
	tb.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Apache starts an Apache httpd with mod_dav, which asks for credentials in the
// clear or in a digest. The test is skipped where it is not installed.
func Apache(tb testing.TB, digest bool) *WebDAVServer {
	tb.Helper()
	path := program(tb, "apache2")
	dir := tb.TempDir()
	s := newWebDAVServer(tb, dir)
	s.Username, s.Password = davUser, davPassword
	const modules = "/usr/lib/apache2/modules"
	authType, secret := "Basic", sha1.Sum([]byte(davPassword))
	users := davUser + ":{SHA}" + base64.StdEncoding.EncodeToString(secret[:])
	if digest {
		secret := md5.Sum([]byte(davUser + ":dav:" + davPassword))
		authType, users = "Digest", davUser+":dav:"+hex.EncodeToString(secret[:])
	}
	users = writeConfig(tb, dir, "users", users+"\n")
	config := writeConfig(tb, dir, "apache.conf", fmt.Sprintf(`ServerRoot %[1]q
ServerName 127.0.0.1
Listen %[2]s
PidFile %[1]s/apache.pid
ErrorLog %[1]s/error.log
%[3]s
LoadModule mpm_event_module %[4]s/mod_mpm_event.so
LoadModule authn_core_module %[4]s/mod_authn_core.so
LoadModule authn_file_module %[4]s/mod_authn_file.so
LoadModule authz_core_module %[4]s/mod_authz_core.so
LoadModule authz_user_module %[4]s/mod_authz_user.so
LoadModule auth_basic_module %[4]s/mod_auth_basic.so
LoadModule auth_digest_module %[4]s/mod_auth_digest.so
LoadModule dav_module %[4]s/mod_dav.so
LoadModule dav_fs_module %[4]s/mod_dav_fs.so
DavLockDB %[1]s/locks
DocumentRoot %[5]s
<Directory %[5]s>
  Dav On
  AuthType %[7]s
  AuthName dav
  AuthUserFile %[6]s
  Require valid-user
</Directory>
`, dir, s.Addr, apacheUser(tb, dir, s.Dir, users), modules, s.Dir, users, authType))
	s.p = &process{tb: tb, name: "apache2", path: path, args: []string{"-D", "FOREGROUND", "-f", config}, dir: dir, addr: s.Addr, family: true}
	s.p.start()
	return s
}

// apacheUser names the user of the workers, which Apache wants not to be root,
// and gives that user what it needs of the test's folders.
func apacheUser(tb testing.TB, dir string, own ...string) string {
	tb.Helper()
	if os.Geteuid() != 0 {
		return ""
	}
	const nobody = 65534
	for _, name := range append(own, dir) {
		if err := os.Chown(name, nobody, nobody); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // the folder of one test
		tb.Fatal(err)
	}
	return fmt.Sprintf("User #%d\nGroup #%[1]d", nobody)
}

// Rclone starts rclone's WebDAV server, which asks for no credentials. The test is
// skipped where it is not installed.
func Rclone(tb testing.TB) *WebDAVServer {
	tb.Helper()
	path := program(tb, "rclone")
	dir := tb.TempDir()
	s := newWebDAVServer(tb, dir)
	s.p = &process{
		tb: tb, name: "rclone", path: path, dir: dir, addr: s.Addr,
		args: []string{
			"serve", "webdav", s.Dir, "--addr", s.Addr, "--config", writeConfig(tb, dir, "rclone.conf", ""),
			"--cache-dir", filepath.Join(dir, "cache"),
		},
	}
	s.p.start()
	return s
}
