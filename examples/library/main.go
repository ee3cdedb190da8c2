// Command library replicates a database from within the application that uses
// it: it restores the database if the file is missing, replicates it while it
// writes a row each second, and makes a last sync at the end.
//
//	go run ./examples/library app.db file:///backup/app
//	go run ./examples/library app.db s3://my-bucket/app
//
// The application's connections and those of the library lie in one process.
// POSIX locks are held by a process, so both have to be the same SQLite:
// open the database with github.com/mattn/go-sqlite3, close it before the
// store, and let no other process write to the database meanwhile: a file
// that the library closes gives up the locks that this process holds on it.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/s3"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: library DB_PATH file:///FOLDER|s3://BUCKET/PATH")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	app := application{path: os.Args[1], replica: os.Args[2], pause: time.Second, out: os.Stdout}
	if err := app.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// application is a program with a database to protect.
type application struct {
	path    string        // of the database
	replica string        // URL
	pause   time.Duration // between two rows
	out     io.Writer
}

// run works until ctx is done.
func (a *application) run(ctx context.Context) error {
	client, err := newClient(a.replica)
	if err != nil {
		return err
	}
	if err := restoreIfMissing(ctx, client, a.path); err != nil {
		return err
	}
	db := litestream.NewDB(a.path)
	db.Replica = litestream.NewReplicaWithClient(db, client)
	db.Replica.SyncInterval = time.Second
	store := litestream.NewStore([]*litestream.DB{db}, litestream.CompactionLevels{
		{Level: 0},
		{Level: 1, Interval: 30 * time.Second},
	})
	store.SnapshotInterval = 24 * time.Hour
	store.Logger = slog.New(slog.NewTextHandler(a.out, nil))
	if err := store.Open(ctx); err != nil {
		return err
	}
	workErr := a.work(ctx)

	// The application's own connections are closed by now. What it wrote last
	// gets ten seconds to reach the replica.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(workErr, store.Close(end))
}

// newClient returns the client of a replica. Only what the service asks for has
// to be set; credentials of S3 come from the environment if they are not.
func newClient(rawURL string) (litestream.ReplicaClient, error) {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme == file.ReplicaClientType:
		return file.NewReplicaClient(u.Path), nil
	case u.Scheme == s3.ReplicaClientType:
		client := s3.NewReplicaClient()
		client.Bucket = u.Host
		client.Path = strings.TrimPrefix(u.Path, "/")
		client.Region = os.Getenv("AWS_REGION")
		client.Endpoint = os.Getenv("S3_ENDPOINT") // of another service than Amazon's
		client.ForcePathStyle = client.Endpoint != ""
		return client, nil
	}
	return nil, fmt.Errorf("replica %q: want file:// or s3://", rawURL)
}

// restoreIfMissing writes the database as its replica holds it, if there is
// none. An empty replica is the first start.
func restoreIfMissing(ctx context.Context, client litestream.ReplicaClient, path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	opt := litestream.NewRestoreOptions()
	opt.OutputPath = path
	err := litestream.NewReplicaWithClient(nil, client).Restore(ctx, opt)
	if errors.Is(err, litestream.ErrNoSnapshots) {
		return nil
	}
	return err
}

// work is what the application is there for.
func (a *application) work(ctx context.Context) (err error) {
	db, err := sql.Open("sqlite3", a.path+"?_journal_mode=wal&_busy_timeout=5000")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, at TEXT)"); err != nil {
		return err
	}
	tick := time.NewTicker(a.pause)
	defer tick.Stop()
	for {
		var n int
		if err := db.QueryRowContext(ctx, "INSERT INTO events (at) VALUES (datetime()) RETURNING id").Scan(&n); ctx.Err() != nil {
			return nil // interrupted
		} else if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(a.out, "event %d\n", n); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
