package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/benbjohnson/litestream"
)

// progressLine shows how far a restore is on one line of a terminal. On
// anything else it prints nothing.
type progressLine struct {
	w   io.Writer // nil: silent
	now func() time.Time

	// mu guards the rest and every write to the terminal, so that log lines
	// and the progress line do not mix.
	mu      sync.Mutex
	shown   bool
	started time.Time // when reading began; zero before
}

func newProgressLine(w io.Writer) *progressLine {
	p := &progressLine{now: time.Now}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.w = w
	}
	return p
}

// clearLine moves to the first column and erases to the end of the line.
const clearLine = "\r\x1b[K"

// update draws the line.
func (p *progressLine) update(s litestream.RestoreProgress) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text := string(s.Phase)
	if s.Phase == litestream.RestoreReading {
		if p.started.IsZero() {
			p.started = p.now()
		}
		text = formatProgress(s, p.now().Sub(p.started))
	}
	printf(p.w, "%s%s", clearLine, text)
	p.shown = true
}

// set draws a line of the caller's own.
func (p *progressLine) set(text string) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	printf(p.w, "%s%s", clearLine, text)
	p.shown = true
}

// formatProgress returns bytes, percent, rate and time left.
func formatProgress(s litestream.RestoreProgress, elapsed time.Duration) string {
	done, total := max(s.BytesDone, 0), max(s.BytesTotal, s.BytesDone, 0)
	percent := 100.0
	if total > 0 {
		percent = 100 * float64(done) / float64(total)
	}
	text := fmt.Sprintf("%s %5.1f%%  %s of %s", s.Phase, percent, humanize.Bytes(uint64(done)), humanize.Bytes(uint64(total)))
	if seconds := elapsed.Seconds(); seconds >= 0.5 && done > 0 {
		rate := float64(done) / seconds
		left := time.Duration(float64(total-done) / rate * float64(time.Second))
		text += fmt.Sprintf("  %s/s  %s left", humanize.Bytes(uint64(rate)), left.Round(time.Second))
	}
	return text
}

// clear erases the line.
func (p *progressLine) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clearLocked()
}

func (p *progressLine) clearLocked() {
	if p.shown {
		printf(p.w, "%s", clearLine)
		p.shown = false
	}
}

// wrap returns a writer that erases the line before it writes; the next update
// draws it again below.
func (p *progressLine) wrap(w io.Writer) io.Writer { return &progressWriter{p, w} }

type progressWriter struct {
	line *progressLine
	w    io.Writer
}

// Write writes to the terminal while no progress is shown.
func (w *progressWriter) Write(b []byte) (int, error) {
	w.line.mu.Lock()
	defer w.line.mu.Unlock()
	w.line.clearLocked()
	return w.w.Write(b)
}
