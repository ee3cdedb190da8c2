package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
)

// streamTimeout bounds an answer of any length, together with the time that
// each piece may take to be read by the client.
const streamTimeout = 10 * time.Minute

// errLimit ends a list at its limit.
var errLimit = errors.New("limit reached")

func (s *Server) handleList(w http.ResponseWriter, r *http.Request) {
	filter, limit, err := listQuery(r)
	if err != nil {
		s.fail(w, &Error{http.StatusBadRequest, err})
		return
	}
	s.stream(w, r, func(ctx context.Context, out *arrayWriter) error {
		var next string
		n := 0
		err := s.opt.Service.List(ctx, r.FormValue("after"), func(db *Database, cursor string) error {
			switch {
			case filter != "" && !doublestar.MatchUnvalidated(filter, db.Path):
				return nil
			case limit > 0 && n == limit: // there is one more
				return errLimit
			}
			n++
			next = cursor
			return out.add(db)
		})
		if errors.Is(err, errLimit) {
			out.next, err = next, nil
		}
		return err
	})
}

// listQuery reads the parameters of a list. A filter that does not begin with a
// slash matches at any depth.
func listQuery(r *http.Request) (filter string, limit int, err error) {
	if filter = r.FormValue("filter"); filter != "" && !strings.HasPrefix(filter, "/") {
		filter = "**/" + filter
	}
	if !doublestar.ValidatePattern(filter) {
		return "", 0, fmt.Errorf("invalid filter: %s", r.FormValue("filter"))
	}
	if v := r.FormValue("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 0 {
			return "", 0, fmt.Errorf("invalid limit: %q", v)
		}
	}
	return filter, limit, nil
}

func (s *Server) handleSyncStatus(w http.ResponseWriter, r *http.Request) {
	var path string
	if p := r.FormValue("path"); p != "" {
		var ok bool
		if path, ok = s.path(w, p); !ok {
			return
		}
	}
	s.stream(w, r, func(ctx context.Context, out *arrayWriter) error {
		err := s.opt.Service.SyncStatus(ctx, path, func(st *SyncStatus) error { return out.add(st) })
		if statusOf(err) == http.StatusNotFound {
			err = &Error{http.StatusNotFound, errNotFound}
		}
		return err
	})
}

// stream answers with {"databases":[…]}, of which no more than a buffer is ever
// in memory. Once something was sent, an error can only end the connection.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, fill func(context.Context, *arrayWriter) error) {
	clearReadDeadline(w)
	ctx, cancel := context.WithTimeoutCause(r.Context(), streamTimeout, &timeoutError{streamTimeout})
	defer cancel()
	defer context.AfterFunc(s.base, cancel)() //nolint:contextcheck // it ends this request's own context
	waiting, stop := context.WithTimeoutCause(ctx, defaultTimeout, &timeoutError{defaultTimeout})
	err := take(waiting, s.streams)
	stop()
	if err != nil {
		s.fail(w, err)
		return
	}
	defer func() { <-s.streams }()
	piece := &pieceWriter{s: s, w: w}
	out := &arrayWriter{w: bufio.NewWriterSize(piece, 32<<10)}
	if err = fill(ctx, out); err == nil {
		err = out.end()
	}
	switch {
	case err == nil:
	case !piece.begun:
		s.fail(w, err)
	default:
		s.opt.Logger.Debug("control request was cut short", "path", r.URL.Path, "error", err)
		panic(http.ErrAbortHandler) // the one way to tell the client
	}
}

// pieceWriter writes to a client that has to take each piece in time.
type pieceWriter struct {
	s     *Server
	w     http.ResponseWriter
	begun bool
}

// Write implements io.Writer.
func (p *pieceWriter) Write(b []byte) (int, error) {
	if !p.begun {
		p.w.Header().Set("Content-Type", "application/json")
		p.begun = true
	}
	p.s.extend(p.w, p.s.limits.write)
	return p.w.Write(b)
}

// arrayWriter writes {"databases":[…]} element by element.
type arrayWriter struct {
	w    *bufio.Writer
	n    int
	next string // where to go on; "" if that was all
}

func (a *arrayWriter) add(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	sep := ","
	if a.n == 0 {
		sep = `{"databases":[`
	}
	a.n++
	_, _ = a.w.WriteString(sep) // the error stays with the writer
	_, err = a.w.Write(data)
	return err
}

func (a *arrayWriter) end() error {
	tail := "]"
	if a.n == 0 {
		tail = `{"databases":[]`
	}
	if a.next != "" {
		next, err := json.Marshal(a.next)
		if err != nil {
			return err
		}
		tail += `,"next":` + string(next)
	}
	_, _ = a.w.WriteString(tail + "}\n") // the error stays with the writer
	return a.w.Flush()
}
