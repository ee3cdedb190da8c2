package litestream

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
	"sync"
)

// ReplicaClientFactory makes a client from the parts of a replica URL as
// ParseReplicaURL returns them. It makes no request.
type ReplicaClientFactory func(scheme, host, urlPath string, query url.Values, userinfo *url.Userinfo) (ReplicaClient, error)

// replicaFactories holds the factories of the packages that are linked in. It
// is filled by their register.go and read afterwards.
var replicaFactories = struct {
	mu       sync.RWMutex
	byScheme map[string]ReplicaClientFactory
}{byScheme: make(map[string]ReplicaClientFactory)}

// RegisterReplicaClientFactory makes a URL scheme known to
// NewReplicaClientFromURL. A later registration replaces an earlier one.
func RegisterReplicaClientFactory(scheme string, f ReplicaClientFactory) {
	replicaFactories.mu.Lock()
	defer replicaFactories.mu.Unlock()
	replicaFactories.byScheme[scheme] = f
}

// NewReplicaClientFromURL returns a client for a replica URL. The package that
// serves the scheme must be imported. The client is not initialized yet.
func NewReplicaClientFromURL(rawURL string) (ReplicaClient, error) {
	scheme, host, urlPath, query, userinfo, err := ParseReplicaURL(rawURL)
	if err != nil {
		return nil, err
	}
	replicaFactories.mu.RLock()
	f := replicaFactories.byScheme[scheme]
	replicaFactories.mu.RUnlock()
	if f == nil {
		return nil, fmt.Errorf("unsupported replica URL scheme: %q", scheme)
	}
	return f(scheme, host, urlPath, query, userinfo)
}

var replicaURLRegex = regexp.MustCompile(`^(\w+)://`)

// IsURL reports whether s begins with a scheme, as a replica URL does and a
// path does not.
func IsURL(s string) bool { return replicaURLRegex.MatchString(s) }

// ReplicaTypeFromURL returns the client type that a replica URL asks for: its
// scheme in lower case, and "webdav" for "webdavs". It is empty if s is no URL.
func ReplicaTypeFromURL(s string) string {
	m := replicaURLRegex.FindStringSubmatch(s)
	if m == nil {
		return ""
	}
	if scheme := strings.ToLower(m[1]); scheme != "webdavs" {
		return scheme
	}
	return "webdav"
}

// ParseReplicaURL splits a replica URL; the cases were observed on Litestream
// v0.5.18, see TestParseReplicaURL:
//
//   - The path is percent-decoded, cleaned of "." and "..", and has no leading
//     slash. Without any path it is ".", with a bare slash it is empty.
//   - file: the host, if any, is the first element of the path, which stays
//     absolute and percent-encoded; the query is dropped.
//   - sftp, webdav, webdavs: the path is cleaned and keeps its leading slash.
//   - s3 with an access point's ARN: host is the ARN up to the access point's
//     name, path is the rest; without a rest it is empty.
func ParseReplicaURL(s string) (scheme, host, urlPath string, query url.Values, userinfo *url.Userinfo, err error) {
	if !IsURL(s) {
		return "", "", "", nil, nil, fmt.Errorf("replica URL has no scheme: %q", s)
	}
	if arn, rest, ok := cutAccessPointARN(s); ok {
		return parseAccessPointURL(s, arn, rest)
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", "", "", nil, nil, redactURLError(s, err)
	}

	scheme = strings.ToLower(u.Scheme)
	switch scheme {
	case "file":
		u.Scheme, u.RawQuery, u.ForceQuery = "", "", false
		return scheme, "", path.Clean(u.String()), nil, nil, nil
	case "sftp", "webdav", "webdavs":
		urlPath = path.Clean(u.Path)
	default:
		urlPath = cleanURLPath(u.Path)
	}
	return scheme, u.Host, urlPath, u.Query(), u.User, nil
}

func cleanURLPath(p string) string { return strings.TrimPrefix(path.Clean(p), "/") }

// quotedRegex matches what an error cites.
var quotedRegex = regexp.MustCompile(` ?"(?:[^"\\]|\\.)*"`)

// redactURLError drops the text of the URL s and all parts of it from a parse
// error, because they may hold a password.
func redactURLError(s string, err error) error {
	if ue, ok := err.(*url.Error); ok { //nolint:errorlint // url.Parse documents this very type
		err = ue.Err
	}
	text := strings.TrimPrefix(quotedRegex.ReplaceAllString(err.Error(), ""), "net/url: ")
	if strings.Contains(s, "@") {
		text += " (percent-encode user name and password: %2F stands for a slash, %40 for @)"
	}
	return errors.New("parse replica URL: " + text)
}

// cutAccessPointARN splits s3://arn:…:accesspoint/NAME/KEY behind NAME. The
// colons of an ARN are no port, so such a URL is none for net/url.
func cutAccessPointARN(s string) (arn, rest string, ok bool) {
	const scheme = "s3://"
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) {
		return "", "", false
	}
	s = s[len(scheme):]
	if !strings.HasPrefix(s, "arn:") {
		return "", "", false
	}
	for _, sep := range []string{"accesspoint/", "accesspoint:"} {
		i := strings.Index(s, sep)
		if i < 0 || (s[i-1] != ':' && s[i-1] != '/') {
			continue
		}
		end := i + len(sep)
		if n := strings.IndexAny(s[end:], "/?#"); n >= 0 {
			end += n
		} else {
			end = len(s)
		}
		return s[:end], s[end:], true
	}
	return "", "", false
}

func parseAccessPointURL(s, arn, rest string) (scheme, host, urlPath string, query url.Values, userinfo *url.Userinfo, err error) {
	u, err := url.Parse("s3://accesspoint" + rest)
	if err != nil {
		return "", "", "", nil, nil, redactURLError(s, err)
	}
	if strings.HasSuffix(arn, "accesspoint/") || strings.HasSuffix(arn, "accesspoint:") {
		return "", "", "", nil, nil, fmt.Errorf("parse replica URL: access point has no name: %q", s)
	}
	if u.Path != "" {
		urlPath = cleanURLPath(u.Path)
	}
	return "s3", arn, urlPath, u.Query(), nil, nil
}
