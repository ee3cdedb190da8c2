package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"
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
