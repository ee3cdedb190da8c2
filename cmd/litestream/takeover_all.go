package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/control"
)

// takeoverParallelism is how many databases are taken over at a time.
const takeoverParallelism = 8

// takeoverRow is a line of the report.
type takeoverRow struct {
	DBPath     string `json:"db_path"`
	Status     string `json:"status"` // taken_over, failed or left
	TXID       uint64 `json:"txid,omitempty"`
	Error      string `json:"error,omitempty"`
	DurationMS int64  `json:"duration_ms"`
}

// takeoverSummary is the last line of the report.
type takeoverSummary struct {
	Databases  int   `json:"databases"`
	TakenOver  int   `json:"taken_over"`
	Failed     int   `json:"failed"`
	Left       int   `json:"left"` // not tried: interrupted
	DurationMS int64 `json:"duration_ms"`
}

// takeoverAll takes over the replicas of all databases of a daemon that the
// filter lets through; lost: of those only that another writer goes on with.
func (a *app) takeoverAll(ctx context.Context, c *client, filter string, lost bool) error {
	begin := time.Now()
	paths, err := c.listPaths(ctx, filter, lost)
	if err != nil {
		return err
	}
	var (
		mu       sync.Mutex // guards the rest
		sum      = takeoverSummary{Databases: len(paths)}
		printErr error
		wg       sync.WaitGroup
	)
	todo := make(chan string)
	for range min(takeoverParallelism, len(paths)) {
		wg.Go(func() {
			for path := range todo {
				row := c.takeOver(ctx, path)
				mu.Lock()
				sum.count(row)
				printErr = errors.Join(printErr, a.printTakeoverRow(row, c.asJSON))
				mu.Unlock()
			}
		})
	}
	for _, path := range paths {
		todo <- path
	}
	close(todo)
	wg.Wait()
	sum.DurationMS = time.Since(begin).Milliseconds()
	if c.asJSON {
		printErr = errors.Join(printErr, json.NewEncoder(a.stdout).Encode(struct {
			Summary takeoverSummary `json:"summary"`
		}{sum}))
	} else {
		printErr = errors.Join(printErr, a.printFields(field{"databases", sum.Databases}, field{"taken_over", sum.TakenOver},
			field{"failed", sum.Failed}, field{"left", sum.Left}, field{"duration_ms", sum.DurationMS}))
	}
	if printErr != nil || sum.Failed+sum.Left == 0 {
		return printErr
	}
	return fmt.Errorf("takeover incomplete: %d databases failed, %d were left", sum.Failed, sum.Left)
}

func (s *takeoverSummary) count(row takeoverRow) {
	switch row.Status {
	case "taken_over":
		s.TakenOver++
	case "left":
		s.Left++
	default:
		s.Failed++
	}
}

// takeOver takes over one replica.
func (c *client) takeOver(ctx context.Context, path string) takeoverRow {
	row := takeoverRow{DBPath: path, Status: "left"}
	if ctx.Err() != nil {
		return row
	}
	begin := time.Now()
	var res control.StateResponse
	err := c.call(ctx, "takeover", http.MethodPost, "/takeover", control.PathRequest{Path: path, Timeout: c.timeout}, &res)
	row.DurationMS = time.Since(begin).Milliseconds()
	if err != nil {
		row.Status, row.Error = "failed", err.Error()
		return row
	}
	row.Status, row.TXID = res.Status, res.TXID
	return row
}

func (a *app) printTakeoverRow(row takeoverRow, asJSON bool) error {
	switch {
	case asJSON:
		return json.NewEncoder(a.stdout).Encode(row)
	case row.Error != "":
		printf(a.stderr, "%s: %s\n", printable(row.DBPath), row.Error)
	}
	return nil
}

// listPaths returns the databases of a daemon that are not stopped or deleted.
func (c *client) listPaths(ctx context.Context, filter string, lost bool) (paths []string, err error) {
	target := "/list"
	if filter != "" {
		target += "?" + url.Values{"filter": {filter}}.Encode()
	}
	body, err := c.do(ctx, "list", http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	list := &pathListing{lost: lost}
	err = eachListed(bufio.NewReader(body), list)
	return list.paths, err
}

// pathListing collects paths.
type pathListing struct {
	lost  bool
	paths []string
}

func (p *pathListing) write(db *control.Database) error {
	switch {
	case db.Status == "deleted", db.Status == "stopped", db.Status == "open":
	case p.lost && !strings.HasPrefix(db.Error, litestream.ErrSecondWriter.Error()):
	default:
		p.paths = append(p.paths, db.Path)
	}
	return nil
}

func (p *pathListing) end(string) error { return nil }
