package servers

import (
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
