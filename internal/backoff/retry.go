package backoff

import (
	"context"
	"errors"
	"time"
)

// Attempts of one operation on a server that may be away for a moment.
const (
	maxAttempts = 6
	minDelay    = 100 * time.Millisecond
	maxDelay    = 2 * time.Second
	retryWithin = 15 * time.Second // no attempt begins later
)

// Retry calls try until it succeeds, fails with an error that is not passing, or
// has failed often or long enough.
func Retry(ctx context.Context, passing func(error) bool, try func() error) error {
	delay := Backoff{Min: minDelay, Max: maxDelay}
	began := time.Now()
	for attempt := 1; ; attempt++ {
		err := try()
		if err == nil || !passing(err) || attempt == maxAttempts || ctx.Err() != nil || time.Since(began) > retryWithin {
			return err
		}
		if waitErr := Wait(ctx, delay.Next()); waitErr != nil {
			return errors.Join(waitErr, err)
		}
	}
}

// Wait returns after d, or with an error as soon as ctx is done.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
