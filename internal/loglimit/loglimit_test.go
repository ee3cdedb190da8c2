package loglimit_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/internal/loglimit"
)

// logOf returns a logger behind a limit, its output without times, and a clock.
func logOf() (*slog.Logger, *loglimit.Handler, *bytes.Buffer, *time.Time) {
	var buf bytes.Buffer
	now := time.Unix(1e9, 0)
	text := slog.NewTextHandler(&buf, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	h := loglimit.New(text.WithAttrs([]slog.Attr{slog.String("system", "fleet")}), func() time.Time { return now })
	return slog.New(h), h, &buf, &now
}

func TestHandler(t *testing.T) {
	log, h, buf, now := logOf()
	for i := range 25 {
		log.Warn("is broken", "db", fmt.Sprintf("/d/%d", i), "why", "x")
		log.With("db", i).Info("is well")
		log.Warn("of nobody in particular")
		log.Debug("is not said", "db", i)
	}
	out := buf.String()
	for text, want := range map[string]int{"is broken": loglimit.Named, "is well": loglimit.Named, "in particular": 25, "not said": 0} {
		if got := strings.Count(out, text); got != want {
			t.Errorf("%q: %d lines, want %d", text, got, want)
		}
	}

	buf.Reset()
	*now = now.Add(loglimit.Window - time.Second)
	h.Flush(t.Context(), false)
	if buf.Len() > 0 {
		t.Errorf("before the window ended: %s", buf)
	}
	*now = now.Add(time.Second)
	h.Flush(t.Context(), false)
	for _, want := range []string{
		"level=WARN msg=\"is broken\" system=fleet more_databases=15 within=1m0s\n",
		"level=INFO msg=\"is well\" system=fleet more_databases=15 within=1m0s\n",
	} {
		if !strings.Contains(buf.String(), want) {
			t.Errorf("got %s, want %s", buf, want)
		}
	}

	buf.Reset()
	log.Warn("is broken", "db", "/d/0")
	h.Flush(t.Context(), true)
	if got, want := buf.String(), "level=WARN msg=\"is broken\" system=fleet db=/d/0\n"; got != want {
		t.Errorf("in the next window: %s, want %s", got, want)
	}
}

func TestHandler_Concurrent(t *testing.T) {
	log, h, buf, _ := logOf()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				log.WithGroup("g").With("db", i).Warn("is broken")
				h.Flush(t.Context(), false)
			}
		})
	}
	wg.Wait()
	h.Flush(t.Context(), true)
	if got := strings.Count(buf.String(), "\n"); got != loglimit.Named+1 || !strings.Contains(buf.String(), "more_databases=790 ") {
		t.Errorf("%d lines:\n%s", got, buf)
	}
}
