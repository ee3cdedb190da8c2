// Package control serves the control socket: HTTP with JSON bodies over a unix
// socket, as Litestream v0.5 has it. What the requests do
// is a Service's; this package is about limits, so that no client and no
// request, however slow or wrong, keeps another from being answered.
package control

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Service is what the requests are about. Paths are absolute and clean. Methods
// that wait for something return soon after ctx is done; one that does not is
// left behind, and the client is told that its time is up.
type Service interface {
	// Info describes the daemon.
	Info() Info

	// List calls fn for the databases behind a cursor, "" for all, until it
	// returns an error, which List returns. A database comes with the cursor
	// that goes on behind it.
	List(ctx context.Context, cursor string, fn func(db *Database, next string) error) error

	// Sync captures what was committed to a database and, with wait, returns
	// when the replica holds it.
	Sync(ctx context.Context, path string, wait bool) (SyncResponse, error)

	// SyncAll is Sync for every database that changed. When ctx is done it
	// returns what was left, without an error.
	SyncAll(ctx context.Context, wait bool) (SyncAllResponse, error)

	// Start, Stop, Register and Unregister change what is replicated. The
	// status is the one that the client reads.
	Start(ctx context.Context, path string) (StateResponse, error)
	Stop(ctx context.Context, path string) (StateResponse, error)
	// TakeOver makes the daemon the writer of a database's replica.
	TakeOver(ctx context.Context, path string) (StateResponse, error)
	Register(ctx context.Context, path, replicaURL string) (StateResponse, error)
	Unregister(ctx context.Context, path string) (StateResponse, error)

	// Purge deletes the replica of a database of multi-db whose file was
	// deleted; force is that of PurgeRequest.
	Purge(ctx context.Context, path string, force bool) (PurgeResponse, error)

	// TXID returns the newest captured transaction of a database.
	TXID(path string) (uint64, error)

	// SyncStatus calls fn for the one database of a path, or with an empty path
	// for all that are open, until it returns an error.
	SyncStatus(ctx context.Context, path string, fn func(*SyncStatus) error) error
}

// An Error is a failure with the status that the client is answered with.
// Errors of other types are answered with 500.
type Error struct {
	Status int
	Err    error
}

// Error implements error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// statusOf returns the status that an error is answered with.
func statusOf(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return http.StatusInternalServerError
}

// Info is the answer to GET /info.
type Info struct {
	Version       string    `json:"version"`
	PID           int       `json:"pid"`
	UptimeSeconds int64     `json:"uptime_seconds"`
	StartedAt     time.Time `json:"started_at"`
	DatabaseCount int       `json:"database_count"`
}

// Database is an entry of the answer to GET /list.
type Database struct {
	Path       string     `json:"path"`
	Status     string     `json:"status"` // replicating, open or stopped; of multi-db also failed or deleted
	LastSyncAt *time.Time `json:"last_sync_at,omitempty"`
	Tier       string     `json:"tier,omitempty"`  // of multi-db: unknown, clean, queued, hot, failed or gone
	Error      string     `json:"error,omitempty"` // of multi-db: why it is not replicated; of others: that another writer goes on
}

// ListResponse is the answer to GET /list as a whole; the server streams it.
type ListResponse struct {
	Databases []Database `json:"databases"`
	Next      string     `json:"next,omitempty"` // after=NEXT goes on behind a limit
}

// PathRequest is the body of POST /start, /stop and /unregister.
type PathRequest struct {
	Path    string `json:"path"`
	Timeout int    `json:"timeout,omitempty"` // seconds; 30 if it is not positive
}

// PurgeRequest is the body of POST /purge.
type PurgeRequest struct {
	Path string `json:"path"`

	// Force is for a database that is there and was stopped, and for one whose
	// pattern matches nothing.
	Force   bool `json:"force,omitempty"`
	Timeout int  `json:"timeout,omitempty"` // seconds; 30 if it is not positive
}

// PurgeResponse is what was deleted of a replica.
type PurgeResponse struct {
	Path       string        `json:"path"`
	Files      int           `json:"files"`       // LTX files
	V03        int           `json:"v03_objects"` // of a backup of Litestream v0.3
	Unfinished int           `json:"unfinished"`  // writes that did not end
	Bytes      int64         `json:"bytes"`       // of all
	TXID       uint64        `json:"txid"`        // newest that there was
	Kept       *KeptVersions `json:"kept,omitempty"`
}

// KeptVersions is what the storage keeps of what was deleted.
type KeptVersions struct {
	Versions    int        `json:"versions"`
	Bytes       int64      `json:"bytes"`
	Markers     int        `json:"delete_markers"`
	Undeletable int        `json:"undeletable"` // files that the storage can bring back
	Until       *time.Time `json:"undeletable_until,omitempty"`
	LockAsked   int        `json:"lock_asked"` // versions whose lock was asked for
	Locked      int        `json:"locked"`
	LockedUntil *time.Time `json:"locked_until,omitempty"`
	LegalHolds  int        `json:"legal_holds"`
	DefaultLock string     `json:"default_lock,omitempty"` // that new objects get
	Untold      []string   `json:"untold,omitempty"`       // what the storage does not tell
}

// RegisterRequest is the body of POST /register.
type RegisterRequest struct {
	Path       string `json:"path"`
	ReplicaURL string `json:"replica_url"`
	Timeout    int    `json:"timeout,omitempty"` // seconds; 30 if it is not positive
}

// SyncRequest is the body of POST /sync.
type SyncRequest struct {
	Path    string `json:"path"`
	All     bool   `json:"all,omitempty"` // every database that changed, in place of Path
	Wait    bool   `json:"wait,omitempty"`
	Timeout int    `json:"timeout,omitempty"` // seconds; 30 if it is not positive
}

// StateResponse is the answer to POST /start, /stop and /unregister. That to
// POST /register has no TXID.
type StateResponse struct {
	Status string `json:"status"`
	Path   string `json:"path"`
	TXID   uint64 `json:"txid"`
}

// RegisterResponse is the answer to POST /register.
type RegisterResponse struct {
	Status string `json:"status"`
	Path   string `json:"path"`
}

// SyncResponse is the answer to POST /sync.
type SyncResponse struct {
	Status         string `json:"status"` // no_change, synced_local or synced
	Path           string `json:"path"`
	TXID           uint64 `json:"txid"`
	ReplicatedTXID uint64 `json:"replicated_txid"`
}

// SyncAllResponse is the answer to POST /sync with "all".
type SyncAllResponse struct {
	Status    string   `json:"status"`    // synced, or incomplete if Failed or Left is not 0
	Databases int      `json:"databases"` // that had to be looked at
	Synced    int      `json:"synced"`
	Failed    int      `json:"failed"`
	Left      int      `json:"left"`             // not done when the time was up
	Errors    []string `json:"errors,omitempty"` // the first few; each names its database
}

// TXIDResponse is the answer to GET /txid.
type TXIDResponse struct {
	TXID uint64 `json:"txid"`
}

// SyncStatus is an entry of the answer to GET /debug/sync-status.
type SyncStatus struct {
	Path                string     `json:"path"`
	Active              bool       `json:"active"`
	Operation           string     `json:"operation,omitempty"`
	Phase               string     `json:"phase,omitempty"`
	UpdatedAt           *time.Time `json:"updated_at,omitempty"`
	TXID                uint64     `json:"txid,omitempty"`
	WALSize             int64      `json:"wal_size,omitempty"`
	LastSyncedWALOffset int64      `json:"last_synced_wal_offset,omitempty"`
	Error               string     `json:"error,omitempty"`
}

// ReloadRequest is the body of POST /reload.
type ReloadRequest struct {
	DryRun  bool `json:"dry_run,omitempty"`
	Timeout int  `json:"timeout,omitempty"` // seconds; 30 if it is not positive
}

// ReloadReport is the answer to POST /reload: what the configuration file
// changes, or would change.
type ReloadReport struct {
	Changes []ReloadChange `json:"changes"`
	Applied bool           `json:"applied"`
}

// ReloadChange is one difference between what runs and what the file says.
type ReloadChange struct {
	Action string `json:"action"`         // add, remove, change or keep-until-restart
	What   string `json:"what"`           // key, such as dbs[2]
	Path   string `json:"path,omitempty"` // of the database, if it is about one
	Detail string `json:"detail,omitempty"`
}

// errorResponse is the body of every answer that is no success and JSON.
type errorResponse struct {
	Error   string `json:"error"`
	Details any    `json:"details,omitempty"`
}

// Timeouts of requests.
const (
	defaultTimeout = 30 * time.Second
	maxTimeout     = 24 * time.Hour
)

// timeoutOf returns the time that a request may take.
func timeoutOf(seconds int) time.Duration {
	switch {
	case seconds <= 0:
		return defaultTimeout
	case int64(seconds) > int64(maxTimeout/time.Second):
		return maxTimeout
	default:
		return time.Duration(seconds) * time.Second
	}
}
