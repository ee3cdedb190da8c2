package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// fleet is what the demo reads of `litestream status -json`.
type fleet struct {
	Hot          int
	Cold         int
	States       map[string]int
	Queue        struct{ Changed, First int }
	Unreplicated int
	At           time.Time
}

func (f fleet) String() string {
	return fmt.Sprintf("%s  %d hot, %d cold; %d wait; %d not replicated yet",
		f.At.Local().Format(time.TimeOnly), f.Hot, f.Cold, f.Queue.Changed+f.Queue.First, f.Unreplicated)
}

// fleet asks litestream how all databases are. It is false before its first
// scan.
func (d *demo) fleet(ctx context.Context) (fleet, bool) {
	out, err := exec.CommandContext(ctx, d.bin, "status", "-json", "-config", d.config).Output()
	if err != nil {
		return fleet{}, false
	}
	var status struct {
		MultiDB struct{ Summary *fleet } `json:"multi_db"`
	}
	if err := json.Unmarshal(out, &status); err != nil || status.MultiDB.Summary == nil {
		return fleet{}, false
	}
	return *status.MultiDB.Summary, true
}

// watch shows how the databases are until they are as they should be.
func (d *demo) watch(ctx context.Context, done func(fleet) bool, orders int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("litestream takes too long"))
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	defer d.show.end()
	begin := time.Now()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		f, ok := d.fleet(ctx)
		if !ok || f.At.Before(begin) {
			continue
		}
		line := f.String()
		if orders > 0 {
			line += fmt.Sprintf("; %d orders", orders)
		}
		d.show.line(line)
		if done(f) {
			return nil
		}
	}
}

// display shows one line that changes on a terminal, and a line now and then
// elsewhere.
type display struct {
	w        io.Writer
	terminal bool
	shown    *time.Time
}

// pipeInterval is the pause between two lines that nobody looks at.
const pipeInterval = 3 * time.Second

func newDisplay(f *os.File) display {
	fi, err := f.Stat()
	return display{w: f, terminal: err == nil && fi.Mode()&os.ModeCharDevice != 0, shown: new(time.Time)}
}

func (d display) line(s string) {
	switch now := time.Now(); {
	case d.terminal:
		fmt.Fprintf(d.w, "\r\x1b[K   %s", s)
		*d.shown = now
	case now.Sub(*d.shown) >= pipeInterval:
		fmt.Fprintf(d.w, "   %s\n", s)
		*d.shown = now
	}
}

// end leaves the line as it is.
func (d display) end() {
	if d.terminal && !d.shown.IsZero() {
		fmt.Fprintln(d.w)
	}
	*d.shown = time.Time{}
}
