package webdav

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/litestream/internal/blob"
)

// Rounds and moves of an examination. A server that checks and moves in two
// steps is found out by chance: Apache in more than half of the rounds, nginx
// with several workers in one of ten.
const (
	examineRounds = 4
	examineMoves  = 4
)

// examine moves several scratch files to one scratch name beside key at the
// same moment, each with "Overwrite: F", and warns if more than one is told to
// have been moved. It is done once per server, behind the first exclusive
// write; an error ends it without a word to the caller, whose file is stored.
func (c *ReplicaClient) examine(ctx context.Context, key string) {
	for range examineRounds {
		winners, err := c.race(ctx, key)
		if err != nil {
			c.logger.Load().Debug("exclusive writes not examined", "error", err)
			return
		}
		if winners > 1 {
			c.connection().racy.Store(true)
			c.logger.Load().Warn("webdav server replaces a file in spite of a request that forbids it when two come at the same moment: "+
				"make sure that one litestream only writes to this replica, because a second one may go unnoticed", "server", c.place())
			return
		}
	}
}

// race is one round of an examination. It removes what it made.
func (c *ReplicaClient) race(ctx context.Context, key string) (winners int64, err error) {
	names := make([]string, examineMoves+1) // the last one is moved to
	for i := range names {
		names[i] = blob.TempName(key, time.Now())
	}
	sources, target := names[:examineMoves], names[examineMoves]
	defer func() {
		if deleteErr := c.deleteKeys(ctx, names); deleteErr != nil {
			err = errors.Join(err, deleteErr) // swept a day later
		}
	}()
	err = blob.Each(ctx, len(sources), maxParallel, func(ctx context.Context, i int) error {
		body := bytes.NewReader([]byte{'x'})
		return c.ask(ctx, request{method: http.MethodPut, target: c.target(sources[i]), body: io.NewSectionReader(body, 0, body.Size())})
	}, nil)
	if err != nil {
		return 0, err
	}
	var moved atomic.Int64
	err = blob.Each(ctx, len(sources), maxParallel, func(ctx context.Context, i int) error {
		err := c.ask(ctx, request{
			method: "MOVE", target: c.target(sources[i]), once: true,
			header: map[string]string{"Destination": c.target(target).String(), "Overwrite": "F"},
		})
		switch statusOf(err) {
		case http.StatusPreconditionFailed, http.StatusLocked, http.StatusInternalServerError, http.StatusConflict:
			return nil // refused, or in each other's way
		}
		if err == nil {
			moved.Add(1)
		}
		return err
	}, nil)
	return moved.Load(), err
}
