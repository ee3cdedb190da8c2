package main

import (
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/benbjohnson/litestream"
)

// What is secret is decided in this file: keys of the type secret never show
// their value, and secretURLs are the keys whose value may hold one.

// secret is a string that no log line and no %v shows.
type secret string

// hidden stands for a secret.
const hidden = "***"

// String hides the value.
func (s secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the value in %#v.
func (s secret) GoString() string { return s.String() }

// LogValue hides the value in structured logs.
func (s secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// secretURLs lists the keys that hold a URL, with what may be shown of it.
var secretURLs = map[string]func(string) string{
	"url":           redactURL,
	"endpoint":      redactURL,
	"webdav-url":    redactURL,
	"host":          redactURL,                     // which a URL may be written to
	"heartbeat-url": litestream.RedactHeartbeatURL, // services know their users by its path
}

// shown returns what may be shown of the text of a key's value, that of a
// secret excepted, which hides itself.
func shown(key, text string) string {
	if redact := secretURLs[key]; redact != nil && text != "" {
		return redact(text)
	}
	return text
}

// publicParameters are those of a replica URL whose values may be shown, in
// lower case without hyphens.
var publicParameters = []string{
	"endpoint", "region", "forcepathstyle", "skipverify", "signpayload", "signacceptencoding", "requirecontentmd5",
	"putobjectcontentmd5", "storageclass", "partsize", "concurrency", "ssecustomeralgorithm", "ssekmskeyid",
	"hostkey", "keypath", "concurrentwrites", "bucket", "path",
}

// redactURL hides the password and the secret parameters of a URL that goes into
// a message, also of one that is written wrongly. Two URLs of different places
// stay different.
func redactURL(s string) string {
	scheme, rest := "", s
	if i := strings.Index(s, "://"); i >= 0 {
		scheme, rest = s[:i+3], s[i+3:]
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	at := strings.LastIndexByte(authority, '@')
	if at < 0 && endsInPassword(authority) {
		at = strings.LastIndexByte(rest, '@') // of a password with a slash in it
	}
	if at >= 0 {
		if name, _, hasPassword := strings.Cut(rest[:at], ":"); hasPassword {
			rest = name + ":" + hidden + rest[at:]
		}
	}
	if i := strings.IndexByte(rest, '?'); i >= 0 {
		rest = rest[:i+1] + redactQuery(rest[i+1:])
	}
	return scheme + rest
}

// endsInPassword reports whether what stands before the first slash of a URL is
// no host: a user and the beginning of a password.
func endsInPassword(authority string) bool {
	i := strings.LastIndexByte(authority, ':')
	return i >= 0 && strings.Trim(authority[i+1:], "0123456789") != "" &&
		!strings.HasPrefix(authority, "arn:") && !strings.HasPrefix(authority, "[")
}

// redactQuery hides the values of parameters that are not known to be harmless.
func redactQuery(query string) string {
	params := strings.Split(query, "&")
	for i, param := range params {
		name, value, ok := strings.Cut(param, "=")
		known := strings.ToLower(strings.ReplaceAll(name, "-", ""))
		switch {
		case !ok || value == "":
		case known == "endpoint":
			plain, err := url.QueryUnescape(value)
			if err != nil {
				params[i] = name + "=" + hidden
			} else if redacted := redactURL(plain); redacted != plain {
				params[i] = name + "=" + redacted
			}
		case !slices.Contains(publicParameters, known):
			params[i] = name + "=" + hidden
		}
	}
	return strings.Join(params, "&")
}
