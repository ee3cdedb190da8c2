package wal_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mattn/go-sqlite3"
)

// childEnv makes this test binary another process that uses a database.
const childEnv = "LITESTREAM_WAL_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		if err := serveChild(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serveChild obeys lines: "exec SQL", "run SEED N" for N random statements, one
// dot each, and "dump FILE" for the database as SQLite reads it. Each is
// answered by a line "ok" or "err …". It ends with its input.
func serveChild(path string) error {
	// Opening may meet the test's own lock: only what follows does not wait.
	dc, err := (&sqlite3.SQLiteDriver{}).Open("file:" + path + "?_busy_timeout=10000")
	if err != nil {
		return err
	}
	c := dc.(*sqlite3.SQLiteConn)
	defer c.Close()
	if _, err := c.Exec("PRAGMA cache_size=5; PRAGMA synchronous=off; PRAGMA busy_timeout=0", nil); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), " ")
		var err error
		switch verb {
		case "exec":
			_, err = c.Exec(arg, nil)
		case "run":
			err = runChild(c, arg)
		case "dump":
			var b []byte
			if b, err = c.Serialize("main"); err == nil {
				err = os.WriteFile(arg, b, 0o600)
			}
		}
		if err != nil {
			fmt.Println("err", err)
		} else {
			fmt.Println("ok")
		}
	}
	return in.Err()
}

func runChild(c *sqlite3.SQLiteConn, arg string) error {
	var seed uint64
	var n int
	if _, err := fmt.Sscan(arg, &seed, &n); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	for range n {
		q := randomWrite(rng)
		if rng.IntN(8) == 0 {
			q = randomCheckpoint(rng)
		}
		_, err := c.Exec(q, nil)
		if !c.AutoCommit() {
			_, rerr := c.Exec("ROLLBACK", nil)
			err = errors.Join(err, rerr)
		}
		if err != nil && !tolerable(err) {
			return err
		}
		fmt.Print(".")
	}
	return nil
}

// tolerable reports whether an error is one that an application expects.
func tolerable(err error) bool {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return true
	case sqlite3.ErrError: // "cannot … from within a transaction", busy mode switch
		return !strings.Contains(e.Error(), "malformed")
	default:
		return false
	}
}

const generate = "WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM g WHERE n<%d) "

// randomWrite is a statement, or several, that changes table t and ends
// outside a transaction.
func randomWrite(rng *rand.Rand) string {
	id := rng.IntN(100)
	switch rng.IntN(12) {
	case 0, 1, 2:
		return fmt.Sprintf("INSERT INTO t(b) VALUES(randomblob(%d))", rng.IntN(300))
	case 3, 4, 5:
		return fmt.Sprintf("UPDATE t SET b=randomblob(%d) WHERE id%%100=%d", rng.IntN(300), id)
	case 6, 7:
		return fmt.Sprintf("DELETE FROM t WHERE id%%20=%d", id%20)
	case 8:
		return fmt.Sprintf("UPDATE t SET b=randomblob(%d) WHERE id%%7=%d", rng.IntN(900), id%7) // spills
	case 9:
		return fmt.Sprintf(generate+"INSERT INTO t(b) SELECT randomblob(%d) FROM g", 1+rng.IntN(60), rng.IntN(400))
	case 10:
		return fmt.Sprintf("BEGIN IMMEDIATE; UPDATE t SET b=randomblob(%d) WHERE id%%5=%d; ROLLBACK", rng.IntN(900), id%5)
	default:
		return fmt.Sprintf("BEGIN IMMEDIATE; INSERT INTO t(b) VALUES(randomblob(5000)); DELETE FROM t WHERE id%%3=%d; PRAGMA incremental_vacuum(%d); COMMIT", id%3, rng.IntN(9))
	}
}

func randomCheckpoint(rng *rand.Rand) string {
	modes := []string{"PASSIVE", "PASSIVE", "FULL", "RESTART", "TRUNCATE"}
	return fmt.Sprintf("PRAGMA wal_checkpoint(%s)", modes[rng.IntN(len(modes))])
}

// child is another process that has the database open.
type child struct {
	tb  testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(tb testing.TB, path string) *child {
	tb.Helper()
	c := &child{tb: tb, cmd: exec.Command(os.Args[0])}
	// Under the race detector a process waits a second before it exits.
	c.cmd.Env = append(os.Environ(), childEnv+"="+path, "GORACE=atexit_sleep_ms=0")
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.kill)
	return c
}

// send gives an order without waiting for the answer.
func (c *child) send(format string, args ...any) error {
	_, err := fmt.Fprintf(c.in, format+"\n", args...)
	return err
}

// wait returns the answer to an order.
func (c *child) wait() error {
	line, err := c.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("child: %w", err)
	}
	if line = strings.TrimLeft(strings.TrimSpace(line), "."); line != "ok" {
		return errors.New(line)
	}
	return nil
}

// do gives an order and waits for the answer. Locks are no failure.
func (c *child) do(format string, args ...any) {
	c.tb.Helper()
	if err := errors.Join(c.send(format, args...), c.wait()); err != nil && !strings.Contains(err.Error(), "locked") {
		c.tb.Fatal(err)
	}
}

// killInside kills the child after n of the random statements it runs.
func (c *child) killInside(seed uint64, n int) {
	c.tb.Helper()
	if err := c.send("run %d %d", seed, n+1000); err != nil {
		c.tb.Fatal(err)
	}
	for range n {
		if _, err := c.out.ReadByte(); err != nil {
			c.tb.Fatal(err)
		}
	}
	c.kill()
}

func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	}
}

// close ends the child as a program that closes its database.
func (c *child) close() {
	c.tb.Helper()
	c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		c.tb.Fatalf("child: %v", err)
	}
}
