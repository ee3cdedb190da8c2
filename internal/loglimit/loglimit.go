// Package loglimit keeps the log of many databases readable. What is said of
// one database at a time is said of a few; the others are counted, and the
// count is said at the end of the window.
package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Limits of what is said with the same words of different databases.
const (
	Window = time.Minute
	Named  = 10 // lines of each message in a window
)

// subject is the attribute that makes a line one of many.
const subject = "db"

// Handler passes on what does not name a database, and of the lines that do the
// first ones of each message; all of them at level debug, where somebody looks
// for something. It is safe for concurrent use.
type Handler struct {
	next  slog.Handler
	state *state // shared with the handlers derived from this one
	named bool   // all its lines name a database
}

type state struct {
	now   func() time.Time
	root  slog.Handler // without the attributes of one database
	mu    sync.Mutex
	lines map[line]*count
}

// line is what the lines of one message have in common.
type line struct {
	level slog.Level
	text  string
}

type count struct {
	begin time.Time // of the window
	n     int
}

// New returns a handler that passes on to next what it does not hold back.
func New(next slog.Handler, now func() time.Time) *Handler {
	return &Handler{next: next, state: &state{now: now, root: next, lines: make(map[line]*count)}}
}

// Enabled is that of the handler behind it.
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle passes a line on or counts it.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo && (h.named || namesOne(&r)) && h.state.holdBack(line{r.Level, r.Message}) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs returns a handler that adds attributes.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	named := h.named
	for _, a := range attrs {
		named = named || a.Key == subject
	}
	return &Handler{next: h.next.WithAttrs(attrs), state: h.state, named: named}
}

// WithGroup returns a handler that puts what follows into a group.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{next: h.next.WithGroup(name), state: h.state, named: h.named}
}

func namesOne(r *slog.Record) (found bool) {
	r.Attrs(func(a slog.Attr) bool {
		found = a.Key == subject
		return !found
	})
	return found
}

// holdBack counts a line, and reports whether its message was said often enough.
func (s *state) holdBack(l line) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.lines[l]
	if c == nil {
		c = &count{begin: s.now()}
		s.lines[l] = c
	}
	c.n++
	return c.n > Named
}

// Flush says how many lines were held back in the windows that have ended; with
// all, in the others, too.
func (h *Handler) Flush(ctx context.Context, all bool) {
	s := h.state
	now := s.now()
	var ended []slog.Record
	s.mu.Lock()
	for l, c := range s.lines {
		if !all && now.Sub(c.begin) < Window {
			continue
		}
		delete(s.lines, l)
		if c.n > Named {
			r := slog.NewRecord(now, l.level, l.text, 0)
			r.AddAttrs(slog.Int("more_databases", c.n-Named), slog.Duration("within", now.Sub(c.begin).Round(time.Second)))
			ended = append(ended, r)
		}
	}
	s.mu.Unlock()
	for _, r := range ended {
		if s.root.Enabled(ctx, r.Level) {
			_ = s.root.Handle(ctx, r) // there is nobody to tell that a log cannot be written
		}
	}
}
