package sftp_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path"
	"sync"
	"testing"

	pkgsftp "github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/benbjohnson/litestream/sftp"
)

const weakPassword = "correct horse"

// weakServer is an SFTP server without any extension: no fsync, no links, and
// a rename that refuses to replace. It takes one password and allows one
// session per connection.
type weakServer struct {
	addr, hostKey string
	ln            net.Listener
	cfg           *ssh.ServerConfig
	wg            sync.WaitGroup

	mu     sync.Mutex // guards the rest
	conns  []net.Conn
	logins int
}

// startWeak starts a server for the file system of this host.
func startWeak(tb testing.TB) *weakServer {
	tb.Helper()
	if err := pkgsftp.SetSFTPExtensions(); err != nil { // of all servers in this process
		tb.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &weakServer{
		addr: ln.Addr().String(), ln: ln,
		hostKey: string(ssh.MarshalAuthorizedKey(signer.PublicKey())),
		cfg: &ssh.ServerConfig{
			PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
				if string(password) != weakPassword {
					return nil, errors.New("wrong password")
				}
				return nil, nil
			},
		},
	}
	s.cfg.AddHostKey(signer)
	s.wg.Go(s.accept)
	tb.Cleanup(func() {
		_ = ln.Close()
		s.cut()
		s.wg.Wait()
	})
	return s
}

func (s *weakServer) config(folder string) sftp.Config {
	return sftp.Config{Host: s.addr, User: "u", Password: weakPassword, HostKey: s.hostKey, Path: folder, MaxConns: 2}
}

// cut ends all connections.
func (s *weakServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
}

func (s *weakServer) loginN() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

func (s *weakServer) accept() {
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(conn) })
	}
}

func (s *weakServer) serve(conn net.Conn) {
	defer conn.Close()
	_, chans, requests, err := ssh.NewServerConn(conn, s.cfg)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.logins++
	s.mu.Unlock()
	s.wg.Go(func() { ssh.DiscardRequests(requests) })
	first := true
	for nc := range chans {
		if !first {
			_ = nc.Reject(ssh.ResourceShortage, "one session only")
			continue
		}
		first = false
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() {
			for req := range reqs {
				_ = req.Reply(req.Type == "subsystem", nil)
			}
		})
		s.wg.Go(func() {
			h := diskHandlers{}
			srv := pkgsftp.NewRequestServer(ch, pkgsftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h})
			_ = srv.Serve() // ends with the connection
			_ = srv.Close()
		})
	}
}

// diskHandlers serve the file system.
type diskHandlers struct{}

func (diskHandlers) Fileread(r *pkgsftp.Request) (io.ReaderAt, error) { return os.Open(r.Filepath) }

func (diskHandlers) Filewrite(r *pkgsftp.Request) (io.WriterAt, error) {
	return os.OpenFile(r.Filepath, os.O_WRONLY|os.O_CREATE, 0o600) // O_EXCL is ignored, as some servers do
}

func (diskHandlers) Filecmd(r *pkgsftp.Request) error {
	switch r.Method {
	case "Setstat":
		return nil
	case "Rename":
		if _, err := os.Lstat(r.Target); err == nil {
			return pkgsftp.ErrSSHFxFailure
		}
		return os.Rename(r.Filepath, r.Target)
	case "Rmdir", "Remove":
		return os.Remove(r.Filepath)
	case "Mkdir":
		return os.Mkdir(r.Filepath, 0o755)
	}
	return pkgsftp.ErrSSHFxOpUnsupported
}

type lister []os.FileInfo

func (l lister) ListAt(out []os.FileInfo, offset int64) (int, error) {
	if offset >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(out, l[offset:])
	if n < len(out) {
		return n, io.EOF
	}
	return n, nil
}

func (diskHandlers) Filelist(r *pkgsftp.Request) (pkgsftp.ListerAt, error) {
	if r.Method != "List" {
		fi, err := os.Stat(r.Filepath)
		return lister{fi}, err
	}
	entries, err := os.ReadDir(r.Filepath)
	if err != nil {
		return nil, err
	}
	var l lister
	for _, entry := range entries {
		fi, err := entry.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		l = append(l, fi)
	}
	return l, nil
}

func inDir(tb testing.TB, name string) string {
	tb.Helper()
	return path.Join(tb.TempDir(), name)
}
