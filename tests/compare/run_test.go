package compare_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mattn/go-shellwords"
)

const (
	callTimeout  = 40 * time.Second // more than upstream's shutdown may take
	pollInterval = 20 * time.Millisecond
)

// output is what one step showed, by stream.
type output struct {
	exit   string // exit status, or how it ended
	stdout string // without log lines
	stderr string // without log lines
	log    string // stream, level and message of each log line
	files  string // what was in the folder at the end; of the last step only
}

// streams lists the parts of an output in the order of a report.
var streams = []string{"exit", "stdout", "stderr", "log", "files"}

func (o *output) stream(name string) string {
	switch name {
	case "exit":
		return o.exit
	case "stdout":
		return o.stdout
	case "stderr":
		return o.stderr
	case "log":
		return o.log
	default:
		return o.files
	}
}

// world is one program at work on its copy of the scene.
type world struct {
	t       *testing.T
	program string
	dir     string
	daemon  *daemon
}

// run runs the steps of a session and returns what each showed.
func (w *world) run(s session) (outputs []output) {
	w.t.Helper()
	for _, step := range s.steps {
		outputs = append(outputs, w.step(step))
	}
	if w.daemon != nil {
		outputs[len(outputs)-1].log += w.stop().log
	}
	levels := merged
	if len(s.steps) > 1 || execs.MatchString(s.steps[0]) {
		levels = timed // how long it runs decides on snapshots
	}
	outputs[len(outputs)-1].files = listFiles(w.t, w.dir, levels)
	return outputs
}

// step runs a command line, or what a word with @ in front says.
func (w *world) step(text string) output {
	w.t.Helper()
	args, err := shellwords.Parse(strings.ReplaceAll(text, "$D", w.dir))
	if err != nil {
		w.t.Fatalf("%s: %v", text, err)
	}
	first := ""
	if len(args) > 0 {
		first = args[0]
	}
	switch first {
	case "@start": // a daemon, until @stop
		w.start(args[1:])
	case "@stop": // SIGTERM to the daemon
		return w.stop()
	case "@write": // a row into a database
		writeRow(w.t, filepath.Join(w.dir, args[1]), "INSERT INTO t0 VALUES (4)")
	case "@create": // a database
		databaseStates(w.t, filepath.Join(w.dir, args[1]), 1)
	case "@wait": // for a file
		waitFor(w.t, text, func() bool { return exists(filepath.Join(w.dir, args[1])) })
	case "@listed": // for words in the answer to GET /list; with ! for their end
		words, gone := strings.CutPrefix(args[1], "!")
		waitFor(w.t, text, func() bool {
			return strings.Contains(w.request([]string{"GET", "/list", ""}).stdout, words) != gone
		})
	case "@synced": // for a database of the daemon to have a time of its last sync
		words := fmt.Sprintf(`"path":"/scratch/%s","status":"replicating","last_sync_at":`, args[1])
		waitFor(w.t, text, func() bool {
			return strings.Contains(w.request([]string{"GET", "/list", ""}).stdout, words)
		})
	case "@said": // for words in the daemon's output
		waitFor(w.t, text, func() bool { return strings.Contains(w.daemon.out.String()+w.daemon.err.String(), args[1]) })
	case "@remove":
		if err := os.RemoveAll(filepath.Join(w.dir, args[1])); err != nil {
			w.t.Fatal(err)
		}
	case "@http": // METHOD PATH [BODY] to the control socket
		return w.request(append(args[1:], "")[:3])
	default:
		return w.call(args)
	}
	return output{}
}

// command returns a command of the program in the folder, without anything of
// our environment that either program reads. Words NAME=value set variables.
func (w *world) command(ctx context.Context, args []string) *exec.Cmd {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "TZ=UTC", "LITESTREAM_CONFIG=missing.yml"}
	for len(args) > 0 && regexp.MustCompile(`^[A-Z0-9_]+=`).MatchString(args[0]) {
		env, args = append(env, args[0]), args[1:]
	}
	cmd := exec.CommandContext(ctx, w.program, args...)
	cmd.Dir, cmd.Env = w.dir, env
	return cmd
}

func (w *world) call(args []string) output {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), callTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := w.command(ctx, args)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	o := w.output(stdout.String(), stderr.String())
	o.exit = fmt.Sprint(cmd.ProcessState.ExitCode())
	if ctx.Err() != nil {
		o.exit = "killed after " + callTimeout.String()
	}
	return o
}

// daemon is a program that runs until it is told to stop.
type daemon struct {
	cmd      *exec.Cmd
	out, err lockedBuffer
	ended    chan struct{}
}

func (w *world) start(args []string) {
	w.t.Helper()
	d := &daemon{cmd: w.command(w.t.Context(), args), ended: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.err
	if err := d.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(d.ended)
		_ = d.cmd.Wait() // its status is in ProcessState
	}()
	w.daemon = d
	w.t.Cleanup(func() {
		_ = d.cmd.Process.Kill() // it has ended, unless the test failed
		<-d.ended
	})
}

func (w *world) stop() output {
	w.t.Helper()
	d := w.daemon
	w.daemon = nil
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	timer := time.NewTimer(callTimeout)
	defer timer.Stop()
	select {
	case <-d.ended:
	case <-timer.C:
		w.t.Errorf("daemon did not end:\n%s%s", &d.out, &d.err)
		return output{exit: "does not end"}
	}
	o := w.output(d.out.String(), d.err.String())
	o.exit = fmt.Sprint(d.cmd.ProcessState.ExitCode())
	return o
}

// request sends a request to the control socket, and shows the answer as if it
// were a program's output.
func (w *world) request(args []string) output {
	w.t.Helper()
	client := &http.Client{Timeout: callTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(w.dir, "s"))
		},
	}}
	req, err := http.NewRequestWithContext(w.t.Context(), args[0], "http://localhost"+args[1], strings.NewReader(args[2]))
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		return w.output("", err.Error())
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return w.output("", err.Error())
	}
	o := w.output(res.Header.Get("Content-Type")+"\n"+string(body), "")
	o.exit = res.Status
	return o
}

var (
	logLine    = regexp.MustCompile(`(?m)^time=\S+ level=(\w+) (?:source=\S+ )?msg=("(?:[^"\\]|\\.)*"|\S+).*\n`)
	jsonLine   = regexp.MustCompile(`(?m)^\{"time":"[^"]*","level":"(\w+)",(?:"source":\{[^}]*\},)?"msg":("(?:[^"\\]|\\.)*").*\n`)
	prettyLine = regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d (\w{3}) (.*?)(?: [\w.-]+=.*)?\n`)
	// A panic is followed by the stacks of all goroutines.
	stacks = regexp.MustCompile(`(?s)\n(\[signal .*|goroutine \d+ \[.*)`)

	// What differs from run to run keeps its form.
	moments   = regexp.MustCompile(`\b(202[1-9]|20[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`)
	durations = regexp.MustCompile(`("?(?:duration_ms|uptime_seconds|pid|elapsed_seconds|PID|Uptime)"?: *)[\d.]+\w*`)
)

// output splits the log lines off what a program printed, and replaces what
// has to differ: the folder, moments, durations, process numbers.
func (w *world) output(stdout, stderr string) (o output) {
	split := func(name, text string) string {
		for _, line := range []*regexp.Regexp{logLine, jsonLine, prettyLine} {
			for _, m := range line.FindAllStringSubmatch(text, -1) {
				o.log += fmt.Sprintf("%s %s %s\n", name, m[1], strings.Trim(w.steady(m[2]), `"`))
			}
			text = line.ReplaceAllString(text, "")
		}
		return w.steady(text)
	}
	o.stdout, o.stderr = split("stdout", stdout), split("stderr", stderr)
	return o
}

func (w *world) steady(text string) string {
	text = strings.ReplaceAll(text, w.dir, "/scratch")
	text = strings.ReplaceAll(text, w.program, "litestream")
	text = moments.ReplaceAllStringFunc(text, func(m string) string {
		zone := "<zone>"
		if strings.HasSuffix(m, "Z") {
			zone = "Z"
		}
		if strings.Contains(m, ".") {
			return "<moment.fraction>" + zone
		}
		return "<moment>" + zone
	})
	text = durations.ReplaceAllString(text, "${1}<n>")
	return stacks.ReplaceAllString(text, "\n")
}

// What is not listed: files that come and go with the clock. A daemon makes
// snapshots when it is time, a single command only if it is told to.
var (
	merged = regexp.MustCompile(`/ltx/[1-8]/`)
	timed  = regexp.MustCompile(`/ltx/[1-9]/`)
)

// execs matches command lines that run as long as a child does.
var execs = regexp.MustCompile(`-exec|-config exec\.yml`)

// listFiles lists what is in a folder and does not match hidden, with a
// checksum of what was restored: out*, and what took the place of old.
func listFiles(t *testing.T, dir string, hidden *regexp.Regexp) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || hidden.MatchString(path) {
			return err
		}
		sum := ""
		if name := d.Name(); strings.HasPrefix(name, "out") || name == "old" {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = fmt.Sprintf(" %x", sha256.Sum256(data))[:13]
		}
		fmt.Fprintf(&b, "%s%s\n", strings.TrimPrefix(path, dir+"/"), sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// columns are the gaps of a table, whose width depends on where the folder is.
// Checksums of files depend on the SQLite that wrote the scene.
var (
	columns   = regexp.MustCompile(`(\S) {2,}`)
	checksums = regexp.MustCompile(` [0-9a-f]{12}$`)
)

// difference shows two texts as the lines that only one of them has.
func difference(theirs, ours string) (lines []string) {
	a, b := strings.SplitAfter(theirs, "\n"), strings.SplitAfter(ours, "\n")
	only := func(mark string, a, b []string) {
		b = slices.Clone(b)
		for _, line := range a {
			if i := slices.Index(b, line); i >= 0 {
				b = slices.Delete(b, i, i+1)
			} else {
				lines = append(lines, strings.TrimSpace(mark+" "+columns.ReplaceAllString(checksums.ReplaceAllString(strings.TrimSuffix(line, "\n"), ""), "$1  ")))
			}
		}
	}
	only("-", a, b)
	only("+", b, a)
	if len(lines) == 0 {
		lines = append(lines, "~ the same lines in another order")
	}
	return lines
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// waitFor polls until cond holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for deadline := time.Now().Add(callTimeout); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s", what, callTimeout)
		}
	}
}

// lockedBuffer is written by a process and read by the test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
