package gs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/benbjohnson/litestream/internal/blob"
)

// maxErrorBody bounds what is read of an answer that is no success.
const maxErrorBody = 64 << 10

// request is one request, which may be sent several times.
type request struct {
	method string
	url    string
	header http.Header
	size   int64
	body   func() io.Reader // returns the body from its beginning; nil: none
	bare   bool             // the URL is the credential
}

// statusIncomplete is the answer to a part of a resumable upload.
const statusIncomplete = http.StatusPermanentRedirect

// apiError is an answer that is no success.
type apiError struct {
	status     int
	reason     string // the service's code, such as "rateLimitExceeded"
	message    string
	retryAfter time.Duration
}

// Error returns the service's text.
func (e *apiError) Error() string {
	if e.message == "" {
		return fmt.Sprintf("%d %s", e.status, http.StatusText(e.status))
	}
	return fmt.Sprintf("%d %s", e.status, e.message)
}

// code returns the service's code, or the status.
func (e *apiError) code() string {
	if e.reason != "" {
		return e.reason
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

// call is do for a request whose answer is JSON, which it reads into out, or
// whose answer is of no interest.
func (cn *connection) call(ctx context.Context, r *request, out any) (err error) {
	resp, err := cn.do(ctx, r)
	if err != nil {
		return err
	}
	return readAnswer(resp, out)
}

// readAnswer reads an answer to its end, so that its connection can be used
// again.
func readAnswer(resp *http.Response, out any) error {
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("answer is not the service's: %w", err)
	}
	return nil
}

// try sends a request once, or twice if the token was refused.
func (cn *connection) try(ctx context.Context, r *request) (*http.Response, error) {
	var refused bool
	for {
		var token *oauth2.Token
		if cn.tokens != nil && !r.bare {
			var err error
			if token, err = cn.tokens.token(ctx); err != nil {
				return nil, err
			}
		}
		resp, err := cn.send(ctx, r, token)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 == 2 || resp.StatusCode == statusIncomplete && r.bare {
			return resp, nil
		}
		err = readError(resp)
		if token != nil && resp.StatusCode == http.StatusUnauthorized && !refused {
			refused = true
			cn.tokens.drop(token)
			continue
		}
		return nil, err
	}
}

func (cn *connection) send(ctx context.Context, r *request, token *oauth2.Token) (*http.Response, error) {
	var body io.Reader
	if r.body != nil && r.size > 0 {
		body = r.body()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return nil, blob.WithoutURL(err)
	}
	maps.Copy(req.Header, r.header)
	req.Header.Set("User-Agent", "litestream")
	req.ContentLength = r.size
	if token != nil {
		token.SetAuthHeader(req)
	}
	resp, err := cn.client.Do(req)
	if err != nil {
		return nil, blob.WithoutURL(err)
	}
	return resp, nil
}

// readError reads what the service says is wrong: JSON, or plain text where the
// content of an object was asked for.
func readError(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("read error of status %d: %w", resp.StatusCode, err)
	}
	e := &apiError{status: resp.StatusCode, retryAfter: blob.ParseRetryAfter(resp.Header.Get("Retry-After"))}
	var doc struct {
		Error struct {
			Message string
			Errors  []struct{ Reason string }
		}
	}
	if json.Unmarshal(b, &doc) == nil && doc.Error.Message != "" {
		e.message = doc.Error.Message
		if len(doc.Error.Errors) > 0 {
			e.reason = doc.Error.Errors[0].Reason
		}
		return e
	}
	const most = 200
	text := strings.Join(strings.Fields(string(b)), " ")
	e.message = text[:min(len(text), most)]
	return e
}

// passingReasons are answers with status 403 that a retry may heal.
var passingReasons = map[string]bool{
	"rateLimitExceeded":     true,
	"userRateLimitExceeded": true,
	"quotaExceeded":         true,
}

// isTemporary reports whether the same request may succeed in a moment.
func isTemporary(err error) bool {
	var (
		api   *apiError
		creds *credentialsError
	)
	switch {
	case errors.As(err, &api):
		return api.status == http.StatusRequestTimeout || api.status == http.StatusTooManyRequests ||
			api.status >= 500 && api.status != http.StatusNotImplemented || passingReasons[api.reason]
	case errors.As(err, &creds):
		return !creds.missing && !creds.permanent()
	default:
		permanent, _ := blob.JudgeTransport(err)
		return !permanent
	}
}

// isCorrupted reports whether the service refused content that does not have the
// checksum: it was changed on the way.
func isCorrupted(err error) bool {
	api, ok := errors.AsType[*apiError](err)
	return ok && api.status == http.StatusBadRequest && strings.Contains(strings.ToLower(api.message), "crc32c")
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
