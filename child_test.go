package litestream_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mattn/go-sqlite3"
)

// A child is this test binary as another process.
const (
	childRoleEnv = "LITESTREAM_TEST_ROLE"
	childPathEnv = "LITESTREAM_TEST_PATH"
)

// serveChild answers each line of the input with "ok" or "err" and a reason.
func serveChild(role, path string) error {
	var do func(line string) error
	switch role {
	case "app":
		// Opening reads the schema and may meet another program's lock: only
		// the statements of the test do not wait.
		dc, err := (&sqlite3.SQLiteDriver{}).Open("file:" + path + "?_busy_timeout=10000&_synchronous=OFF")
		if err != nil {
			return err
		}
		c := dc.(*sqlite3.SQLiteConn)
		defer c.Close()
		if _, err := c.Exec("PRAGMA busy_timeout=0", nil); err != nil {
			return err
		}
		do = func(query string) error {
			_, err := c.Exec(query, nil)
			return err
		}
	case "alone": // has the database to itself from the first read on
		var c *sqlite3.SQLiteConn
		defer func() {
			if c != nil {
				c.Close()
			}
		}()
		do = func(query string) error {
			if c == nil {
				conn, err := (&sqlite3.SQLiteDriver{}).Open("file:" + path + "?_busy_timeout=0&_locking_mode=EXCLUSIVE")
				if err != nil {
					return err
				}
				c = conn.(*sqlite3.SQLiteConn)
			}
			_, err := c.Exec(query, nil)
			return err
		}
	case "tenant":
		db, err := childTenant(path)
		if err != nil {
			return err
		}
		do = func(line string) error { return replicate(db, line) }
	case "follower":
		return childFollow(path)
	case "fleet-restore":
		return childFleetRestore(path)
	case "reader":
		c, err := (&sqlite3.SQLiteDriver{}).Open("file:" + path + "?mode=ro&_busy_timeout=10000")
		if err != nil {
			return err
		}
		defer c.Close()
		r := &ledgerReader{c: c.(*sqlite3.SQLiteConn)}
		do = func(string) error { return r.read() }
	default:
		return fmt.Errorf("unknown role %s", role)
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if err := do(in.Text()); err != nil {
			fmt.Println("err", strings.ReplaceAll(err.Error(), "\n", "; "))
		} else {
			fmt.Println("ok")
		}
	}
	return in.Err()
}

// child talks to another process.
type child struct {
	tb  testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startChild starts another process in a role. change may alter the command.
func startChild(tb testing.TB, role, path string, change ...func(*exec.Cmd)) *child {
	tb.Helper()
	c := &child{tb: tb, cmd: exec.Command(os.Args[0])}
	// Under the race detector a process waits a second before it exits.
	c.cmd.Env = append(os.Environ(), childRoleEnv+"="+role, childPathEnv+"="+path, "GORACE=atexit_sleep_ms=0")
	for _, fn := range change {
		fn(c.cmd)
	}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	c.cmd.Stderr = os.Stderr
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	return c
}

// do runs a line and returns the answer.
func (c *child) do(line string) string {
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		return "err " + err.Error()
	}
	answer, err := c.out.ReadString('\n')
	if err != nil {
		return "err " + err.Error()
	}
	return strings.TrimSpace(answer)
}

func (c *child) exec(lines ...string) {
	c.tb.Helper()
	for _, line := range lines {
		if got := c.do(line); got != "ok" {
			c.tb.Fatalf("%s: %s", line, got)
		}
	}
}

// close ends the child as a program that closes its database.
func (c *child) close() {
	c.tb.Helper()
	c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		c.tb.Fatal(err)
	}
}
