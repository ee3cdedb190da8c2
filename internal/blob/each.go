package blob

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// maxErrors bounds how many failed items of one Each are named.
const maxErrors = 5

// Each calls fn for 0 to n-1, up to workers of them at a time, and waits for all
// it started. It goes on after an error; once hopeless, which may be nil, says so
// of one, or ctx ends, nothing more is started. It returns the first few errors.
func Each(ctx context.Context, n, workers int, fn func(ctx context.Context, i int) error, hopeless func(error) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex // guards errs and failed
		errs   []error
		failed int
	)
	next := make(chan int)
	for range min(workers, n) {
		wg.Go(func() {
			for i := range next {
				err := fn(ctx, i)
				if err == nil {
					continue
				}
				mu.Lock()
				// What fails because an earlier one was hopeless says nothing.
				if !errors.Is(err, context.Canceled) || failed == 0 {
					if failed++; failed <= maxErrors {
						errs = append(errs, err)
					}
				}
				mu.Unlock()
				if hopeless != nil && hopeless(err) {
					cancel()
				}
			}
		})
	}
	err := feed(ctx, next, n)
	wg.Wait()
	if failed > maxErrors {
		errs = append(errs, fmt.Errorf("and %d more", failed-maxErrors))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return err
}

// feed sends 0 to n-1 until ctx ends.
func feed(ctx context.Context, next chan<- int, n int) error {
	defer close(next)
	for i := range n {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		select {
		case next <- i:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
