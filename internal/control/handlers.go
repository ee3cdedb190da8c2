package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"time"
)

// routes returns the handlers. A path that is not there is answered with 404,
// a method that is not taken with 405, both as text, as Litestream v0.5 does.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /info", s.handleInfo)
	mux.HandleFunc("GET /list", s.handleList)
	mux.HandleFunc("GET /txid", s.handleTXID)
	mux.HandleFunc("POST /sync", s.handleSync)
	mux.HandleFunc("POST /start", s.handleState(Service.Start))
	mux.HandleFunc("POST /stop", s.handleState(Service.Stop))
	mux.HandleFunc("POST /takeover", s.handleState(Service.TakeOver))
	mux.HandleFunc("POST /register", s.handleRegister)
	mux.HandleFunc("POST /unregister", s.handleState(Service.Unregister))
	mux.HandleFunc("POST /reload", s.handleReload)
	mux.HandleFunc("POST /purge", s.handlePurge)
	mux.HandleFunc("GET /debug/sync-status", s.handleSyncStatus)
	for path, h := range map[string]http.HandlerFunc{
		"":        pprof.Index,
		"cmdline": pprof.Cmdline,
		"profile": pprof.Profile,
		"symbol":  pprof.Symbol,
		"trace":   pprof.Trace,
	} {
		mux.HandleFunc("GET /debug/pprof/"+path, s.handleProfile(h))
	}
	return mux
}

func (s *Server) handleInfo(w http.ResponseWriter, _ *http.Request) {
	s.reply(w, http.StatusOK, s.opt.Service.Info())
}

func (s *Server) handleTXID(w http.ResponseWriter, r *http.Request) {
	path, ok := s.path(w, r.FormValue("path"))
	if !ok {
		return
	}
	txid, err := s.opt.Service.TXID(path)
	if statusOf(err) == http.StatusNotFound {
		err = &Error{http.StatusNotFound, errNotFound}
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	s.reply(w, http.StatusOK, TXIDResponse{TXID: txid})
}

// errNotFound is the answer for a path in a query, which upstream does not
// repeat.
var errNotFound = errors.New("database not found")

func (s *Server) handleSync(w http.ResponseWriter, r *http.Request) {
	var req SyncRequest
	if !s.decode(w, r, &req) {
		return
	}
	if req.All && req.Path == "" {
		s.operate(r.Context(), w, timeoutOf(req.Timeout), func(ctx context.Context) (any, error) {
			return s.opt.Service.SyncAll(ctx, req.Wait)
		})
		return
	}
	path, ok := s.path(w, req.Path)
	if !ok {
		return
	}
	if req.All {
		s.fail(w, &Error{http.StatusBadRequest, errors.New("path and all exclude each other")})
		return
	}
	s.operate(r.Context(), w, timeoutOf(req.Timeout), func(ctx context.Context) (any, error) {
		return s.opt.Service.Sync(ctx, path, req.Wait)
	})
}

// handleState handles a change of one database. It goes on if the client hangs
// up.
func (s *Server) handleState(method func(Service, context.Context, string) (StateResponse, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req PathRequest
		if !s.decode(w, r, &req) {
			return
		}
		path, ok := s.path(w, req.Path)
		if !ok {
			return
		}
		s.operate(context.WithoutCancel(r.Context()), w, timeoutOf(req.Timeout), func(ctx context.Context) (any, error) {
			res, err := method(s.opt.Service, ctx, path)
			if statusOf(err) == http.StatusNotFound { // as upstream has it
				err = &Error{http.StatusInternalServerError, err}
			}
			return res, err
		})
	}
}

func (s *Server) handleRegister(w http.ResponseWriter, r *http.Request) {
	var req RegisterRequest
	if !s.decode(w, r, &req) {
		return
	}
	path, ok := s.path(w, req.Path)
	if !ok {
		return
	}
	if req.ReplicaURL == "" {
		s.fail(w, &Error{http.StatusBadRequest, errors.New("replica_url required")})
		return
	}
	s.operate(context.WithoutCancel(r.Context()), w, timeoutOf(req.Timeout), func(ctx context.Context) (any, error) {
		res, err := s.opt.Service.Register(ctx, path, req.ReplicaURL)
		return RegisterResponse{Status: res.Status, Path: res.Path}, err
	})
}

func (s *Server) handleReload(w http.ResponseWriter, r *http.Request) {
	var req ReloadRequest
	if !s.decode(w, r, &req) {
		return
	}
	if s.opt.Reload == nil {
		s.fail(w, &Error{http.StatusNotImplemented, errors.New("this daemon was not started with a configuration file: there is nothing to reload")})
		return
	}
	s.operate(context.WithoutCancel(r.Context()), w, timeoutOf(req.Timeout), func(ctx context.Context) (any, error) {
		return s.opt.Reload(ctx, req.DryRun)
	})
}

// handlePurge goes on if the client hangs up.
func (s *Server) handlePurge(w http.ResponseWriter, r *http.Request) {
	var req PurgeRequest
	if !s.decode(w, r, &req) {
		return
	}
	path, ok := s.path(w, req.Path)
	if !ok {
		return
	}
	s.operate(context.WithoutCancel(r.Context()), w, timeoutOf(req.Timeout), func(ctx context.Context) (any, error) {
		return s.opt.Service.Purge(ctx, path, req.Force)
	})
}

// profileTimeout bounds the answer of a profile, which takes as long as the
// client asks for.
const profileTimeout = 10 * time.Minute

func (s *Server) handleProfile(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		clearReadDeadline(w)
		s.extend(w, profileTimeout)
		h(w, r)
	}
}

// decode reads the JSON body of a request. It is false if the client was
// answered already.
func (s *Server) decode(w http.ResponseWriter, r *http.Request, v any) bool {
	body := http.MaxBytesReader(w, r.Body, maxBodyBytes)
	dec := json.NewDecoder(body)
	err := dec.Decode(v)
	if err == nil {
		if _, next := dec.Token(); !errors.Is(next, io.EOF) {
			err = errors.New("more than one JSON value")
		}
	}
	if err == nil {
		clearReadDeadline(w)
		return true
	}
	status := http.StatusBadRequest
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		status, err = http.StatusRequestEntityTooLarge, fmt.Errorf("larger than %d bytes", tooLarge.Limit)
	}
	s.reply(w, status, errorResponse{Error: "invalid request body", Details: err.Error()})
	return false
}

// clearReadDeadline lets an operation run for longer than a client may take to
// send its request: the server reads on, to see whether the client hangs up.
func clearReadDeadline(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // a connection that is gone shows otherwise
}

// path expands the path of a request. It is false if the client was answered
// already.
func (s *Server) path(w http.ResponseWriter, p string) (string, bool) {
	if p == "" {
		s.fail(w, &Error{http.StatusBadRequest, errors.New("path required")})
		return "", false
	}
	expanded, err := s.opt.ExpandPath(p)
	if err != nil {
		s.fail(w, &Error{http.StatusBadRequest, fmt.Errorf("invalid path: %w", err)})
		return "", false
	}
	return expanded, true
}

// timeoutError is what ends an operation that takes too long.
type timeoutError struct{ after time.Duration }

// Error implements error.
func (e *timeoutError) Error() string { return fmt.Sprintf("timed out after %s", e.after) }

// Unwrap returns context.DeadlineExceeded.
func (e *timeoutError) Unwrap() error { return context.DeadlineExceeded }

// errClosing means that the daemon stops.
var errClosing = &Error{http.StatusServiceUnavailable, errors.New("the daemon is stopping")}

// operate runs an operation in the time that it may take and answers with its
// result. One that goes on beyond that keeps its place until it ends, and the
// client is told so.
func (s *Server) operate(ctx context.Context, w http.ResponseWriter, timeout time.Duration, op func(context.Context) (any, error)) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &timeoutError{timeout})
	defer cancel()
	defer context.AfterFunc(s.base, cancel)() //nolint:contextcheck // it ends this request's own context
	if err := take(ctx, s.operations); err != nil {
		s.fail(w, err)
		return
	}
	type outcome struct {
		v   any
		err error
	}
	done := make(chan outcome, 1)
	s.wg.Go(func() {
		defer func() { <-s.operations }()
		v, err := op(ctx)
		done <- outcome{v, err}
	})
	var o outcome
	select {
	case o = <-done:
	case <-ctx.Done():
		grace := time.NewTimer(s.limits.answerGrace)
		defer grace.Stop()
		select {
		case o = <-done:
		case <-grace.C:
			o.err = fmt.Errorf("%w: it goes on in the background", context.Cause(ctx))
		}
	}
	switch {
	case o.err == nil:
		s.reply(w, http.StatusOK, o.v)
	case s.base.Err() != nil:
		s.fail(w, errClosing)
	default:
		s.fail(w, o.err)
	}
}

// take waits for a place.
func take(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	default:
	}
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &Error{http.StatusServiceUnavailable, fmt.Errorf("too many requests at a time: %w", context.Cause(ctx))}
	}
}

// fail answers with an error.
func (s *Server) fail(w http.ResponseWriter, err error) {
	s.reply(w, statusOf(err), errorResponse{Error: err.Error()})
}

// reply answers with JSON. A client that takes it too slowly is dropped.
func (s *Server) reply(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"error":"encode the answer"}`)
		s.opt.Logger.Error("encode answer of control server", "error", err)
	}
	s.extend(w, s.limits.write)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // a client that is gone does not read it
}

// extend gives a client so much time to take what is written next.
func (s *Server) extend(w http.ResponseWriter, d time.Duration) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d)) // a connection that is gone shows when it is written to
}
