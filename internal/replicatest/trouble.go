package replicatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// BrokenDownload reads a file while what stands between client and server
// breaks the answer. Each fault, by name, is done to the next one.
func BrokenDownload(t *testing.T, c litestream.ReplicaClient, faults map[string]func()) {
	t.Helper()
	data := File(t, 1, 1, 1<<20, 0)
	Write(t, c, 0, 1, 1, data)
	for name, breakNext := range faults {
		for _, size := range []int64{0, 1 << 19, 1000} {
			breakNext()
			got, err := Read(t, c, 0, 1, 1, 0, size)
			re, ok := errors.AsType[*litestream.ReplicaError](err)
			if !ok || re.Permanent || re.Key == "" {
				t.Errorf("%s, size %d: read %d bytes, err=%v, want a ReplicaError that is not permanent", name, size, len(got), err)
			}
			if !bytes.HasPrefix(data, got) {
				t.Errorf("%s, size %d: the bytes before the cut are wrong", name, size)
			}
		}
	}
	if got, err := Read(t, c, 0, 1, 1, 0, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after the faults: read %d bytes, err=%v", len(got), err)
	}
}

// Outage uses a client while its server is stopped, for patience, and after it
// came back with what it had.
func Outage(t *testing.T, c litestream.ReplicaClient, patience time.Duration, stop, restart func()) {
	t.Helper()
	Write(t, c, 0, 1, 1, File(t, 1, 1, 200, 0))
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, listErr := c.LTXFiles(ctx, 0, 0, false)
	_, writeErr := c.WriteLTXFile(ctx, 0, 2, 2, bytes.NewReader(File(t, 2, 2, 200, 0)))
	for _, err := range []error{listErr, writeErr} {
		if re, ok := errors.AsType[*litestream.ReplicaError](err); !ok || re.Permanent {
			t.Errorf("server away: err=%v, want a ReplicaError that is not permanent", err)
		}
	}
	restart()
	Write(t, c, 0, 2, 2, File(t, 2, 2, 200, 0))
	if got := len(List(t, c, 0, 0, false)); got != 2 {
		t.Errorf("server back: listed %d files, want 2", got)
	}
}

// Sweep checks that a client whose level 0 is the folder dir removes the
// temporary files of others that crashed, once it has written itself, and no
// young ones.
func Sweep(t *testing.T, c litestream.ReplicaClient, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := ltx.FormatFilename(1, 1)
	old, young := filepath.Join(dir, name+".1000-1-1.tmp"), filepath.Join(dir, fmt.Sprintf("%s.%d-1-1.tmp", name, time.Now().UnixNano()))
	for _, p := range []string{old, young} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []bool{true, false} {
		List(t, c, 0, 0, false)
		if _, err := os.Stat(old); (err == nil) != want {
			t.Errorf("abandoned file: %v, want it there: %t", err, want)
		}
		Write(t, c, 0, 1, 1, File(t, 1, 1, 200, 0))
	}
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
}
