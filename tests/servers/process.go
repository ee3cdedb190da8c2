package servers

import (
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

const (
	readyTimeout = 60 * time.Second // until a server accepts connections
	stopTimeout  = 5 * time.Second  // between SIGTERM and SIGKILL
	pollInterval = 10 * time.Millisecond
	logTail      = 4 << 10 // bytes of a server's log shown with a failed test
)

// process is one server process. It is killed when the test ends; its data
// goes away then too.
type process struct {
	tb   testing.TB
	name string
	path string
	args []string
	dir  string // holds the log
	addr string // TCP address that accepts connections when it is ready

	family bool // it has children that must end with it

	cmd     *exec.Cmd // nil while stopped
	cleanup bool      // kill is registered with tb
}

// start starts the process and waits until it accepts connections.
func (p *process) start() {
	p.tb.Helper()
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer log.Close()
	// A file, unlike a buffer, needs no goroutine that copies.
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		p.tb.Fatalf("start %s: %v", p.name, err)
	}
	p.cmd = cmd
	if !p.cleanup {
		p.cleanup = true
		p.tb.Cleanup(p.kill)
	}
	p.waitReady()
}

func (p *process) waitReady() {
	p.tb.Helper()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for deadline := time.Now().Add(readyTimeout); ; <-tick.C {
		conn, err := net.DialTimeout("tcp", p.addr, time.Second)
		if err == nil {
			_ = conn.Close() // that it opened is all we asked
			return
		}
		if time.Now().After(deadline) {
			p.tb.Fatalf("%s does not listen after %s: %v", p.name, readyTimeout, err)
		}
	}
}

// stop asks the process to end, kills it if it does not, and waits for it.
func (p *process) stop() {
	p.tb.Helper()
	if p.cmd == nil {
		return
	}
	killChildren := p.children()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.tb.Logf("stop %s: %v", p.name, err)
	}
	timer := time.AfterFunc(stopTimeout, func() { _ = p.cmd.Process.Kill() }) // it may have ended meanwhile
	_ = p.cmd.Wait()                                                          // its exit status after a signal says nothing
	timer.Stop()
	killChildren()
	p.cmd = nil
}

// kill ends the process at once and shows its log if the test failed.
func (p *process) kill() {
	if p.cmd != nil {
		killChildren := p.children()
		_ = p.cmd.Process.Kill() // it may have ended by itself
		_ = p.cmd.Wait()         // its exit status after a signal says nothing
		killChildren()
		p.cmd = nil
	}
	if !p.tb.Failed() {
		return
	}
	b, err := os.ReadFile(p.logFile())
	if err != nil {
		p.tb.Logf("read log of %s: %v", p.name, err)
	}
	p.tb.Logf("log of %s ends:\n%s", p.name, b[max(0, len(b)-logTail):])
}

// children returns what ends the children that the process has now, and theirs.
// It must be called before the process ends, when they lose their parent.
func (p *process) children() (kill func()) {
	var all []*os.Process
	if p.family {
		all = descendants(p.cmd.Process.Pid)
	}
	return func() {
		for _, child := range all {
			_ = child.Kill() // it may have ended by itself
			_ = child.Release()
		}
	}
}

func (p *process) logFile() string { return filepath.Join(p.dir, p.name+".log") }

// freeAddr returns a loopback address on which nothing listens. Its port lies
// below those that the kernel hands out, so that no outgoing connection takes
// it while a server is stopped.
func freeAddr(tb testing.TB) string {
	tb.Helper()
	const lowest, count, attempts = 20000, 12000, 100
	for range attempts {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.IntN(count)))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue // taken
		}
		if err := ln.Close(); err != nil {
			tb.Fatal(err)
		}
		return addr
	}
	tb.Fatalf("no free port after %d attempts", attempts)
	return ""
}

// listen opens an address of freeAddr, again if this process had it open before.
// A child that is being started shares our sockets until its own program runs,
// so one that we closed may be in use for some milliseconds more.
func listen(tb testing.TB, addr string) net.Listener {
	tb.Helper()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for deadline := time.Now().Add(readyTimeout); ; <-tick.C {
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			return ln
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			tb.Fatal(err)
		}
	}
}

// splitAddr returns the host and the port of an address.
func splitAddr(tb testing.TB, addr string) (host, port string) {
	tb.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	return host, port
}
