package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"
)

// Options are the settings of a Server.
type Options struct {
	Path        string      // of the socket
	Permissions os.FileMode // of the socket
	Service     Service
	Logger      *slog.Logger

	// ExpandPath makes the path of a request absolute; nil takes it as it is.
	ExpandPath func(string) (string, error)

	// Reload reads the configuration again and applies it, or with dryRun only
	// says what would change; nil is answered with 501.
	Reload func(ctx context.Context, dryRun bool) (ReloadReport, error)

	limits limits
}

// limits are what tests make smaller.
type limits struct {
	connections int           // open at a time
	operations  int           // requests at work at a time; others wait
	streams     int           // lists under way at a time; others wait
	readTimeout time.Duration // for a whole request
	write       time.Duration // for a piece of the answer
	answerGrace time.Duration // between the end of an operation's time and the answer
	closeGrace  time.Duration // for requests under way at the end
}

func (l limits) withDefaults() limits {
	return limits{
		connections: cmp.Or(l.connections, 512),
		operations:  cmp.Or(l.operations, 128),
		streams:     cmp.Or(l.streams, 16),
		readTimeout: cmp.Or(l.readTimeout, 10*time.Second),
		write:       cmp.Or(l.write, 10*time.Second),
		answerGrace: cmp.Or(l.answerGrace, 500*time.Millisecond),
		closeGrace:  cmp.Or(l.closeGrace, 5*time.Second),
	}
}

// Bounds of what a request may hold.
const (
	maxHeaderBytes = 16 << 10
	maxBodyBytes   = 64 << 10
)

// A Server answers requests on a socket from Open until Close. Its methods are
// safe for concurrent use.
type Server struct {
	opt        Options
	limits     limits
	http       *http.Server
	listener   *socket
	operations chan struct{} // a place for each that runs
	streams    chan struct{}

	base   context.Context // of all requests; done when the server closes
	cancel context.CancelFunc
	wg     sync.WaitGroup // the server's loop and the operations
}

// NewServer returns a server. It does nothing before Open.
func NewServer(opt Options) *Server {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.ExpandPath == nil {
		opt.ExpandPath = func(p string) (string, error) { return p, nil }
	}
	l := opt.limits.withDefaults()
	s := &Server{
		opt: opt, limits: l,
		operations: make(chan struct{}, l.operations), streams: make(chan struct{}, l.streams),
	}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: l.readTimeout,
		ReadTimeout:       l.readTimeout,
		IdleTimeout:       l.readTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(opt.Logger.Handler(), slog.LevelDebug),
	}
	return s
}

// Open listens and serves until Close, whatever happens to ctx. A path at which
// something else lies, or on which another process listens, is an error.
func (s *Server) Open(ctx context.Context) error {
	ln, err := listen(ctx, s.opt.Path, s.opt.Permissions)
	if err != nil {
		return err
	}
	s.listener = ln
	s.base, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.wg.Go(func() {
		err := s.http.Serve(newLimitListener(ln, s.limits.connections))
		if !errors.Is(err, http.ErrServerClosed) {
			s.opt.Logger.Error("control server stopped", "error", err)
		}
	})
	s.opt.Logger.Info("control socket listening", "path", s.opt.Path)
	return nil
}

// Close stops listening, removes the socket, and ends the requests under way.
// It waits for them for a few seconds at most, and no longer than ctx.
func (s *Server) Close(ctx context.Context) error {
	if s.listener == nil {
		return nil
	}
	s.cancel()
	ctx, cancel := context.WithTimeout(ctx, s.limits.closeGrace)
	defer cancel()
	err := s.http.Shutdown(ctx) // which closes the listener first
	if err != nil {
		err = s.http.Close()
	}
	err = errors.Join(err, s.listener.Close())
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("close control server: requests are still under way: %w", context.Cause(ctx)))
	}
}
