package servers

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// SFTPServer is a running OpenSSH server that the test's own user logs in to.
// Its methods are for the test's goroutine.
type SFTPServer struct {
	Addr    string // host:port on loopback
	User    string
	KeyPath string // private key that may log in
	HostKey string // the server's, as in authorized_keys
	Dir     string // an empty folder, by the name that server and test know

	p *process
}

// SSHD starts an OpenSSH server. The test is skipped where it is not installed.
func SSHD(tb testing.TB) *SFTPServer {
	tb.Helper()
	path, keygen := program(tb, "sshd"), program(tb, "ssh-keygen")
	me, err := user.Current()
	if err != nil {
		tb.Fatal(err)
	}
	if os.Geteuid() == 0 {
		mkdir(tb, "/run/sshd") // where it locks itself in before the login
	}
	dir := tb.TempDir()
	s := &SFTPServer{
		Addr: freeAddr(tb), User: me.Username,
		KeyPath: filepath.Join(dir, "client"), Dir: filepath.Join(dir, "data"),
	}
	mkdir(tb, s.Dir)
	for _, name := range []string{"host", "client"} {
		run(tb, keygen, "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", filepath.Join(dir, name))
	}
	key, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		tb.Fatal(err)
	}
	s.HostKey = strings.TrimSpace(string(key))
	port := portOf(tb, s.Addr)
	config := filepath.Join(dir, "sshd_config")
	text := fmt.Sprintf(`ListenAddress 127.0.0.1
Port %s
HostKey %s
PidFile none
AuthorizedKeysFile %s.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
MaxStartups 100
Subsystem sftp internal-sftp
`, port, filepath.Join(dir, "host"), s.KeyPath)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	// Each connection has a process of its own, which outlives the first one.
	s.p = &process{tb: tb, name: "sshd", path: path, args: []string{"-D", "-e", "-f", config}, dir: dir, addr: s.Addr, family: true}
	s.p.start()
	return s
}

// Stop ends the server and all connections to it, and waits for it. Its data
// stays, and its port refuses connections until Restart.
func (s *SFTPServer) Stop() { s.p.stop() }

// Restart starts a stopped server again on the same port with the same data.
func (s *SFTPServer) Restart() {
	s.p.stop()
	s.p.start()
}

// program returns the path of a program of the distribution. Servers are found
// where a user's PATH does not lead, too.
func program(tb testing.TB, name string) string {
	tb.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	missing(tb, name, "servers")
	return ""
}

func portOf(tb testing.TB, addr string) string {
	tb.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	return port
}
