package oss

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/benbjohnson/litestream/internal/blob"
)

// maxErrorBody bounds what is read of an answer that is no success.
const maxErrorBody = 64 << 10

// request is one request, which may be sent several times.
type request struct {
	method string
	bucket string
	key    string // empty: the bucket itself
	query  url.Values
	header http.Header
	size   int64
	body   func() io.Reader // returns the body from its beginning; nil: none
}

// apiError is an answer that is no success.
type apiError struct {
	status     int
	code       string // the service's, such as "NoSuchKey"
	message    string
	id         string // of the request, which the service's support asks for
	retryAfter time.Duration
	date       time.Time // the service's clock
}

// Error returns the service's text.
func (e *apiError) Error() string {
	text := fmt.Sprint(e.status)
	if e.message == "" {
		text += " " + http.StatusText(e.status)
	} else {
		text += " " + e.message
	}
	if e.id != "" {
		text += ", request " + e.id
	}
	return text
}

// name returns the service's code, or the status.
func (e *apiError) name() string {
	if e.code != "" {
		return e.code
	}
	return fmt.Sprintf("HTTP%d", e.status)
}

// do sends a request until it succeeds, fails for good, or was tried often
// enough. The body of the answer is open.
func (cn *connection) do(ctx context.Context, r *request) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		resp, err := cn.try(ctx, r)
		if err == nil {
			return resp, nil
		}
		if attempt == blob.MaxAttempts || ctx.Err() != nil || !isTemporary(err) && !isCorrupted(err) {
			return nil, err
		}
		if err := pause(ctx, attempt, err); err != nil {
			return nil, err
		}
	}
}

// call is do for a request whose answer is XML, which it reads into out, or
// whose answer is of no interest. It returns the answer's header.
func (cn *connection) call(ctx context.Context, r *request, out any) (http.Header, error) {
	resp, err := cn.do(ctx, r)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if out != nil {
		if err := xml.Unmarshal(b, out); err != nil {
			return nil, fmt.Errorf("answer is not the service's: %w", err)
		}
	}
	return resp.Header, nil
}

// try sends a request once, and once more if the answer tells what to change:
// the clock, or keys that have ended.
func (cn *connection) try(ctx context.Context, r *request) (*http.Response, error) {
	for again := true; ; again = false {
		keys, err := cn.keys.get(ctx)
		if err != nil {
			return nil, err
		}
		resp, err := cn.send(ctx, r, keys)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 == 2 {
			return resp, nil
		}
		e, err := readError(resp)
		if err != nil {
			return nil, err
		}
		switch {
		case again && e.code == codeSkewed && !e.date.IsZero():
			cn.clockSkew.Store(int64(time.Until(e.date)))
		case again && endedKeys[e.code] && cn.keys.drop(keys):
		default:
			return nil, e
		}
	}
}

// url returns the address of an object or of the bucket.
func (cn *connection) url(r *request) string {
	base := cn.endpoint.Scheme + "://"
	if cn.usesPath {
		base += cn.endpoint.Host + "/" + r.bucket + "/"
	} else {
		base += r.bucket + "." + cn.endpoint.Host + "/"
	}
	base += escapePath(r.key)
	if len(r.query) > 0 {
		base += "?" + encodeQuery(r.query)
	}
	return base
}

func (cn *connection) send(ctx context.Context, r *request, keys *accessKeys) (*http.Response, error) {
	var body io.Reader
	if r.body != nil && r.size > 0 {
		body = r.body()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, cn.url(r), body)
	if err != nil {
		return nil, blob.WithoutURL(err)
	}
	maps.Copy(req.Header, r.header)
	req.Header.Set("User-Agent", "litestream")
	req.ContentLength = r.size
	sign(req, "/"+r.bucket+"/"+r.key, cn.region, *keys, time.Now().Add(time.Duration(cn.clockSkew.Load())))
	resp, err := cn.client.Do(req)
	if err != nil {
		return nil, blob.WithoutURL(err)
	}
	return resp, nil
}

// readError reads what the service says is wrong: XML in the body or, where an
// answer has none, in a header.
func readError(resp *http.Response) (*apiError, error) {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("read error of status %d: %w", resp.StatusCode, err)
	}
	if len(b) == 0 {
		if text, err := base64.StdEncoding.DecodeString(resp.Header.Get("X-Oss-Err")); err == nil {
			b = text
		}
	}
	e := &apiError{
		status:     resp.StatusCode,
		id:         resp.Header.Get("X-Oss-Request-Id"),
		retryAfter: blob.ParseRetryAfter(resp.Header.Get("Retry-After")),
	}
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		e.date = t
	}
	var doc struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	if xml.Unmarshal(b, &doc) == nil {
		e.code, e.message = doc.Code, doc.Message
		return e, nil
	}
	const most = 200
	text := strings.Join(strings.Fields(string(b)), " ")
	e.message = text[:min(len(text), most)]
	return e, nil
}

// pause waits before the next attempt, as long as the service asks for if it
// does.
func pause(ctx context.Context, attempt int, cause error) error {
	var retryAfter time.Duration
	if api, ok := errors.AsType[*apiError](cause); ok {
		retryAfter = api.retryAfter
	}
	return blob.Pause(ctx, attempt, retryAfter, cause)
}
