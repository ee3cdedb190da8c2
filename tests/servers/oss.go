package servers

import (
	"net/http/httptest"
	"testing"

	"github.com/benbjohnson/litestream/internal/fakeoss"
)

// OSSServer is a running server of the protocol of Alibaba Cloud OSS, in memory,
// that checks signatures. It is safe for concurrent use.
type OSSServer struct {
	*fakeoss.Server

	Endpoint string // such as http://127.0.0.1:40000
}

// OSS starts an OSS server without buckets in this process, which ends with the
// test. There is nothing to install.
func OSS(tb testing.TB, set ...func(*fakeoss.Options)) *OSSServer {
	tb.Helper()
	o := fakeoss.Options{AccessKeyID: accessKey, AccessKeySecret: secretKey, Region: "cn-hangzhou"}
	for _, f := range set {
		f(&o)
	}
	s := &OSSServer{Server: fakeoss.New(o)}
	listener := httptest.NewServer(s)
	s.Endpoint = listener.URL
	tb.Cleanup(func() {
		listener.CloseClientConnections()
		listener.Close()
	})
	return s
}

// Env returns the environment for a child process that uses the server.
func (s *OSSServer) Env() []string {
	return append(cleanEnv(), "OSS_ACCESS_KEY_ID="+s.AccessKeyID, "OSS_ACCESS_KEY_SECRET="+s.AccessKeySecret)
}
