package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/benbjohnson/litestream"
)

// restorePlanV03 is what -dry-run prints for a backup of Litestream v0.3.
type restorePlanV03 struct {
	Source     string               `json:"source"`
	TargetPath string               `json:"target_path"`
	Replica    string               `json:"replica"`
	Format     string               `json:"format"`
	Generation string               `json:"generation"`
	Files      []restorePlanV03File `json:"files"`
}

type restorePlanV03File struct {
	Type      string `json:"type"`
	Name      string `json:"name"`
	Index     string `json:"index"`
	Offset    string `json:"offset"`
	Size      int64  `json:"size"`
	Timestamp string `json:"timestamp"`
}

func newRestorePlanV03(o *restoreOptions, src *source, files []litestream.V03File) *restorePlanV03 {
	p := &restorePlanV03{
		Source: src.arg, TargetPath: o.opt.OutputPath, Replica: src.client.Type(),
		Format: "v0.3", Generation: files[0].Generation,
	}
	for _, f := range files {
		typ := "wal"
		if f.Snapshot {
			typ = "snapshot"
		}
		p.Files = append(p.Files, restorePlanV03File{
			typ, f.Name, fmt.Sprintf("%08x", f.Index), fmt.Sprintf("%08x", f.Offset),
			f.Size, f.CreatedAt.UTC().Format(time.RFC3339Nano),
		})
	}
	return p
}

func (a *app) printRestorePlanV03(p *restorePlanV03, asJSON bool) error {
	if asJSON {
		return writeJSON(a.stdout, p)
	}
	last := p.Files[len(p.Files)-1]
	printf(a.stdout, "Restore plan:\n  source: %s\n  target: %s\n  replica: %s\n  format: backup of Litestream v0.3\n  generation: %s\n  wal range: %s:00000000 - %s:%s\n\nFiles to fetch:\n",
		p.Source, p.TargetPath, p.Replica, p.Generation, p.Files[0].Index, last.Index, last.Offset)
	var rows [][]string
	for _, f := range p.Files {
		rows = append(rows, []string{f.Type, f.Index, f.Offset, filepath.Base(f.Name), strconv.FormatInt(f.Size, 10), f.Timestamp})
	}
	return writeTable(a.stdout, []string{"type", "index", "offset", "file", "size", "timestamp"}, rows)
}

// noteV03 tells on stderr of a backup that ltx does not list.
func (a *app) noteV03(ctx context.Context, src *source) error {
	files, err := litestream.ListV03(ctx, src.client)
	if err != nil || len(files) == 0 {
		return err
	}
	var newest time.Time
	generations := make(map[string]struct{})
	for _, f := range files {
		generations[f.Generation] = struct{}{}
		if f.CreatedAt.After(newest) {
			newest = f.CreatedAt
		}
	}
	printf(a.stderr, "Note: the replica holds a backup of Litestream v0.3 (generations: %d, files: %d, newest of %s); restore reads it, and restore -dry-run lists it.\n",
		len(generations), len(files), newest.UTC().Format(time.RFC3339))
	return nil
}

// noteLocalV03 tells on stderr which databases v0.3 replicated last, as what it
// left beside them shows.
func (a *app) noteLocalV03(cfg *Config, only string) {
	for _, db := range cfg.DBs {
		if only != "" && db.Path != only {
			continue
		}
		if _, err := os.Stat(filepath.Join(db.MetaPath, "generation")); err != nil {
			continue // the usual case
		}
		if txid, err := newestLocalTXID(db.MetaPath); err == nil && txid == 0 {
			printf(a.stderr, "Note: %s was replicated by Litestream v0.3; its first backup in the format of v0.5 is made when replicate runs. restore reads the old one.\n", db.Path)
		}
	}
}
