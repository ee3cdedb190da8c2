package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/benbjohnson/litestream"
)

// fleetSettings returns the settings of the databases of multi-db that can
// change while the daemon runs. What it leaves open is as for those of dbs.
func (c *Config) fleetSettings() litestream.MultiDBSettings {
	m, s, all := c.MultiDB, c.MultiDB.settings(""), c.storeSettings()
	set := litestream.MultiDBSettings{
		Patterns: s.Patterns, Exclude: s.Exclude,
		MaxHotDatabases: s.MaxHotDatabases, ScanInterval: s.ScanInterval, HotDuration: s.HotDuration,
		DeletedRetention: s.DeletedRetention, Checksums: s.Checksums, Drill: s.Drill,
		Levels:            all.Levels,
		SnapshotInterval:  orDefault(m.Snapshot.Interval, all.SnapshotInterval),
		SnapshotRetention: orDefault(m.Snapshot.Retention, all.SnapshotRetention),
		L0Retention:       orDefault(m.L0Retention, all.L0Retention),
		RetentionEnabled:  all.RetentionEnabled,
	}
	if len(m.Levels) > 0 {
		set.Levels = compactionLevels(m.Levels)
	}
	return set
}

// checkFleet finds what would keep multi-db from being changed.
func (l *reloader) checkFleet(ctx context.Context, plan *reloadPlan) error {
	if l.fleet == nil || !plan.changesFleet() {
		return nil
	}
	m := plan.inForce.MultiDB
	var errs []error
	for _, info := range l.store.DBInfos() {
		if t, err := m.tenants.Lookup(info.Path); err == nil && !plan.leaves(info.Path) {
			errs = append(errs, &configError{
				Field: fmt.Sprintf("multi-db.patterns[%d]", t.Pattern), Line: m.Patterns[t.Pattern].node.Line, Got: m.Patterns[t.Pattern].node.Value,
				Reason: fmt.Sprintf("matches %s, which was registered over the control socket: unregister it first, or exclude it", info.Path),
			})
		}
	}
	return errors.Join(append(errs, l.fleet.CheckSettings(ctx, plan.inForce.fleetSettings()))...)
}

// applyFleet changes multi-db.
func (l *reloader) applyFleet(ctx context.Context, plan *reloadPlan) error {
	if l.fleet == nil || !plan.changesFleet() {
		return nil
	}
	if err := l.fleet.Reconfigure(ctx, plan.inForce.fleetSettings()); err != nil {
		return fmt.Errorf("multi-db: %w", err)
	}
	return nil
}
