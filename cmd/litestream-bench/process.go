//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	readyTimeout = 2 * time.Minute
	stopTimeout  = time.Minute
	pollInterval = 50 * time.Millisecond
	clockTick    = 100 // of the times in /proc/PID/stat per second: USER_HZ on every Linux
	logTailBytes = 2 << 10
)

// process is a program under measurement.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // of its end; read after exited is closed
}

// start starts a program whose output goes to a log file in dir.
func start(dir, bin string, args ...string) (*process, error) {
	p := &process{log: filepath.Join(dir, filepath.Base(bin)+".log"), exited: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()                  // the child has its own descriptor
	p.cmd = exec.Command(bin, args...) //nolint:noctx // stop ends it, with a signal that it can answer
	p.cmd.Dir, p.cmd.Env = dir, cleanEnv()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", bin, err)
	}
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// cleanEnv is our environment without what would configure either tool.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "AWS_") || strings.HasPrefix(kv, "LITESTREAM_") || strings.HasPrefix(kv, "LOG_LEVEL=")
	})
}

// stop ends the program as an operator would, and by force if it does not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timer := time.AfterFunc(stopTimeout, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	<-p.exited
}

// kill ends the program at once, where what it would do before its end is not
// measured.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
}

// alive is nil while the program runs.
func (p *process) alive() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended early: %w\n%s", p.cmd.Path, p.err, p.logTail())
	default:
		return nil
	}
}

// logTail returns the end of what the program said.
func (p *process) logTail() []byte {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-logTailBytes):]
}

// wait waits until ok, for as long as the program runs.
func (p *process) wait(ctx context.Context, what string, ok func() (bool, error)) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for deadline := time.Now().Add(readyTimeout); ; {
		if done, err := ok(); err != nil || done {
			return err
		}
		if err := p.alive(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not after %s\n%s", what, readyTimeout, p.logTail())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// usage is what a process has used and holds.
type usage struct {
	cpu     time.Duration // user and system, since its start
	rss     float64       // MiB now
	peak    float64       // MiB, highest so far
	fds     int
	threads int
}

func (p *process) usage() (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return u, err
	}
	// The name in parentheses may hold anything; fields count from behind it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 18 {
		return u, fmt.Errorf("%sstat: %q", dir, stat)
	}
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, fmt.Errorf("%sstat: %w", dir, err)
		}
		u.cpu += time.Duration(n) * (time.Second / clockTick)
	}
	if u.threads, err = strconv.Atoi(fields[17]); err != nil {
		return u, fmt.Errorf("%sstat: %w", dir, err)
	}
	rss, err := procField(dir+"status", "VmRSS")
	if err != nil {
		return u, err
	}
	peak, err := procField(dir+"status", "VmHWM")
	if err != nil {
		return u, err
	}
	u.rss, u.peak = float64(rss)/1024, float64(peak)/1024
	fds, err := os.ReadDir(dir + "fd")
	u.fds = len(fds)
	return u, err
}

// procField reads a field of a file of lines such as "VmRSS:   123 kB", in kB.
func procField(path, name string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: no field %s", path, name)
}

// goroutines asks the metrics of a process, which both tools serve.
func goroutines(ctx context.Context, addr string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "go_goroutines "); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, errors.New("metrics: no go_goroutines")
}

// freeAddr returns a loopback address on which nothing listens.
func freeAddr(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
