package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Flags of the commands that talk to a daemon.
var (
	socketFlag = [2]string{"-socket PATH", "Control socket of the daemon (default: " + defaultSocketPath + ")."}
	rawFlag    = [2]string{"-json", "Print JSON instead of text."}
)

func timeoutFlag(seconds int) [2]string {
	return [2]string{"-timeout SECONDS", fmt.Sprintf("How long to wait at most (default: %d).", seconds)}
}

// Default timeouts in seconds: of commands that change or wait for something,
// and of those that ask.
const (
	defaultClientTimeout = 30
	defaultQueryTimeout  = 10
)

// answerMargin is how much longer than the daemon a client waits, so that it
// is the daemon that says what took too long.
const answerMargin = 2 * time.Second

// client talks to a daemon over its control socket.
type client struct {
	socket  string
	timeout int // seconds
	asJSON  bool
}

func (c *client) register(fs *flag.FlagSet, timeout int) {
	fs.StringVar(&c.socket, "socket", defaultSocketPath, "control socket path")
	fs.IntVar(&c.timeout, "timeout", timeout, "timeout in seconds")
	fs.BoolVar(&c.asJSON, "json", false, "output raw JSON")
}

// check makes sure that there is time to wait.
func (c *client) check() error {
	if c.timeout <= 0 {
		return errors.New("timeout must be greater than 0")
	}
	return nil
}

// oneDatabase returns the positional argument of a command that takes one.
func oneDatabase(args []string, try string) (string, error) {
	switch len(args) {
	case 0:
		return "", &tryError{errors.New("database path required"), try}
	case 1:
		return args[0], nil
	default:
		return "", errTooManyArguments
	}
}

// maxClientTimeout keeps a number of seconds within what a duration can say.
const maxClientTimeout = 365 * 24 * time.Hour

// errNoDaemon means that nobody answers at the socket.
var errNoDaemon = errors.New("failed to connect to control socket")

// do sends a request and returns the body of a successful answer, which has to
// be closed. verb names the command in an error of the daemon.
func (c *client) do(ctx context.Context, verb, method, target string, body any) (io.ReadCloser, error) {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+target, payload)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	hc := &http.Client{
		Timeout: time.Duration(min(int64(c.timeout), int64(maxClientTimeout/time.Second)))*time.Second + answerMargin,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", c.socket)
			},
		},
	}
	res, err := hc.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoDaemon, err)
	}
	if res.StatusCode == http.StatusOK {
		return res.Body, nil
	}
	return nil, errors.Join(fmt.Errorf("%s failed: %s", verb, daemonError(res)), res.Body.Close())
}

// maxErrorBody bounds what is read of an answer that is no success.
const maxErrorBody = 64 << 10

// daemonError returns what the daemon says is wrong.
func daemonError(res *http.Response) string {
	data, err := io.ReadAll(io.LimitReader(res.Body, maxErrorBody))
	if err != nil {
		return err.Error()
	}
	var e struct {
		Error   string `json:"error"`
		Details any    `json:"details"`
	}
	switch err := json.Unmarshal(data, &e); {
	case err != nil || e.Error == "":
		return fmt.Sprintf("%s: %s", res.Status, bytes.TrimSpace(data))
	case e.Details != nil:
		return fmt.Sprintf("%s: %v", e.Error, e.Details)
	default:
		return e.Error
	}
}

// call sends a request and decodes the answer into out.
func (c *client) call(ctx context.Context, verb, method, target string, body, out any) (err error) {
	res, err := c.do(ctx, verb, method, target, body)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Close()) }()
	if err := json.NewDecoder(res).Decode(out); err != nil {
		return fmt.Errorf("read answer of the daemon: %w", err)
	}
	return nil
}

// field is a line of a command's text.
type field struct {
	name  string
	value any
}

// printFields prints one line for each.
func (a *app) printFields(fields ...field) error {
	var b bytes.Buffer
	for _, f := range fields {
		_, _ = fmt.Fprintf(&b, "%s: %v\n", f.name, f.value) // to memory
	}
	_, err := a.stdout.Write(b.Bytes())
	return err
}
