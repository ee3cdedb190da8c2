//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// restore measures how long a restore takes, with and without small files
// behind the snapshot. Both tools read the same replica, whose files carry no
// checksums, as upstream writes them, and each result is compared with the
// database that the replica was made from.
func (b *bench) restore(ctx context.Context) (t table, err error) {
	t.note = fmt.Sprintf("Database of %d MB, file replica in the page cache, output on the same disk, which was idle before each turn; every result was compared byte by byte. The small files hold 1–4 pages each. Median (lowest–highest) of %d turns.",
		b.restoreMB, b.rounds)
	source := filepath.Join(b.dir, "source.db")
	progress("restore: make a database of %d MB", b.restoreMB)
	if err := b.makeSource(ctx, source); err != nil {
		return t, err
	}
	want, err := fileHash(source)
	if err != nil {
		return t, err
	}
	for _, files := range []int{0, b.restoreFiles} {
		replica := filepath.Join(b.dir, fmt.Sprintf("replica-%d", files))
		if err := writeReplica(ctx, file.NewReplicaClient(replica), source, files); err != nil {
			return t, err
		}
		what := "snapshot only"
		if files > 0 {
			what = fmt.Sprintf("snapshot and %d small files", files)
		}
		err := b.eachTurn(func(round, i int, dir string) error {
			progress("restore: %s, round %d, %s", what, round+1, b.tools[i].name)
			return b.restoreTurn(ctx, &t, i, restoreCase{what: what, replica: replica, dir: dir, want: want})
		})
		if err != nil {
			return t, err
		}
		if err := os.RemoveAll(replica); err != nil {
			return t, err
		}
	}
	return t, os.Remove(source)
}

type restoreCase struct {
	what    string
	replica string
	dir     string
	want    [sha256.Size]byte
}

func (b *bench) restoreTurn(ctx context.Context, t *table, i int, c restoreCase) error {
	// What an earlier turn left to be written would be written during this one.
	if err := exec.CommandContext(ctx, "sync").Run(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	out := filepath.Join(c.dir, "out.db")
	begin := time.Now()
	p, err := start(c.dir, b.tools[i].bin, "restore", "-o", out, "file://"+c.replica)
	if err != nil {
		return err
	}
	peak, err := p.peakUntilEnd(ctx)
	if err != nil {
		return err
	}
	wall := time.Since(begin)
	st, err := os.Stat(out)
	if err != nil {
		return err
	}
	got, err := fileHash(out)
	if err != nil {
		return err
	}
	if got != c.want {
		return fmt.Errorf("restored database differs from its source")
	}
	mb := float64(st.Size()) / mib
	cpu := p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	t.add(i, c.what, "MB/s", mb/wall.Seconds())
	t.add(i, c.what+", CPU", "s", cpu.Seconds())
	t.add(i, c.what+", peak memory", "MB", peak)
	return nil
}

// peakUntilEnd waits for the end of a program and returns the highest resident
// set that was seen. The kernel's own figure, ru_maxrss, begins with that of
// the process which started it.
func (p *process) peakUntilEnd(ctx context.Context) (peak float64, err error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.exited:
			if p.err != nil {
				return 0, p.alive()
			}
			return peak, nil
		case <-ctx.Done():
			p.stop()
			return 0, ctx.Err()
		case <-tick.C:
			kb, err := procField(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid), "VmHWM")
			if err == nil { // else it has just ended
				peak = max(peak, float64(kb)/1024)
			}
		}
	}
}

// makeSource makes a database of restoreMB.
func (b *bench) makeSource(ctx context.Context, path string) (err error) {
	app, err := openApplication(ctx, path, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, app.Close()) }()
	if _, err := app.ExecContext(ctx, `DROP INDEX t_k; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF`); err != nil {
		return err
	}
	for {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		if st.Size() >= int64(b.restoreMB)*mib {
			_, err := app.ExecContext(ctx, `PRAGMA journal_mode = WAL`)
			return err
		}
		if err := app.commit(ctx, 10_000); err != nil {
			return err
		}
	}
}

// writeReplica writes a snapshot of a database and so many files behind it.
// Pages that the files hold have other content in the snapshot, so that a
// restore that leaves one out is found.
func writeReplica(ctx context.Context, client litestream.ReplicaClient, source string, files int) error {
	db, err := os.Open(source)
	if err != nil {
		return err
	}
	defer db.Close()
	st, err := db.Stat()
	if err != nil {
		return err
	}
	pageN := uint32(st.Size() / pageSize)
	rnd := rand.New(rand.NewPCG(2, 2))
	changed := make(map[uint32]bool)
	inFile := make([][]uint32, files)
	for i := range inFile {
		first := 2 + rnd.Uint32N(pageN-10)
		for n := range 1 + rnd.Uint32N(4) {
			if pgno := first + n; pgno != ltx.LockPgno(pageSize) {
				inFile[i] = append(inFile[i], pgno)
				changed[pgno] = true
			}
		}
	}
	all := make([]uint32, 0, pageN)
	for pgno := uint32(1); pgno <= pageN; pgno++ {
		if pgno != ltx.LockPgno(pageSize) {
			all = append(all, pgno)
		}
	}
	begin := time.Now().Add(-time.Hour)
	write := func(level int, txid ltx.TXID, pgnos []uint32, old map[uint32]bool) error {
		hdr := ltx.Header{
			Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: pageSize, Commit: pageN,
			MinTXID: txid, MaxTXID: txid, Timestamp: begin.Add(time.Duration(txid) * time.Second).UnixMilli(),
		}
		pr, pw := io.Pipe()
		go func() { pw.CloseWithError(encode(pw, hdr, db, pgnos, old)) }()
		_, err := client.WriteLTXFile(ctx, level, txid, txid, pr)
		return errors.Join(err, pr.Close())
	}
	if err := write(9, 1, all, changed); err != nil {
		return err
	}
	for i, pgnos := range inFile {
		if err := write(0, ltx.TXID(i+2), pgnos, nil); err != nil {
			return err
		}
	}
	return nil
}

// encode writes an LTX file of pages of a database; those in old are zeroed.
func encode(w io.Writer, hdr ltx.Header, db io.ReaderAt, pgnos []uint32, old map[uint32]bool) error {
	enc, err := ltx.NewEncoder(w)
	if err != nil {
		return err
	}
	if err := enc.EncodeHeader(hdr); err != nil {
		return err
	}
	page := make([]byte, hdr.PageSize)
	for _, pgno := range pgnos {
		if _, err := db.ReadAt(page, int64(pgno-1)*int64(hdr.PageSize)); err != nil {
			return err
		}
		if old[pgno] {
			copy(page, bytes.Repeat([]byte("older"), 200))
		}
		if err := enc.EncodePage(ltx.PageHeader{Pgno: pgno}, page); err != nil {
			return err
		}
	}
	return enc.Close()
}

func fileHash(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
