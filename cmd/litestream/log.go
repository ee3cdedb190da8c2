package main

import (
	"cmp"
	"io"
	"log/slog"
	"os"
	"strings"
)

// levelTrace lies below debug, as in upstream.
const levelTrace = slog.LevelDebug - 4

// parseLogLevel reads a level in any case; "" is info. An unknown word is
// info too, with ok false.
func parseLogLevel(s string) (level slog.Level, ok bool) {
	switch strings.ToLower(s) {
	case "trace":
		return levelTrace, true
	case "debug":
		return slog.LevelDebug, true
	case "info", "":
		return slog.LevelInfo, true
	case "warn", "warning":
		return slog.LevelWarn, true
	case "error":
		return slog.LevelError, true
	default:
		return slog.LevelInfo, false
	}
}

// logLevel returns the level in force: LOG_LEVEL wins over the file.
// The -log-level flag sets that variable, so that a child inherits it.
func logLevel(cfg LoggingConfig) slog.Level {
	level, _ := parseLogLevel(cmp.Or(os.Getenv("LOG_LEVEL"), cfg.Level))
	return level
}

// newLogger returns a logger in the format and level of the configuration.
func newLogger(w io.Writer, cfg LoggingConfig) *slog.Logger {
	return newLeveledLogger(w, cfg, logLevel(cfg))
}

// newLeveledLogger is newLogger with a level that may change.
func newLeveledLogger(w io.Writer, cfg LoggingConfig, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{
		Level:     level,
		AddSource: cfg.Source,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.LevelKey {
				if level, ok := a.Value.Any().(slog.Level); ok && level == levelTrace {
					a.Value = slog.StringValue("TRACE")
				}
			}
			return a
		},
	}
	switch cfg.Type {
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts))
	case "pretty":
		return slog.New(newPrettyHandler(w, opts))
	default:
		return slog.New(slog.NewTextHandler(w, opts))
	}
}
