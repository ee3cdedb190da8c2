package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/litestream"
)

// describe says in one line what an error of the storage is.
func describe(err error) string {
	re, ok := errors.AsType[*litestream.ReplicaError](err)
	if ok {
		err = re.Err // the first one, where several files failed
	}
	text := cause(err)
	if !ok || re.Code == "" || strings.Contains(text, re.Code) {
		return text
	}
	return re.Code + ": " + text
}

// cause returns the text of the innermost error that says something: what the
// layers above add is where in the program it came up.
func cause(err error) string {
	for {
		switch err.(type) { //nolint:errorlint // this very layer has the address, or the path
		case *net.OpError, *fs.PathError:
			return err.Error()
		}
		var next error
		switch x := err.(type) { //nolint:errorlint // walks the layers one by one
		case interface{ Unwrap() error }:
			next = x.Unwrap()
		case interface{ Unwrap() []error }:
			if all := x.Unwrap(); len(all) > 0 {
				next = all[len(all)-1]
			}
		}
		if next == nil || next.Error() == "" {
			line, _, _ := strings.Cut(err.Error(), "\n")
			return line
		}
		err = next
	}
}

// fileType is the type of replicas in local folders.
const fileType = "file"

// advise returns what to change, as the client knows it for the error.
func advise(err error) string {
	re, ok := errors.AsType[*litestream.ReplicaError](err)
	switch {
	case ok && re.Hint != "":
		return re.Hint
	case ok && re.Type == fileType:
		return "check the path, who may write there, and whether its disk is mounted and has room"
	case errors.Is(err, context.DeadlineExceeded), ok && !re.Permanent:
		return "check the endpoint or host, the network, and whether a firewall or proxy stands between"
	default:
		return ""
	}
}

// warnings is a handler of log lines that keeps the text of warnings.
type warnings struct {
	mu    sync.Mutex // guards texts
	texts []string
}

// Enabled reports whether the level is one that is kept.
func (w *warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle keeps the message; what differs from call to call is left out.
func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			text += ": " + a.Value.String()
		}
		return true
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.texts, text) {
		w.texts = append(w.texts, text)
	}
	return nil
}

// WithAttrs returns the handler itself.
func (w *warnings) WithAttrs([]slog.Attr) slog.Handler { return w }

// WithGroup returns the handler itself.
func (w *warnings) WithGroup(string) slog.Handler { return w }

// take returns what was kept since the last call.
func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	texts := w.texts
	w.texts = nil
	return texts
}

// median returns the middle of some durations, which it sorts.
func median(a []time.Duration) time.Duration {
	if len(a) == 0 {
		return 0
	}
	slices.Sort(a)
	return a[len(a)/2]
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// round returns a duration as people write it.
func round(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	default:
		return fmt.Sprintf("%.1fms", millis(d))
	}
}

// perSecond returns n per second of d.
func perSecond(n float64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return n / d.Seconds()
}
