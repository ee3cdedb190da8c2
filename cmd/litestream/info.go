package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/benbjohnson/litestream/internal/control"
)

var infoHelp = help{
	about:    "info shows what a running daemon says of itself: its version, process, uptime and number of databases.",
	forms:    []string{"info [arguments]"},
	flags:    [][2]string{rawFlag, socketFlag, timeoutFlag(defaultQueryTimeout)},
	examples: []string{"info", "info -json", "info -socket /tmp/litestream.sock"},
}

func (a *app) runInfo(ctx context.Context, args []string) (err error) {
	var c client
	fs := a.newFlagSet("litestream-info", &infoHelp)
	c.register(fs, defaultQueryTimeout)
	if err := fs.Parse(args); err != nil {
		return err
	} else if fs.NArg() > 0 {
		return errTooManyArguments
	} else if err := c.check(); err != nil {
		return err
	}
	var raw json.RawMessage
	if err := c.call(ctx, "info", http.MethodGet, "/info", nil, &raw); err != nil {
		return err
	}
	if c.asJSON {
		return writeJSON(a.stdout, raw)
	}
	var info control.Info
	if err := json.Unmarshal(raw, &info); err != nil {
		return fmt.Errorf("read answer of the daemon: %w", err)
	}
	for _, line := range [][2]string{
		{"Litestream " + info.Version, ""},
		{"  PID:        ", fmt.Sprint(info.PID)},
		{"  Uptime:     ", (time.Duration(info.UptimeSeconds) * time.Second).String()},
		{"  Started at: ", info.StartedAt.Format(time.RFC3339)},
		{"  Databases:  ", fmt.Sprint(info.DatabaseCount)},
	} {
		_, werr := fmt.Fprintln(a.stdout, line[0]+line[1])
		err = errors.Join(err, werr)
	}
	return err
}
