package metamorphic

import (
	"bufio"
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"
)

// Settings of a process that writes to many databases.
type fleetWriterConfig struct {
	Data         string
	Seed, Stream uint64
	Names        []string // of the databases that it begins with
}

// fleetWriter is the child process that writes to many databases until it is
// killed, or until its input ends.
type fleetWriter struct {
	cfg   fleetWriterConfig
	rng   *rand.Rand
	out   *bufio.Writer
	names []string
	conns map[string]*appConn
}

func runFleetWriter(cfg fleetWriterConfig) error {
	orders := make(chan string)
	go func() {
		defer close(orders)
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			orders <- in.Text()
		}
	}()
	w := &fleetWriter{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, cfg.Stream)), out: bufio.NewWriter(os.Stdout),
		names: cfg.Names, conns: make(map[string]*appConn),
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case line, ok := <-orders:
			if !ok {
				return w.dropAll()
			}
			verb, name, _ := strings.Cut(line, " ")
			if err := w.obey(verb, name); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
		case <-tick.C:
			if len(w.names) == 0 {
				continue
			}
			// Some databases are written much more often than others.
			name := w.names[int(float64(len(w.names))*w.rng.Float64()*w.rng.Float64())]
			if err := w.step(name); err != nil && !isBusy(err) {
				return fmt.Errorf("%s: %w%s", name, err, extendedCode(err))
			}
		}
		if w.rng.IntN(8) == 0 {
			tick.Reset(time.Duration(1+w.rng.IntN(10)) * time.Millisecond)
		}
	}
}

// extendedCode names what SQLite's text leaves out.
func extendedCode(err error) string {
	if se, ok := errors.AsType[sqlite3.Error](err); ok {
		return fmt.Sprintf(" (code %d)", se.ExtendedCode)
	}
	return ""
}

// obey carries out an order, and answers it where the parent waits for that.
func (w *fleetWriter) obey(verb, name string) error {
	switch verb {
	case "take":
		if !slices.Contains(w.names, name) {
			w.names = append(w.names, name)
		}
		return nil
	case "drop": // and tell when it is closed
		w.names = slices.DeleteFunc(w.names, func(n string) bool { return n == name })
		if err := w.close(name); err != nil {
			return err
		}
	case "spill": // leave a large transaction open, to be killed in it
		if err := w.spill(name); err != nil && !isBusy(err) {
			return err
		}
		w.names = nil
	default:
		return errors.New("unknown order")
	}
	fmt.Fprintln(w.out, verb, name)
	return w.out.Flush()
}

func (w *fleetWriter) close(name string) error {
	c := w.conns[name]
	if c == nil {
		return nil
	}
	delete(w.conns, name)
	return c.close()
}

func (w *fleetWriter) dropAll() error {
	var errs []error
	for name := range w.conns {
		errs = append(errs, w.close(name))
	}
	return errors.Join(errs...)
}

func (w *fleetWriter) spill(name string) error {
	c, err := w.conn(name)
	if err != nil {
		return err
	}
	return c.exec("BEGIN IMMEDIATE; " + spill)
}

// step does one random thing with one database.
func (w *fleetWriter) step(name string) error {
	if w.conns[name] != nil && w.rng.IntN(25) == 0 {
		return w.close(name)
	}
	c, err := w.conn(name)
	if err != nil {
		return err
	}
	if w.rng.IntN(60) == 0 {
		return c.exec("PRAGMA busy_timeout=50; PRAGMA journal_mode=" + oneOf(w.rng, "wal", "delete", "truncate", "persist") +
			"; PRAGMA busy_timeout=2000")
	}
	return c.step(context.Background(), w.rng, namedLedger{w.out, name})
}

// conn returns a connection to a database. Which kind of rollback journal is
// used is up to each connection.
func (w *fleetWriter) conn(name string) (*appConn, error) {
	if c := w.conns[name]; c != nil {
		return c, nil
	}
	c, err := openWriter(filepath.Join(w.cfg.Data, name), w.cfg.Seed)
	if err != nil {
		return nil, err
	}
	err = c.exec(fmt.Sprintf("PRAGMA wal_autocheckpoint=%d", oneOf(w.rng, 40, 40, 1000)))
	if err == nil && w.rng.IntN(30) == 0 {
		err = c.exec("PRAGMA locking_mode=exclusive")
	}
	var mode []driver.Value
	if err == nil {
		mode, err = c.row("PRAGMA journal_mode")
	}
	if err == nil && fmt.Sprintf("%s", mode[0]) != "wal" {
		err = c.exec("PRAGMA journal_mode=" + oneOf(w.rng, "delete", "truncate", "persist"))
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	w.conns[name] = c
	return c, nil
}

// namedLedger tells the parent process.
type namedLedger struct {
	w    *bufio.Writer
	name string
}

func (p namedLedger) try(m moment) { p.say("try", m) }
func (p namedLedger) ack(m moment) { p.say("ack", m) }

func (p namedLedger) say(what string, m moment) {
	fmt.Fprintln(p.w, what, p.name, m.Epoch, m.K)
	p.w.Flush()
}

// A fleetApp is the parent's side of a fleetWriter.
type fleetApp struct {
	*child
	names   map[string]bool
	answers chan string // closed when the process has ended
}

func (f *fleet) startApp(a *fleetApp) error {
	cfg := fleetWriterConfig{Data: f.mcfg.Data, Seed: f.seed, Stream: f.rng.Uint64()}
	for _, t := range f.all() {
		if a.names[t.name] {
			cfg.Names = append(cfg.Names, t.name)
		}
	}
	arg, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	if a.child, err = startChild("fleet-writer", string(arg), filepath.Join(f.dir, "writer.err")); err != nil {
		return err
	}
	answers := make(chan string, 4)
	a.answers = answers
	c := a.child
	f.readWG.Go(func() {
		defer close(answers)
		in := bufio.NewScanner(c.out)
		for in.Scan() {
			f.hear(in.Text(), c, answers)
		}
		if err := c.wait(); err != nil {
			_ = f.fail("writer failed: %v", err)
		}
	})
	return nil
}

// hear takes down what a writer says.
func (f *fleet) hear(line string, c *child, answers chan<- string) {
	what, rest, _ := strings.Cut(line, " ")
	name, m, _ := strings.Cut(rest, " ")
	if what != "try" && what != "ack" {
		answers <- line
		return
	}
	t := f.tenant(name)
	if t == nil {
		_ = f.fail("writer said %q of a database that nobody made", line)
	} else if err := parseLedger(what+" "+m, t.world); err != nil && !c.killed.Load() {
		_ = f.fail("%v", err)
	}
}

// order tells a writer something and waits for its answer. A writer that is
// gone obeys everything.
func (a *fleetApp) order(line string) error {
	if _, err := fmt.Fprintln(a.in, line); err != nil {
		return fmt.Errorf("order writer to %s: %w", line, err)
	}
	for answer := range a.answers {
		if answer == line {
			return nil
		}
	}
	return fmt.Errorf("writer ended before it answered to %s", line)
}

// end stops a writer politely, or kills it, and waits until all it said was
// heard.
func (a *fleetApp) end(kill bool) {
	if a.child == nil {
		return
	}
	if kill {
		a.kill()
	} else {
		_ = a.in.Close()
	}
	for range a.answers {
	}
	if kill {
		_, _ = io.Copy(io.Discard, a.out)
	}
	a.child = nil
}
