package litestream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/superfly/ltx"

	v03 "github.com/benbjohnson/litestream/internal/v03"
)

// RemnantKind says what a remnant is.
type RemnantKind string

// The kinds of remnants.
const (
	RemnantUpload RemnantKind = "upload" // of a write that did not end: parts, or a temporary file
	RemnantV03    RemnantKind = "v0.3"   // object below the folder generations
)

// Remnant is what lies of a database beside its LTX files.
type Remnant struct {
	Kind   RemnantKind
	Name   string // relative to the path
	Upload string // what the storage calls an upload that has an identifier
	Size   int64  // bytes; 0 if it is not told
}

// RemnantClient is implemented by clients that find what DeleteAll leaves.
type RemnantClient interface {
	// Remnants lists writes of LTX files of this path that did not end, which
	// may still be under way, and every object below the folder generations. A
	// missing folder is an empty list, a missing bucket an error.
	Remnants(ctx context.Context) ([]Remnant, error)

	// DeleteRemnants deletes what Remnants listed, and folders that are empty
	// then. What is missing is no error.
	DeleteRemnants(ctx context.Context, remnants []Remnant) error
}

// KeptVersions is what a storage keeps of files that were deleted.
type KeptVersions struct {
	Versions int   // of files, snapshots included
	Bytes    int64 // of these, and of what can be undeleted
	Markers  int   // that say that a file was deleted

	Undeletable      int       // files that the storage can bring back (soft delete)
	UndeletableUntil time.Time // when it deletes the last one of them by itself

	Locked      int       // versions that nobody may delete yet
	LockedUntil time.Time // when the last one of them may be
	Held        int       // versions under a legal hold, which has no end
	Asked       int       // versions whose lock was asked for
	DefaultLock string    // that new objects of the bucket get; empty: none, or not told

	// Untold is what the storage does not tell, and why.
	Untold []string
}

// Any reports whether something is kept.
func (k *KeptVersions) Any() bool { return k != nil && k.Versions+k.Markers+k.Undeletable > 0 }

// VersionKeeper is implemented by clients whose storage may keep versions of
// what was deleted.
type VersionKeeper interface {
	// KeptVersions returns what is kept of the database's files. What may not
	// be asked for is no error but told in the answer.
	KeptVersions(ctx context.Context) (*KeptVersions, error)
}

// PurgeResult is what lies of one replica, or did.
type PurgeResult struct {
	Files  int      // LTX files
	Newest ltx.TXID // that they end at; 0: there were none
	V03    int      // objects of a backup of Litestream v0.3
	Rest   int      // writes that did not end
	Bytes  int64    // of all

	// Kept is what the storage keeps nevertheless; nil: it keeps nothing, or
	// cannot be asked.
	Kept *KeptVersions
}

// Objects returns how many objects there were.
func (r *PurgeResult) Objects() int { return r.Files + r.V03 + r.Rest }

// ErrNotPurged means that something lies there after everything was deleted.
var ErrNotPurged = errors.New("the replica is not empty after everything was deleted")

// isServer are the kinds of storage that may keep copies and cannot tell.
var isServer = map[string]bool{"sftp": true, "webdav": true, "nats": true}

// maxPurgeNames bounds what an error names.
const maxPurgeNames = 5

// ListPurge returns what PurgeReplica would delete.
func ListPurge(ctx context.Context, client ReplicaClient) (*PurgeResult, error) {
	if err := client.Init(ctx); err != nil {
		return nil, fmt.Errorf("init replica client: %w", err)
	}
	p, err := listPurge(ctx, client)
	if err != nil {
		return nil, err
	}
	return p.result(), nil
}

// PurgeReplica deletes everything that a replica holds of a database, and lists
// it again: what lies there afterwards is ErrNotPurged. What lies below the
// path of other databases is not touched. Nobody may write to the replica
// meanwhile.
func PurgeReplica(ctx context.Context, client ReplicaClient) (*PurgeResult, error) {
	if err := client.Init(ctx); err != nil {
		return nil, fmt.Errorf("init replica client: %w", err)
	}
	before, err := listPurge(ctx, client)
	if err != nil {
		return nil, err
	}
	if err := client.DeleteAll(ctx); err != nil {
		return nil, fmt.Errorf("delete files: %w", err)
	}
	if rc, ok := client.(RemnantClient); ok {
		if err := rc.DeleteRemnants(ctx, before.remnants); err != nil {
			return nil, fmt.Errorf("delete what lies beside the files: %w", err)
		}
	}
	after, err := listPurge(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("list the replica after the deletion: %w", err)
	}
	res := before.result()
	if names := after.names(); len(names) > 0 {
		rest := ""
		if len(names) > maxPurgeNames {
			rest = fmt.Sprintf(" and %d more", len(names)-maxPurgeNames)
			names = names[:maxPurgeNames]
		}
		return res, fmt.Errorf("%w: %s%s", ErrNotPurged, strings.Join(names, ", "), rest)
	}
	if k, ok := client.(VersionKeeper); ok {
		if res.Kept, err = k.KeptVersions(ctx); err != nil {
			return res, fmt.Errorf("everything was deleted, but what the storage keeps cannot be told: %w", err)
		}
	} else if isServer[client.Type()] {
		res.Kept = &KeptVersions{Untold: []string{"copies that the server keeps (versions, snapshots, a trash): it cannot be asked for them"}}
	}
	return res, nil
}

// purgeList is what lies of a database.
type purgeList struct {
	files    []*ltx.FileInfo
	remnants []Remnant
}

func listPurge(ctx context.Context, client ReplicaClient) (*purgeList, error) {
	files, err := listTree(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	remnants, err := listRemnants(ctx, client)
	return &purgeList{files: files, remnants: remnants}, err
}

// listRemnants returns what lies of a database beside its files.
func listRemnants(ctx context.Context, client ReplicaClient) ([]Remnant, error) {
	rc, ok := client.(RemnantClient)
	if !ok {
		return nil, nil
	}
	remnants, err := rc.Remnants(ctx)
	if err != nil {
		return nil, fmt.Errorf("list what lies beside the files: %w", err)
	}
	return slices.DeleteFunc(remnants, func(r Remnant) bool {
		_, ok := v03.ParseName(r.Name)
		return r.Kind == RemnantV03 && !ok // it may be of a database with such a name
	}), nil
}

// deleteRemnants deletes what lies of a database beside its files.
func deleteRemnants(ctx context.Context, client ReplicaClient) error {
	remnants, err := listRemnants(ctx, client)
	if err != nil || len(remnants) == 0 {
		return err
	}
	if err := client.(RemnantClient).DeleteRemnants(ctx, remnants); err != nil {
		return fmt.Errorf("delete what lies beside the files: %w", err)
	}
	return nil
}

func (p *purgeList) result() *PurgeResult {
	res := &PurgeResult{Files: len(p.files)}
	for _, f := range p.files {
		res.Newest = max(res.Newest, f.MaxTXID)
		res.Bytes += f.Size
	}
	for _, r := range p.remnants {
		res.Bytes += r.Size
		if r.Kind == RemnantV03 {
			res.V03++
		} else {
			res.Rest++
		}
	}
	return res
}

// names returns what is left, as an error names it.
func (p *purgeList) names() (names []string) {
	for _, f := range p.files {
		names = append(names, fmt.Sprintf("level %d %s", f.Level, ltx.FormatFilename(f.MinTXID, f.MaxTXID)))
	}
	for _, r := range p.remnants {
		names = append(names, r.Name)
	}
	return names
}
