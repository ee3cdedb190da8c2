package webdav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/benbjohnson/litestream/internal/backoff"
	"github.com/benbjohnson/litestream/internal/blob"
)

// Attempts of one request.
const (
	maxAttempts   = 6
	minDelay      = 100 * time.Millisecond
	maxDelay      = 2 * time.Second
	maxRetryAfter = 30 * time.Second // a longer wait is the caller's to make
	maxDrain      = 64 << 10         // bytes of an answer read to keep its connection
)

// request is one request, which may be sent several times.
type request struct {
	method string
	target *url.URL
	header map[string]string
	body   *io.SectionReader // nil: none

	// once leaves it to the caller to send the request again.
	once bool
}

// send sends a request until there is an answer that another attempt would not
// change, and returns it if it is a success. The caller closes its body.
func (c *ReplicaClient) send(ctx context.Context, r request) (*http.Response, error) {
	if err := c.Init(ctx); err != nil {
		return nil, err
	}
	delay := backoff.Backoff{Min: minDelay, Max: maxDelay}
	for attempt := 1; ; attempt++ {
		resp, err := c.sendOnce(ctx, r)
		if err == nil || r.once || attempt == maxAttempts || ctx.Err() != nil || !isPassing(err) {
			return resp, err
		}
		d := delay.Next()
		if se, ok := errors.AsType[*statusError](err); ok && se.retryAfter > d {
			if d = se.retryAfter; d > maxRetryAfter {
				return nil, err
			}
		}
		if waitErr := backoff.Wait(ctx, d); waitErr != nil {
			return nil, errors.Join(waitErr, err)
		}
	}
}

// sendOnce sends a request, and sends it again if the server asks for other
// credentials than it was given.
func (c *ReplicaClient) sendOnce(ctx context.Context, r request) (*http.Response, error) {
	cn := c.connection()
	if err := c.learn(ctx, cn, r.target); err != nil {
		return nil, err
	}
	for again := false; ; again = true {
		req, err := c.newRequest(ctx, r)
		if err != nil {
			return nil, err
		}
		if err := cn.auth.authorize(req, c.Username, c.Password); err != nil {
			return nil, err
		}
		resp, err := cn.http.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 && resp.StatusCode < 300 {
			return resp, nil
		}
		drain(resp)
		if resp.StatusCode == http.StatusUnauthorized && !again && c.Username != "" && cn.auth.challenged(resp.Header) {
			continue
		}
		return nil, &statusError{
			method: r.method, status: resp.Status, code: resp.StatusCode,
			retryAfter: blob.ParseRetryAfter(resp.Header.Get("Retry-After")),
		}
	}
}

// newRequest makes a request that has no credentials yet.
func (c *ReplicaClient) newRequest(ctx context.Context, r request) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, r.target.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if r.body != nil && r.body.Size() > 0 {
		req.GetBody = func() (io.ReadCloser, error) {
			return io.NopCloser(sourceReader{io.NewSectionReader(r.body, 0, r.body.Size())}), nil
		}
		if req.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
		req.ContentLength = r.body.Size()
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	req.Header.Set("User-Agent", "litestream")
	return req, nil
}

// ask is send for a request whose answer is its status.
func (c *ReplicaClient) ask(ctx context.Context, r request) error {
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	drain(resp)
	return nil
}

// drain reads the rest of an answer, so that its connection can be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain) // an error costs the connection only
	_ = resp.Body.Close()
}

// sourceReader tells errors of what is uploaded from those of the network.
type sourceReader struct{ r io.Reader }

func (s sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &sourceError{fmt.Errorf("read file: %w", err)}
	}
	return n, err
}
