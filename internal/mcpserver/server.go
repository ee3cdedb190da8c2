// Package mcpserver offers the commands of litestream to programs that speak
// the Model Context Protocol, over HTTP. The names of the server and its tools
// are those of Litestream v0.5. There is no authentication:
// who reaches the address can use every tool.
package mcpserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Name and version that the server gives itself, as Litestream v0.5 does.
const (
	ServerName    = "Litestream MCP Server"
	ServerVersion = "1.0.0"
)

const (
	headerTimeout  = 30 * time.Second // to send the header of a request
	bodyTimeout    = 30 * time.Second // to send its body
	idleTimeout    = 2 * time.Minute  // between two requests of a connection
	sessionTimeout = 30 * time.Minute // without a request
	maxBody        = 1 << 20          // bytes
	maxHeader      = 64 << 10         // bytes
	maxSessions    = 100

	sessionHeader  = "Mcp-Session-Id"
	protocolHeader = "Mcp-Protocol-Version"
	// sessionless is the first version of the protocol without sessions.
	sessionless = "2026-07-28"
)

// A Server serves one Service on one address, between Open and Close.
type Server struct {
	service Service
	logger  *slog.Logger
	calls   chan struct{} // a place for each tool that may run
	server  *http.Server
	mcp     *mcp.Server

	addr   net.Addr
	run    context.Context // of every call
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing is served any more
}

// New returns a server that does not listen yet.
func New(service Service, logger *slog.Logger) *Server {
	s := &Server{service: service, logger: logger, calls: make(chan struct{}, maxCalls)}
	s.mcp = mcp.NewServer(&mcp.Implementation{Name: ServerName, Version: ServerVersion}, nil)
	s.addTools(s.mcp)
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s.mcp }, &mcp.StreamableHTTPOptions{
		JSONResponse: true, SessionTimeout: sessionTimeout, MaxRequestBodyBytes: maxBody,
	})
	// The handler refuses a foreign Host header on the loopback interface, which
	// is how a page's own name is bound to it; a page's Origin is refused here.
	s.server = &http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(s.guard(handler)),
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	return s
}

// Address returns what an `mcp-addr` listens on: without a host it is this
// machine alone. exposed says that other machines can reach it.
func Address(addr string) (listen string, exposed bool, err error) {
	host, port, err := net.SplitHostPort(addr)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("%w: want HOST:PORT, such as 127.0.0.1:3001", err)
	case port == "":
		return "", false, fmt.Errorf("address %q has no port", addr)
	case host == "":
		host = "127.0.0.1"
	}
	if _, err := net.LookupPort("tcp", port); err != nil { //nolint:noctx // reads a local file at most
		return "", false, err
	}
	ip := net.ParseIP(host)
	return net.JoinHostPort(host, port), host != "localhost" && (ip == nil || !ip.IsLoopback()), nil
}

// Open listens on addr, as Address returns it, and serves until Close.
func (s *Server) Open(ctx context.Context, addr string) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	s.addr = ln.Addr()
	s.run, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		if err := s.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.logger.Error("mcp server stopped", "error", err)
		}
	}()
	return nil
}

// Addr returns where the server listens.
func (s *Server) Addr() net.Addr { return s.addr }

// Close ends calls that run, closes all connections and waits for that. It may
// be called without Open, and again.
func (s *Server) Close() error {
	if s.done == nil {
		return nil
	}
	s.cancel()
	var errs []error
	for session := range s.mcp.Sessions() {
		errs = append(errs, session.Close())
	}
	errs = append(errs, s.server.Close())
	<-s.done
	for range cap(s.calls) { // wait until none runs
		s.calls <- struct{}{}
	}
	for range cap(s.calls) {
		<-s.calls
	}
	return errors.Join(errs...)
}

// guard reads the body, so that a slow or endless one holds nothing else, and
// refuses what has no session.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			next.ServeHTTP(w, r)
			return
		}
		body, err := readBody(w, r)
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			http.Error(w, fmt.Sprintf("request body exceeds %d bytes", tooLarge.Limit), http.StatusRequestEntityTooLarge)
			return
		} else if err != nil {
			http.Error(w, "request body was not sent in time", http.StatusRequestTimeout)
			return
		}
		if r.Header.Get(sessionHeader) == "" && r.Header.Get(protocolHeader) < sessionless {
			switch {
			case !begins(body):
				http.Error(w, "Invalid session ID", http.StatusBadRequest)
				return
			case s.full():
				http.Error(w, "too many sessions", http.StatusServiceUnavailable)
				return
			}
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, err
	}
	return body, rc.SetReadDeadline(time.Time{})
}

// begins reports whether a request may have no session: it asks for one, or is
// no JSON, which the protocol has its own answer for.
func begins(body []byte) bool {
	var msg struct {
		Method string `json:"method"`
	}
	err := json.Unmarshal(body, &msg)
	return err == nil && msg.Method == "initialize" || !json.Valid(body)
}

func (s *Server) full() bool {
	n := 0
	for range s.mcp.Sessions() {
		n++
	}
	return n >= maxSessions
}
