// Command litestream-demo shows what litestream does, step by step: it makes a
// small database, lets litestream replicate it to a folder while orders are
// written, restores it, and compares both. `make run` runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	firstOrders   = 1000
	writeFor      = 6 * time.Second
	writeInterval = 20 * time.Millisecond
	stopTimeout   = 30 * time.Second
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: litestream-demo PATH-OF-LITESTREAM")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1], "sample")
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nError: %v\n", err)
		os.Exit(1)
	}
}

// demo is one run: a shop and its backup, all below one folder.
type demo struct {
	bin    string // litestream
	shop   string // the application's database
	backup string // folder of the replica
	url    string // the same as a replica URL
	log    string // what litestream said while replicating
	step   int
}

func run(ctx context.Context, bin, dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	d := &demo{
		bin:    bin,
		shop:   filepath.Join(dir, "shop.db"),
		backup: filepath.Join(dir, "backup"),
		url:    "file://" + filepath.Join(abs, "backup"),
		log:    filepath.Join(dir, "litestream.log"),
	}
	mid, err := d.replicate(ctx)
	if err != nil {
		return err
	}
	if err := d.restoreNewest(ctx, filepath.Join(dir, "restored.db")); err != nil {
		return err
	}
	if err := d.restoreAt(ctx, filepath.Join(dir, "earlier.db"), mid); err != nil {
		return err
	}
	fmt.Printf("\nEverything is in %s, with litestream's log in %s.\n", dir, d.log)
	return nil
}

// replicate writes orders while litestream runs. It returns a time in between.
func (d *demo) replicate(ctx context.Context) (mid time.Time, err error) {
	s, err := openShop(ctx, d.shop)
	if err != nil {
		return mid, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	d.title("An application has a database")
	for range firstOrders {
		if err := s.order(ctx); err != nil {
			return mid, err
		}
	}
	fmt.Printf("   %s holds %d orders\n", d.shop, s.n)

	d.title("litestream replicates it to a folder, while more orders come in")
	stop, err := d.startLitestream(ctx)
	if err != nil {
		return mid, err
	}
	mid, err = d.writeOrders(ctx, s)
	if err := errors.Join(err, stop()); err != nil {
		return mid, err
	}
	files, size, err := usage(d.backup)
	if err != nil {
		return mid, err
	}
	fmt.Printf("   the application and litestream stop: %d orders, backup of %d files, %d KB\n", s.n, files, size>>10)
	return mid, nil
}

// writeOrders writes for writeFor and says each second how far the backup is.
func (d *demo) writeOrders(ctx context.Context, s *shop) (mid time.Time, err error) {
	write, report := time.NewTicker(writeInterval), time.NewTicker(time.Second)
	defer write.Stop()
	defer report.Stop()
	begin := time.Now()
	for time.Since(begin) < writeFor {
		select {
		case <-ctx.Done():
			return mid, ctx.Err()
		case <-write.C:
			if err := s.order(ctx); err != nil {
				return mid, err
			}
		case now := <-report.C:
			files, size, err := usage(d.backup)
			if err != nil {
				return mid, err
			}
			fmt.Printf("   %s  %d orders; backup: %d files, %d KB\n", now.Format(time.TimeOnly), s.n, files, size>>10)
			if mid.IsZero() && now.Sub(begin) > writeFor/2 {
				mid = now
			}
		}
	}
	return mid, nil
}

func (d *demo) restoreNewest(ctx context.Context, path string) error {
	d.title("The database is restored from the backup alone")
	if err := d.litestream(ctx, "restore", "-o", path, d.url); err != nil {
		return err
	}
	n, err := compareShops(ctx, d.shop, path)
	if err != nil {
		return err
	}
	fmt.Printf("   %s is sound and holds the same %d orders, each of them equal\n", path, n)
	return nil
}

func (d *demo) restoreAt(ctx context.Context, path string, at time.Time) error {
	d.title("And once more as it was earlier, at " + at.Format(time.TimeOnly))
	if err := d.litestream(ctx, "restore", "-o", path, "-timestamp", at.UTC().Format(time.RFC3339Nano), d.url); err != nil {
		return err
	}
	n, err := comparePrefix(ctx, d.shop, path)
	if err != nil {
		return err
	}
	fmt.Printf("   %s is sound and holds the first %d orders, those captured by then, each of them equal\n", path, n)
	return nil
}

func (d *demo) title(s string) {
	d.step++
	fmt.Printf("\n%d. %s\n", d.step, s)
}

// startLitestream starts to replicate. The returned function ends it the way a
// service manager does, and waits until everything is on the replica.
func (d *demo) startLitestream(ctx context.Context) (stop func() error, err error) {
	log, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(ctx)
	args := []string{"replicate", d.shop, d.url}
	cmd := exec.CommandContext(ctx, d.bin, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	fmt.Printf("   $ %s %s\n", d.bin, strings.Join(args, " "))
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start litestream: %w", err)
	}
	return func() error {
		cancel()
		// Its own exit status counts, not that we asked it to end.
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("litestream ended: %w (see %s)", err, d.log)
		}
		return nil
	}, nil
}

// litestream runs a command of litestream that ends by itself.
func (d *demo) litestream(ctx context.Context, args ...string) error {
	fmt.Printf("   $ %s %s\n", d.bin, strings.Join(args, " "))
	if out, err := exec.CommandContext(ctx, d.bin, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", d.bin, args[0], err, out)
	}
	return nil
}

// usage returns how many files lie below dir and their bytes.
func usage(dir string) (files int, size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		files++
		size += info.Size()
		return nil
	})
	return files, size, err
}

// ignoreGone drops the error of a file that was renamed or deleted, or not
// made yet, while litestream works in the folder.
func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
