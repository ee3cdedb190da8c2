package blob

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Retries of one request, with delays that grow.
const (
	// MaxAttempts is how often a request is sent.
	MaxAttempts = 8

	baseBackoff   = 100 * time.Millisecond
	maxBackoff    = 2 * time.Second
	maxRetryAfter = time.Minute // of what the service asks for
)

// Pause waits before the next attempt: as long as the service asks for, and
// else a time that grows, of which half is random, so that many clients do not
// come back at once. The first attempt has number 1; cause is its error.
func Pause(ctx context.Context, attempt int, retryAfter time.Duration, cause error) error {
	d := min(baseBackoff<<(attempt-1), maxBackoff)
	d = max(d/2+rand.N(d/2), retryAfter)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), cause)
	}
}

// ParseRetryAfter reads the header Retry-After, seconds or a time, and returns
// at most a minute.
func ParseRetryAfter(s string) time.Duration {
	if seconds, err := strconv.Atoi(s); err == nil && seconds > 0 {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(s); err == nil {
		return min(max(time.Until(t), 0), maxRetryAfter)
	}
	return 0
}

// WithoutURL takes the URL out of an error of net/http, which the error that
// wraps it names in its own way, or must not show.
func WithoutURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}
