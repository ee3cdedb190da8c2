package backoff_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/litestream/internal/backoff"
)

func TestRetry(t *testing.T) {
	passing, final := errors.New("passing"), errors.New("final")
	for _, tt := range []struct {
		name  string
		fail  func(call int) error
		takes time.Duration // of one call
		calls int
		want  error
	}{
		{"Good", func(int) error { return nil }, 0, 1, nil},
		{"Passing", func(call int) error {
			if call < 3 {
				return passing
			}
			return nil
		}, 0, 3, nil},
		{"Final", func(int) error { return final }, 0, 1, final},
		{"Often", func(int) error { return passing }, 0, 6, passing},
		{"Long", func(int) error { return passing }, 9 * time.Second, 2, passing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				err := backoff.Retry(t.Context(), func(err error) bool { return errors.Is(err, passing) }, func() error {
					calls++
					time.Sleep(tt.takes)
					return tt.fail(calls)
				})
				if !errors.Is(err, tt.want) || calls != tt.calls {
					t.Errorf("err=%v after %d calls, want %v after %d", err, calls, tt.want, tt.calls)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := backoff.Retry(ctx, func(error) bool { return true }, func() error { return passing })
		if !errors.Is(err, passing) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Millisecond {
			t.Errorf("err=%v after %s, want both errors as soon as ctx ends", err, time.Since(began))
		}
	})
}
