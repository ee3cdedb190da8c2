package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Settings of a Heartbeat; the times are those of Litestream v0.5.
const (
	DefaultHeartbeatInterval = 5 * time.Minute
	MinHeartbeatInterval     = time.Minute

	heartbeatCheckInterval = 15 * time.Second
	heartbeatTimeout       = 30 * time.Second
	maxHeartbeatBody       = 64 << 10 // bytes of the answer that are read, and thrown away
)

// A Heartbeat sends a GET request to a URL at most once per interval, and only
// while everything is replicated: whoever waits for it there is alarmed by its
// absence. A request that fails is not repeated before the next interval. The
// exported fields are settings; they must not change after Open.
type Heartbeat struct {
	URL      string
	Interval time.Duration

	// Check returns nil if nothing has waited for its replication for longer
	// than maxAge, else why no ping is sent. It must not block: it runs on the
	// goroutine of the heartbeat.
	Check func(maxAge time.Duration) error

	Client *http.Client // nil: one that keeps no connection open
	Logger *slog.Logger

	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed bool   // the last ping failed
	reason string // why pings are withheld; "" if they are not
}

// Open begins to check. It runs until Close, whatever happens to ctx.
func (h *Heartbeat) Open(ctx context.Context) {
	if h.Client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.DisableKeepAlives = true
		h.Client = &http.Client{Transport: t, Timeout: heartbeatTimeout}
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.cancel = cancel
	h.Logger.Info("starting heartbeat monitor", "url", RedactHeartbeatURL(h.URL), "interval", h.Interval)
	h.wg.Go(func() { h.loop(run) })
}

// Close ends a request under way and waits for the end of everything. It may
// be called twice, and without Open.
func (h *Heartbeat) Close() {
	if h.cancel != nil {
		h.cancel()
	}
	h.wg.Wait()
}

func (h *Heartbeat) loop(ctx context.Context) {
	tick := time.NewTicker(heartbeatCheckInterval)
	defer tick.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C: // its times are exact multiples, so that none is a moment too early
			if (last.IsZero() || now.Sub(last) >= h.Interval) && h.healthy() {
				last = now
				h.ping(ctx)
			}
		}
	}
}

// healthy asks whether a ping may be sent, and logs when that changes.
func (h *Heartbeat) healthy() bool {
	err := h.Check(h.Interval)
	switch {
	case err == nil && h.reason != "":
		h.reason = ""
		h.Logger.Info("heartbeat is sent again")
	case err != nil && h.reason == "":
		h.reason = err.Error()
		h.Logger.Warn("heartbeat is withheld: not everything is replicated", "reason", err)
	}
	return err == nil
}

func (h *Heartbeat) ping(ctx context.Context) {
	err := h.get(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil && !h.failed:
		h.failed = true
		h.Logger.Error("heartbeat ping failed", "url", RedactHeartbeatURL(h.URL), "error", err)
	case err == nil && h.failed:
		h.failed = false
		h.Logger.Info("heartbeat ping recovered", "url", RedactHeartbeatURL(h.URL))
	}
}

// get sends one request. Its errors do not name the URL, which is a secret.
func (h *Heartbeat) get(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
	if err != nil {
		return errors.New("invalid url")
	}
	req.Header.Set("User-Agent", "litestream")
	resp, err := h.Client.Do(req)
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	} else if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxHeartbeatBody))
	err = errors.Join(err, resp.Body.Close())
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("unexpected status code: %d", resp.StatusCode)
	}
	return err
}

// RedactHeartbeatURL returns what may be logged of a heartbeat's URL: services
// tell their users apart by the path or the query, and some by a password.
func RedactHeartbeatURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return "***"
	}
	out := u.Scheme + "://" + u.Host
	if u.User != nil || u.RawQuery != "" || u.Path != "" && u.Path != "/" {
		out += "/***"
	}
	return out
}
