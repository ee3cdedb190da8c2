package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewLogger(t *testing.T) {
	t.Setenv("LOG_LEVEL", "")
	ctx := context.Background()
	log := func(cfg LoggingConfig) string {
		var buf bytes.Buffer
		logger := newLogger(&buf, cfg)
		logger.Log(ctx, levelTrace, "t")
		logger.Debug("d")
		logger.Info("i", "wait", time.Second, "error", "two words")
		logger.Warn("w")
		logger.Error("e")
		return buf.String()
	}
	for level, want := range map[string]string{
		"": "iwe", "info": "iwe", "INFO": "iwe", "loud": "iwe", "Trace": "tdiwe", "DEBUG": "diwe", "warn": "we", "warning": "we", "error": "e",
	} {
		var got strings.Builder
		for _, m := range regexp.MustCompile(`msg=(\w)`).FindAllStringSubmatch(log(LoggingConfig{Level: level}), -1) {
			got.WriteString(m[1])
		}
		if got.String() != want {
			t.Errorf("level %q: logged %q, want %q", level, got.String(), want)
		}
	}

	text := log(LoggingConfig{Level: "trace", Type: "text"})
	if !regexp.MustCompile(`(?m)^time=\d{4}-\d\d-\d\dT\S+ level=TRACE msg=t$`).MatchString(text) ||
		!strings.Contains(text, `level=INFO msg=i wait=1s error="two words"`) {
		t.Errorf("text: %s", text)
	}
	if got := log(LoggingConfig{Source: true}); !strings.Contains(got, "log_test.go:") {
		t.Errorf("source: %s", got)
	}

	var line struct {
		Time  time.Time
		Level string
		Msg   string
		Wait  int64
	}
	first, _, _ := strings.Cut(log(LoggingConfig{Type: "json"}), "\n")
	if err := json.Unmarshal([]byte(first), &line); err != nil || line.Level != "INFO" || line.Msg != "i" || line.Wait != int64(time.Second) {
		t.Errorf("json %s: %+v, %v", first, line, err)
	}

	t.Setenv("LOG_LEVEL", "error")
	if got := logLevel(LoggingConfig{Level: "trace"}); got != slog.LevelError {
		t.Errorf("LOG_LEVEL=error over the file: got %s", got)
	}
	if levelName(levelTrace) != "TRACE" || levelName(slog.LevelWarn) != "WARN" {
		t.Error("names of levels")
	}
}

func TestNewLogger_Pretty(t *testing.T) {
	t.Setenv("LOG_LEVEL", "")
	ctx := context.Background()
	var buf bytes.Buffer
	logger := newLogger(&buf, LoggingConfig{Type: "pretty", Level: "trace"})
	logger.Log(ctx, levelTrace, "t")
	logger.Debug("d", "empty", "", "odd", "a\x1b[2Jb", "quote", `a"b`)
	logger = logger.With("system", "store")
	logger.Info("two words", "wait", time.Second, slog.Group("txid", "min", 1, "max", 2))
	none := slog.NewRecord(time.Now(), slog.LevelInfo, "none", 0)
	none.AddAttrs(slog.Attr{})
	if err := logger.Handler().Handle(ctx, none); err != nil {
		t.Error(err)
	}
	logger.WithGroup("g").With("a", 1).Warn("w", "at", time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC))
	logger.Error("e", "error", errors.New("no room"), "key", secret("geheim"))
	want := `TRC t
DBG d empty="" odd="a\x1b[2Jb" quote="a\"b"
INF two words system=store wait=1s txid.min=1 txid.max=2
INF none system=store
WRN w system=store g.a=1 g.at=2026-01-02T03:04:05.006Z
ERR e system=store error="no room" key=***
`
	lines := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d `)
	if n := len(lines.FindAllString(buf.String(), -1)); n != 6 {
		t.Errorf("%d lines begin with a time, want 6", n)
	}
	if diff := cmp.Diff(want, lines.ReplaceAllString(buf.String(), "")); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}

	buf.Reset()
	newLogger(&buf, LoggingConfig{Type: "pretty", Source: true}).Info("i")
	if got := buf.String(); !regexp.MustCompile(`^\S+ INF litestream/log_test.go:\d+ i\n$`).MatchString(got) {
		t.Errorf("with its source: %q", got)
	}

	buf.Reset()
	h := newPrettyHandler(&buf, &slog.HandlerOptions{Level: slog.LevelInfo})
	h.colour = true
	slog.New(h).Info("i", "a", 1, "error", errors.New("x"))
	if _, got, _ := strings.Cut(buf.String(), " "); got != "\x1b[92mINF\x1b[0m i \x1b[2ma=\x1b[0m1 \x1b[91merror=\x1b[0mx\n" {
		t.Errorf("in colours: %q", got)
	}
}
