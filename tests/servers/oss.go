package servers

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/benbjohnson/litestream/internal/fakeoss"
)

// OSSServer is a running server of the protocol of Alibaba Cloud OSS, in memory,
// that checks signatures. What it embeds is safe for concurrent use; its own
// methods are for the test's goroutine.
type OSSServer struct {
	*fakeoss.Server

	Endpoint string // such as http://127.0.0.1:21000

	tb       testing.TB
	addr     string
	listener *httptest.Server // nil while stopped
}

// OSS starts an OSS server without buckets in this process, which ends with the
// test. There is nothing to install.
func OSS(tb testing.TB, set ...func(*fakeoss.Options)) *OSSServer {
	tb.Helper()
	o := fakeoss.Options{AccessKeyID: accessKey, AccessKeySecret: secretKey, Region: "cn-hangzhou"}
	for _, f := range set {
		f(&o)
	}
	addr := freeAddr(tb)
	s := &OSSServer{Server: fakeoss.New(o), Endpoint: "http://" + addr, tb: tb, addr: addr}
	s.Restart()
	tb.Cleanup(s.Stop)
	return s
}

// Env returns the environment for a child process that uses the server.
func (s *OSSServer) Env() []string {
	return append(cleanEnv(), "OSS_ACCESS_KEY_ID="+s.AccessKeyID, "OSS_ACCESS_KEY_SECRET="+s.AccessKeySecret)
}

// Stop cuts all connections. The port refuses others until Restart; what is
// stored stays.
func (s *OSSServer) Stop() {
	if s.listener == nil {
		return
	}
	s.listener.CloseClientConnections()
	s.listener.Close()
	s.listener = nil
}

// Restart starts the server again on the same port. One that runs is stopped
// first.
func (s *OSSServer) Restart() {
	s.tb.Helper()
	s.Stop()
	s.listener = &httptest.Server{Listener: listen(s.tb, s.addr), Config: &http.Server{Handler: s}}
	s.listener.Start()
}
