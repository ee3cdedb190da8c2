// Command litestream-demo shows what litestream does for many databases, step
// by step: it makes a database for each of a thousand tenants, has litestream
// find and replicate them while some are written to, deletes one, restores it
// by its path, and compares. `make run` runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	tenants       = 1000
	busyTenants   = 20
	firstOrders   = 3 // of each tenant
	writeFor      = 12 * time.Second
	writeInterval = 20 * time.Millisecond
	patience      = 30 * time.Second // with any one step
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

// demo is one run, all below one folder.
type demo struct {
	bin    string // litestream
	dir    string
	config string // of litestream
	log    string // what litestream said while replicating
	step   int
	show   display
}

// tenant returns the path of a tenant's database.
func (d *demo) tenant(i int) string {
	return filepath.Join(d.dir, "data", fmt.Sprintf("p%d", i%10), "databases/main/branches/main/tenants", fmt.Sprintf("t%04d.db", i))
}

// run makes the folder, and removes it if all went well.
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
	d := &demo{bin: bin, dir: dir, config: filepath.Join(dir, "litestream.yml"), log: filepath.Join(dir, "litestream.log"), show: newDisplay(os.Stdout)}
	config := fmt.Sprintf(`multi-db:
  enabled: true
  patterns: ["%[1]s/data/*/databases/*/branches/*/tenants/*.db"]
  state-dir: %[1]s/state
  scan-interval: 1s                      # 15s unless you say so
  write-detection: {hot-duration: 3s}    # 15s
  replica-template:
    type: file
    path: "%[1]s/backup/{{project}}/{{database}}/{{branch}}/{{tenant}}"
`, abs)
	if err := os.WriteFile(d.config, []byte(config), 0o600); err != nil {
		return err
	}
	if err := d.all(ctx); err != nil {
		return fmt.Errorf("%w\n(what there is lies in %s, litestream's log is %s)", err, dir, d.log)
	}
	fmt.Printf("\nThat was all. %s is removed again; examples/ has configurations to start with.\n", dir)
	return os.RemoveAll(dir)
}

func (d *demo) all(ctx context.Context) error {
	d.title(fmt.Sprintf("An application has a database for each of %d tenants", tenants))
	if err := d.makeTenants(ctx); err != nil {
		return err
	}
	d.title("litestream finds all of them by one pattern, and makes their first backups")
	stop, err := d.startLitestream(ctx)
	if err != nil {
		return err
	}
	lost, err := d.replicate(ctx)
	if err == nil {
		d.title("The database of a tenant is deleted, and restored by its path")
		err = d.loseAndRestore(ctx, lost)
	}
	return errors.Join(err, stop())
}

func (d *demo) title(s string) {
	d.step++
	fmt.Printf("\n%d. %s\n", d.step, s)
}

func (d *demo) makeTenants(ctx context.Context) error {
	start := time.Now()
	for i := range tenants {
		if err := os.MkdirAll(filepath.Dir(d.tenant(i)), 0o755); err != nil {
			return err
		}
		s, err := openShop(ctx, d.tenant(i))
		if err != nil {
			return err
		}
		for range firstOrders {
			err = errors.Join(err, s.order(ctx))
		}
		if err := errors.Join(err, s.Close()); err != nil {
			return err
		}
	}
	fmt.Printf("   %s and %d more, made in %.1f s\n", d.tenant(0), tenants-1, time.Since(start).Seconds())
	return nil
}

// replicate waits for the first backups and has some tenants write. It returns
// one of those, all of which is replicated.
func (d *demo) replicate(ctx context.Context) (lost int, err error) {
	start := time.Now()
	if err := d.watch(ctx, func(f fleet) bool { return f.States["clean"] == tenants }, 0); err != nil {
		return 0, err
	}
	files, size, err := usage(filepath.Join(d.dir, "backup"))
	if err != nil {
		return 0, err
	}
	fmt.Printf("   all %d are replicated and at rest after %.1f s: %d files, %d KB\n", tenants, time.Since(start).Seconds(), files, size>>10)

	d.title(fmt.Sprintf("%d tenants take orders, and litestream follows", busyTenants))
	busy := rand.Perm(tenants)[:busyTenants]
	orders, err := d.writeOrders(ctx, busy)
	if err != nil {
		return 0, err
	}
	fmt.Printf("   %d orders were written\n", orders)
	lost = busy[0]
	d.title("Nothing is written any more: the tenants that were hot go cold")
	if err := d.watch(ctx, func(f fleet) bool { return f.States["clean"] == tenants }, orders); err != nil {
		return 0, err
	}
	return lost, d.litestream(ctx, true, "status", "-config", d.config, d.tenant(lost))
}

// writeOrders has tenants write for a while, one order at a time.
func (d *demo) writeOrders(ctx context.Context, busy []int) (n int, err error) {
	var shops []*shop
	defer func() {
		for _, s := range shops {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, i := range busy {
		s, err := openShop(ctx, d.tenant(i))
		if err != nil {
			return 0, err
		}
		shops = append(shops, s)
	}
	write, report, end := time.NewTicker(writeInterval), time.NewTicker(time.Second), time.NewTimer(writeFor)
	defer write.Stop()
	defer report.Stop()
	defer d.show.end()
	for {
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-end.C:
			return n, nil
		case <-write.C:
			if err := shops[rand.IntN(len(shops))].order(ctx); err != nil {
				return n, err
			}
			n++
		case <-report.C:
			if f, ok := d.fleet(ctx); ok {
				d.show.line(f.String() + fmt.Sprintf("; %d orders", n))
			}
		}
	}
}

func (d *demo) loseAndRestore(ctx context.Context, lost int) error {
	path := d.tenant(lost)
	want, err := readOrders(ctx, path)
	if err != nil {
		return err
	}
	fmt.Printf("   $ rm %s    # %d orders\n", path, len(want))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := d.litestream(ctx, false, "restore", "-config", d.config, path); err != nil {
		return err
	}
	got, err := readOrders(ctx, path)
	if err != nil {
		return err
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("the restored database holds %d orders, and not the %d that there were", len(got), len(want))
	}
	fmt.Printf("   it is sound and holds the same %d orders, each of them equal\n", len(got))
	return nil
}

// startLitestream starts to replicate. The returned function ends it the way a
// service manager does.
func (d *demo) startLitestream(ctx context.Context) (stop func() error, err error) {
	log, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(ctx)
	args := []string{"replicate", "-config", d.config}
	cmd := exec.CommandContext(ctx, d.bin, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt on the terminal reaches it through us only
	fmt.Printf("   $ %s %s\n", d.bin, strings.Join(args, " "))
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start litestream: %w", err)
	}
	return func() error {
		cancel()
		// Its own exit status counts, not that we asked it to end.
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("litestream ended: %w", err)
		}
		return nil
	}, nil
}

// litestream runs a command of litestream that ends by itself.
func (d *demo) litestream(ctx context.Context, show bool, args ...string) error {
	fmt.Printf("   $ %s %s\n", d.bin, strings.Join(args, " "))
	out, err := exec.CommandContext(ctx, d.bin, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", d.bin, args[0], err, out)
	}
	if show {
		fmt.Printf("     %s\n", strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n     "))
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
