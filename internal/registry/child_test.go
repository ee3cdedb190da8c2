package registry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/registry"
)

// childEnv makes this test binary another process that owns the registry of
// the directory that it names.
const childEnv = "LITESTREAM_REGISTRY_TEST_CHILD"

// childRows is the number of rows of a generation.
const childRows = 300

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := serveChild(context.Background(), dir); err != nil {
			fmt.Println("err", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serveChild owns a registry and does what each line of its input says.
func serveChild(ctx context.Context, dir string) error {
	r, err := registry.Open(ctx, dir, registry.Options{})
	if err != nil {
		return err
	}
	fmt.Println("ok")
	gen := 0
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "put":
			gen++
			err = putGeneration(ctx, r, gen)
		case "loop": // for ever
			for {
				gen++
				if err := putGeneration(ctx, r, gen); err != nil {
					return err
				}
				fmt.Println(gen)
			}
		case "close":
			err = r.Close(ctx, true)
		}
		if err != nil {
			return err
		}
		fmt.Println("ok")
	}
	return in.Err()
}

// putGeneration writes all rows with the generation as TXID, in one flush.
func putGeneration(ctx context.Context, r *registry.Registry, gen int) error {
	for id := range uint32(childRows) {
		rec := full(id+1, fmt.Sprint("/tenant/", id+1))
		rec.TXID = ltx.TXID(gen)
		r.Put(rec, []byte(strings.Repeat(strconv.Itoa(gen)+" ", 50)))
	}
	r.SetSummary([]byte(strconv.Itoa(gen)))
	return r.Flush(ctx)
}

// generation returns the one generation that all rows have, or 0 if there are
// no rows.
func generation(ctx context.Context, r loader) (int, error) {
	gen, n := 0, 0
	err := r.Load(ctx, func(rec *registry.Record) error {
		if n++; n > 1 && int(rec.TXID) != gen {
			return fmt.Errorf("row %d is of generation %d, others are of %d", rec.ID, rec.TXID, gen)
		}
		gen = int(rec.TXID)
		return nil
	})
	if err == nil && n != 0 && n != childRows {
		err = fmt.Errorf("%d rows, want %d", n, childRows)
	}
	return gen, err
}

// child is the owner in another process.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startChild(t *testing.T, dir string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.CommandContext(t.Context(), os.Args[0])}
	c.cmd.Env = append(os.Environ(), childEnv+"="+dir)
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	c.expect("ok")
	return c
}

func (c *child) expect(want string) {
	c.t.Helper()
	if c.out.Scan(); c.out.Text() != want {
		c.t.Fatalf("child says %q, want %q", c.out.Text(), want)
	}
}

func (c *child) send(line string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) do(line string) {
	c.t.Helper()
	c.send(line)
	c.expect("ok")
}

// kill ends the child with SIGKILL, if it lives.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill() // it may have ended by itself
		var exit *exec.ExitError
		if err := c.cmd.Wait(); err != nil && !errors.As(err, &exit) {
			c.t.Error(err)
		}
	}
}

// TestRegistry_Killed kills the owner in the middle of a flush. What a flush
// acknowledged is there, a flush is there as a whole, and nothing is locked.
func TestRegistry_Killed(t *testing.T) {
	for kills := range 6 {
		dir := t.TempDir()
		c := startChild(t, dir)
		c.send("loop")
		for range 1 + 7*kills {
			c.out.Scan()
		}
		acked, err := strconv.Atoi(c.out.Text())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.cmd.Process.Kill()
		for c.out.Scan() { // what it said before it died
			if n, err := strconv.Atoi(c.out.Text()); err == nil {
				acked = n
			}
		}
		c.kill()

		var log logbook
		r := open(t, dir, log.options())
		if info := r.Info(); info.Clean || info.Fresh || len(log.lines()) != 0 {
			t.Errorf("info=%+v, log %q, want an unclean stop and no word", info, log.lines())
		}
		gen, err := generation(t.Context(), r)
		if err != nil || gen < acked || gen > acked+1 {
			t.Errorf("generation=%d, %v, want %d or one more", gen, err, acked)
		}
		if got, want := ledger(t, r, childRows), strings.Repeat(strconv.Itoa(gen)+" ", 50); got != want {
			t.Errorf("ledger=%q, want %q", got, want)
		}
		shut(t, r, true)
		r = open(t, dir, log.options())
		if info := r.Info(); !info.Clean {
			t.Errorf("info=%+v, want a clean stop", info)
		}
	}
}

// TestRegistry_LockedByProcess names the owner in another process, and gets
// the directory when that has died.
func TestRegistry_LockedByProcess(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, dir)
	_, err := registry.Open(t.Context(), dir, registry.Options{})
	if !errors.Is(err, registry.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d;", c.cmd.Process.Pid)) {
		t.Errorf("err=%v, want ErrLocked that names process %d", err, c.cmd.Process.Pid)
	}
	c.kill()
	shut(t, open(t, dir, registry.Options{}), true)
}
