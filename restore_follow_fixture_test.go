package litestream_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// logChan hands out log lines as they are written.
type logChan chan string

func (c logChan) Write(b []byte) (int, error) {
	c <- string(b)
	return len(b), nil
}

// following is a follower that runs in this process.
type following struct {
	tb     testing.TB
	opt    litestream.RestoreOptions
	cancel context.CancelFunc
	lines  logChan
	seen   []string
	done   chan error
	res    litestream.RestoreResult
}

// followOptions returns options of a follower that does not wait.
func followOptions(tb testing.TB, step func(string) error) litestream.RestoreOptions {
	tb.Helper()
	opt := testOptions(tb)
	opt.Follow, opt.FollowInterval = true, time.Millisecond
	opt.SetKnobs(litestream.RestoreKnobs{
		ChunkBytes: 4 << 10, RetryDelays: []time.Duration{1}, Stall: 10 * time.Second, Replans: []time.Duration{1},
		FollowLook: 1, FollowStep: step,
	})
	return opt
}

func startFollow(tb testing.TB, client litestream.ReplicaClient, opt litestream.RestoreOptions) *following {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	f := &following{tb: tb, opt: opt, cancel: cancel, lines: make(logChan, 1<<16), done: make(chan error, 1)}
	f.opt.Logger = slog.New(slog.NewTextHandler(f.lines, nil))
	go func() {
		var err error
		f.res, err = litestream.Restore(ctx, client, f.opt)
		close(f.lines)
		f.done <- err
		close(f.done)
	}()
	tb.Cleanup(func() {
		cancel()
		<-f.done
	})
	return f
}

// await returns when a log line has all the texts.
func (f *following) await(texts ...string) {
	f.tb.Helper()
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	for {
		select {
		case line, ok := <-f.lines:
			if !ok {
				f.tb.Fatalf("follower ended before it logged %q: %v\n%s", texts, <-f.done, strings.Join(f.seen, ""))
			}
			f.seen = append(f.seen, line)
			all := true
			for _, text := range texts {
				all = all && strings.Contains(line, text)
			}
			if all {
				return
			}
		case <-timeout.C:
			f.tb.Fatalf("follower did not log %q:\n%s", texts, strings.Join(f.seen, ""))
		}
	}
}

func (f *following) awaitTXID(txid ltx.TXID) {
	f.tb.Helper()
	f.await("follow: applied updates", "to_txid="+txid.String())
}

// stop ends the follower as a signal does.
func (f *following) stop() {
	f.tb.Helper()
	f.cancel()
	if err := <-f.done; err != nil {
		f.tb.Fatalf("follower stopped with %v", err)
	}
	for line := range f.lines {
		f.seen = append(f.seen, line)
	}
}

// ended waits for the follower to give up and returns why.
func (f *following) ended() error {
	f.tb.Helper()
	select {
	case err := <-f.done:
		for line := range f.lines {
			f.seen = append(f.seen, line)
		}
		return err
	case <-time.After(30 * time.Second):
		f.tb.Fatal("follower did not end")
		return nil
	}
}

// logged counts log lines with a text.
func (f *following) logged(text string) (n int) {
	for _, line := range f.seen {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// withoutHeader returns an image without what a follower changes in page 1.
func withoutHeader(image []byte) []byte {
	image = bytes.Clone(image)
	if len(image) > 100 {
		clear(image[18:20])
		clear(image[24:28])
		clear(image[92:96])
	}
	return image
}

// followedDiff says how a followed database differs from an image of its
// source, or nothing. The database must not be open in this process.
func followedDiff(path string, image []byte) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	got, want := withoutHeader(b), withoutHeader(image)
	if len(got) != len(want) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Sprintf("differs at byte %d", i)
		}
	}
	return ""
}

func wantFollowed(tb testing.TB, path string, image []byte, txid ltx.TXID) {
	tb.Helper()
	if diff := followedDiff(path, image); diff != "" {
		tb.Fatalf("followed database at txid %s: %s", txid, diff)
	}
	b, err := os.ReadFile(path + "-txid")
	if err != nil || strings.TrimSpace(string(b)) != txid.String() {
		tb.Fatalf("position file holds %q, err=%v, want %s", b, err, txid)
	}
	if _, err := os.Stat(path + "-journal"); err == nil {
		tb.Fatal("a journal was left behind")
	}
}

// sqliteCheck lets SQLite check a database and returns what a query says.
func sqliteCheck(tb testing.TB, path, query string) string {
	tb.Helper()
	app := openApp(tb, path, "")
	defer app.Close()
	var got string
	if err := app.QueryRow("PRAGMA integrity_check").Scan(&got); err != nil || got != "ok" {
		tb.Fatalf("integrity check of %s: %q, %v", path, got, err)
	}
	if err := app.QueryRow(query).Scan(&got); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
	return got
}

// copyFolder copies the files of a folder, as a crash would leave them.
func copyFolder(tb testing.TB, from, to string) {
	tb.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		tb.Fatal(err)
	}
	for _, name := range folderNames(tb, from) {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
}
