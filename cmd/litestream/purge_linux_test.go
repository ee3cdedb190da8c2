package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal returns the two ends of a pseudo terminal.
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return keyboard, terminal
}

// TestPurge_Asks holds that only "yes" is an answer that deletes.
func TestPurge_Asks(t *testing.T) {
	dir := testFolder(t)
	for _, answer := range []string{"no", "y", "", "yes"} {
		writeLTXFile(t, dir+"/r", 0, 1, 1)
		keyboard, terminal := openTerminal(t)
		if _, err := keyboard.WriteString(answer + "\n"); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		a := &app{stdin: terminal, stdout: &stdout, stderr: &stderr, signals: noSignals}
		code := a.main(t.Context(), []string{"purge", "file://" + dir + "/r"})
		_, err := os.Stat(dir + "/r/ltx/0")
		if deleted := os.IsNotExist(err); deleted != (answer == "yes") || (code == 0) != deleted {
			t.Errorf("%q: status %d, deleted %t, %s", answer, code, deleted, stderr.String())
		}
		if !strings.Contains(stderr.String(), `Type "yes" to go on`) {
			t.Errorf("%q: asked %s", answer, stderr.String())
		}
	}
}
