package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"
)

// prettyHandler writes lines for people: `15:04:05 INF message key=value`, in
// colours on a terminal, as in Litestream v0.5.
type prettyHandler struct {
	out    *prettyOutput
	level  slog.Leveler
	source bool
	colour bool
	attrs  string // of WithAttrs, as they are written
	group  string // prefix of the keys to come, with its dot
}

// prettyOutput is shared by a handler and those made of it.
type prettyOutput struct {
	mu sync.Mutex // one line at a time
	w  io.Writer
}

func newPrettyHandler(w io.Writer, opts *slog.HandlerOptions) *prettyHandler {
	f, ok := w.(*os.File)
	return &prettyHandler{
		out: &prettyOutput{w: w}, level: opts.Level, source: opts.AddSource,
		colour: ok && os.Getenv("NO_COLOR") == "" && term.IsTerminal(int(f.Fd())),
	}
}

// Enabled implements slog.Handler.
func (h *prettyHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

// Codes of colours; 0 is none.
const (
	dim    = 2
	red    = 91
	green  = 92
	yellow = 93
)

// paint wraps a text in a colour.
func (h *prettyHandler) paint(b *strings.Builder, code int, text string) {
	if !h.colour || code == 0 {
		b.WriteString(text)
		return
	}
	b.WriteString("\x1b[" + strconv.Itoa(code) + "m" + text + "\x1b[0m")
}

// prettyLevel returns three letters and a colour.
func prettyLevel(level slog.Level) (text string, colour int) {
	switch {
	case level < slog.LevelDebug:
		return "TRC", 0
	case level < slog.LevelInfo:
		return "DBG", 0
	case level < slog.LevelWarn:
		return "INF", green
	case level < slog.LevelError:
		return "WRN", yellow
	default:
		return "ERR", red
	}
}

// Handle implements slog.Handler.
func (h *prettyHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if !r.Time.IsZero() {
		h.paint(&b, dim, r.Time.Format(time.TimeOnly))
		b.WriteByte(' ')
	}
	level, colour := prettyLevel(r.Level)
	h.paint(&b, colour, level)
	b.WriteByte(' ')
	if h.source && r.PC != 0 {
		f, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
		h.paint(&b, dim, filepath.Base(filepath.Dir(f.File))+"/"+filepath.Base(f.File)+":"+strconv.Itoa(f.Line))
		b.WriteByte(' ')
	}
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		h.write(&b, h.group, a)
		return true
	})
	b.WriteByte('\n')
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := io.WriteString(h.out.w, b.String())
	return err
}

// write appends one attribute. Those of a group have its name before theirs.
func (h *prettyHandler) write(b *strings.Builder, group string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, a := range v.Group() {
			h.write(b, group, a)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	text := v.String()
	if v.Kind() == slog.KindTime {
		text = v.Time().Format("2006-01-02T15:04:05.000Z07:00")
	}
	colour := dim
	if _, isError := v.Any().(error); isError {
		colour = red
	}
	b.WriteByte(' ')
	h.paint(b, colour, quoteWhereNeeded(group+a.Key)+"=")
	b.WriteString(quoteWhereNeeded(text))
}

// quoteWhereNeeded quotes what could be taken for something else, or would
// steer a terminal.
func quoteWhereNeeded(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return r == '"' || r == '=' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}) {
		return strconv.Quote(s)
	}
	return s
}

// WithAttrs implements slog.Handler.
func (h *prettyHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range attrs {
		h.write(&b, h.group, a)
	}
	n := *h
	n.attrs += b.String()
	return &n
}

// WithGroup implements slog.Handler.
func (h *prettyHandler) WithGroup(name string) slog.Handler {
	n := *h
	if name != "" {
		n.group += name + "."
	}
	return &n
}
