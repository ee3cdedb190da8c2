package main

import (
	"context"
	"errors"

	"github.com/benbjohnson/litestream"
)

// checkDirs finds new directories that have nothing to be replicated, and never
// will: an error at the start, too.
func (p *reloadPlan) checkDirs(ctx context.Context) error {
	var errs []error
	for _, db := range p.inForce.Dirs {
		if db.running != nil || db.Watch {
			continue
		}
		n := 0
		err := db.eachFile(ctx, func(*DBConfig) error { n++; return nil })
		reason := "no SQLite databases found in it"
		if err != nil {
			reason = err.Error()
		}
		if n == 0 {
			errs = append(errs, &configError{Field: db.field("dir"), Line: db.keyLine("dir"), Reason: reason, Got: db.Dir})
		}
	}
	return errors.Join(errs...)
}

// applyDirs changes the directories: at first without those that come, so that
// what leaves is free for other entries, and then to all.
func (l *reloader) applyDirs(ctx context.Context, plan *reloadPlan, all bool) error {
	if !plan.dirs {
		return nil
	}
	dirs := make([]*litestream.DirConfig, 0, len(plan.inForce.Dirs))
	for _, db := range plan.inForce.Dirs {
		if db.running == nil && all {
			db.running = plan.inForce.storeDir(ctx, db, l.logger)
		}
		if db.running != nil {
			dirs = append(dirs, db.running)
		}
	}
	return l.store.SetDirs(ctx, dirs)
}
