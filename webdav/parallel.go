package webdav

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// maxParallel is how many requests of one batch are under way (as upstream has
// it, compat.md section 5.3).
const maxParallel = 10

// parallel calls fn for 0 to n-1, some at a time, and waits for all calls. It
// goes on after an error, but not after ctx is done.
func parallel(ctx context.Context, n int, fn func(i int) error) error {
	errs := make([]error, n)
	if n == 1 {
		return fn(0)
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, maxParallel) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if errs[i] = fn(i); ctx.Err() != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err := joinSome(errs); err != nil {
		return err
	}
	return ctx.Err() // some calls may not have been made
}

// joinSome joins the first few errors; a thousand alike help nobody.
func joinSome(errs []error) error {
	const limit = 5
	var some []error
	for _, err := range errs {
		if err != nil && len(some) < limit {
			some = append(some, err)
		}
	}
	return errors.Join(some...)
}
