package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/control"
)

// What a reload does about a difference.
const (
	actionAdd    = "add"
	actionRemove = "remove"
	actionChange = "change"
	actionKeep   = "keep-until-restart"
)

// reloadPlan is what it takes to get from the configuration in force to
// another one.
type reloadPlan struct {
	changes []control.ReloadChange

	// removed and added are entries of dbs. One that changed is in both.
	removed, added []*DBConfig
	dirs           bool            // those with dir change, too
	removedDirs    []*DBConfig     // one that changed is among them
	live           map[string]bool // keys outside of dbs that change now, such as snapshot.interval
	inForce        *Config         // when all of it was done
}

// liveKeys are the keys at the top that change while the daemon runs.
var liveKeys = map[string]bool{
	"levels": true, "snapshot.interval": true, "snapshot.retention": true, "retention.enabled": true,
	"l0-retention": true, "l0-retention-check-interval": true,
	"shutdown-timeout": true, "shutdown-sync-timeout": true, "shutdown-sync-interval": true,
	"heartbeat-url": true, "heartbeat-interval": true, "logging.level": true,
}

// storeKeys are those of them that are about the databases of dbs, and about
// those of multi-db where that sets none of its own.
var storeKeys = []string{
	"levels", "snapshot.interval", "snapshot.retention", "retention.enabled", "l0-retention",
	"l0-retention-check-interval", "shutdown-sync-timeout", "shutdown-sync-interval",
}

// liveFleetKeys are the keys of multi-db that change while the daemon runs. The
// others say where the replicas and the state lie, or how large something is
// that exists already.
var liveFleetKeys = map[string]bool{
	"patterns": true, "exclude": true, "max-hot-databases": true, "scan-interval": true,
	"write-detection.hot-duration": true, "deleted-retention": true, "checksums": true,
	"snapshot.interval": true, "snapshot.retention": true, "levels": true, "l0-retention": true,
	"drill.interval": true, "drill.budget": true,
}

// planReload compares two checked configurations. An error means that what
// changes now does not go together with what stays until the restart.
func planReload(from, to *Config) (*reloadPlan, error) {
	inForce := *from
	p := &reloadPlan{live: make(map[string]bool), inForce: &inForce}
	p.root(from, to)
	p.databases(from, to)
	if err := p.fleet(from, to); err != nil {
		return nil, fmt.Errorf("together with what stays in force until the restart: %w", err)
	}
	return p, nil
}

func (p *reloadPlan) note(action, what, path, detail string) {
	p.changes = append(p.changes, control.ReloadChange{Action: action, What: what, Path: path, Detail: detail})
}

// setting notes a key that has another value.
func (p *reloadPlan) setting(live map[string]bool, prefix string, d settingDiff) {
	action := actionKeep
	if live[d.key] {
		action = actionChange
		p.live[prefix+d.key] = true
	}
	p.note(action, prefix+d.key, "", d.detail())
}

// detail is the value before and after, without the key.
func (d settingDiff) detail() string { return strings.TrimPrefix(d.String(), d.key+": ") }

// root compares the keys at the top but dbs, multi-db and those that are
// defaults for entries: these count where an entry takes them.
func (p *reloadPlan) root(from, to *Config) {
	inherited := func(key string) bool {
		switch key {
		case "dbs", "multi-db", "checksums", "shutdown-timeout":
			return true
		}
		_, ok := fieldByKey(reflect.ValueOf(to.ReplicaSettings), key)
		return ok
	}
	diffs := diffSettings(scopeRoot, reflect.ValueOf(*from.resolvedRoot()), reflect.ValueOf(*to.resolvedRoot()), inherited)
	if a, b := from.shutdownTimeout, to.shutdownTimeout; a != b {
		diffs = append(diffs, settingDiff{"shutdown-timeout", a.String(), b.String()})
	}
	for _, d := range diffs {
		p.setting(liveKeys, "", d)
		if liveKeys[d.key] {
			copySetting(p.inForce, to, d.key)
		}
	}
	p.inForce.shutdownTimeout = to.shutdownTimeout
	p.inForce.Checksums, p.inForce.ReplicaSettings = to.Checksums, to.ReplicaSettings
}

// copySetting copies the value of a key such as snapshot.interval.
func copySetting(dst, src any, key string) {
	d, s := reflect.ValueOf(dst).Elem(), reflect.ValueOf(src).Elem()
	for name := range strings.SplitSeq(key, ".") {
		d, _ = fieldByKey(d, name)
		s, _ = fieldByKey(s, name)
		if !d.IsValid() || !s.IsValid() {
			return // shutdown-timeout, which is copied by itself
		}
	}
	d.Set(s)
}

// databases compares the entries of dbs, which are known by their paths.
func (p *reloadPlan) databases(from, to *Config) {
	old := make(map[string]*DBConfig, len(from.DBs))
	for _, db := range from.DBs {
		old[filepath.Clean(db.Path)] = db
	}
	kept := make(map[string]bool, len(to.DBs))
	for _, db := range to.DBs {
		kept[filepath.Clean(db.Path)] = true
	}
	for _, db := range from.DBs {
		if !kept[filepath.Clean(db.Path)] {
			p.note(actionRemove, fmt.Sprintf("dbs[%d]", db.index), db.Path, "synced a last time, its replica stays")
			p.removed = append(p.removed, db)
		}
	}
	for _, db := range to.DBs {
		what, before := fmt.Sprintf("dbs[%d]", db.index), old[filepath.Clean(db.Path)]
		if before == nil {
			p.note(actionAdd, what, db.Path, "replicated to "+db.Replica.place())
			p.added = append(p.added, db)
			continue
		}
		if diffs := from.diffDB(before, to, db); len(diffs) > 0 {
			p.note(actionChange, what, db.Path, strings.Join(diffs, "; "))
			p.removed, p.added = append(p.removed, before), append(p.added, db)
		}
	}
	p.inForce.DBs = to.DBs
	p.directories(from, to)
}

// directories compares the entries of dbs that stand for a directory.
func (p *reloadPlan) directories(from, to *Config) {
	key := func(db *DBConfig) string { return db.Dir + "\x00" + db.Pattern }
	old := make(map[string]*DBConfig, len(from.Dirs))
	for _, db := range from.Dirs {
		old[key(db)] = db
	}
	for _, db := range to.Dirs {
		before := old[key(db)]
		delete(old, key(db))
		if before == nil {
			p.note(actionAdd, db.field("dir"), db.Dir, "replicated to "+db.Replica.place())
		} else if diffs := from.diffDB(before, to, db); len(diffs) > 0 {
			p.note(actionChange, db.field("dir"), db.Dir, strings.Join(diffs, "; "))
			p.removedDirs = append(p.removedDirs, before)
		} else {
			db.running = before.running
			continue
		}
		p.dirs = true
	}
	for _, db := range from.Dirs {
		if old[key(db)] != nil {
			p.note(actionRemove, db.field("dir"), db.Dir, "its databases are synced a last time, their replicas stay")
			p.removedDirs = append(p.removedDirs, db)
			p.dirs = true
		}
	}
	p.inForce.Dirs = to.Dirs
}

// leaves reports whether a database that is replicated is to be let go.
func (p *reloadPlan) leaves(path string) bool {
	return slices.ContainsFunc(p.removed, func(db *DBConfig) bool { return db.Path == path }) ||
		slices.ContainsFunc(p.removedDirs, func(db *DBConfig) bool { return db.running.Covers(path) })
}

// diffDB returns what differs in how a database is replicated. What counts at
// the start alone does not.
func (c *Config) diffDB(before *DBConfig, to *Config, after *DBConfig) []string {
	skip := func(key string) bool {
		return slices.Contains([]string{"path", "snapshot", "restore-if-db-not-exists"}, key)
	}
	var texts []string
	for _, d := range diffSettings(scopeDB, reflect.ValueOf(*c.resolved(before)), reflect.ValueOf(*to.resolved(after)), skip) {
		texts = append(texts, d.String())
	}
	return texts
}

// place names where a checked replica lies.
func (c *ReplicaConfig) place() string {
	client, err := newReplicaClient(c)
	if err != nil {
		return c.replicaType()
	}
	return redactedLocation(client)
}

// fleet compares multi-db.
func (p *reloadPlan) fleet(from, to *Config) error {
	runs := from.MultiDB != nil && from.MultiDB.Enabled
	will := to.MultiDB != nil && to.MultiDB.Enabled
	switch {
	case !runs && !will:
		p.inForce.MultiDB = to.MultiDB
	case runs != will:
		p.note(actionKeep, "multi-db.enabled", "", fmt.Sprintf("%t → %t", runs, will))
	default:
		if err := p.fleetKeys(from.MultiDB, to.MultiDB); err != nil {
			return err
		}
	}
	return errors.Join(append(p.inForce.validateDirs(), p.inForce.validateMultiDB()...)...)
}

func (p *reloadPlan) fleetKeys(from, to *MultiDBConfig) error {
	inForce := *from
	inForce.position = to.position
	p.inForce.MultiDB = &inForce
	diffs := diffSettings(scopeMultiDB, reflect.ValueOf(*from.resolved()), reflect.ValueOf(*to.resolved()), func(string) bool { return false })
	for _, d := range diffs {
		p.setting(liveFleetKeys, "multi-db.", d)
		if liveFleetKeys[d.key] {
			copySetting(&inForce, to, d.key)
		}
	}
	// Their lines have moved, perhaps.
	inForce.Patterns, inForce.Exclude = to.Patterns, to.Exclude
	template, err := inForce.pathTemplate()
	if err != nil {
		return err
	}
	settings := inForce.settings(template)
	if err := settings.Validate(); err != nil {
		return inForce.locate(err)
	}
	inForce.tenants, err = litestream.NewTenantMap(settings)
	return err
}

// changesLive reports whether one of some keys changes now.
func (p *reloadPlan) changesLive(keys ...string) bool {
	return slices.ContainsFunc(keys, func(key string) bool { return p.live[key] })
}

// changesFleet reports whether something changes for the databases of multi-db.
func (p *reloadPlan) changesFleet() bool {
	m := p.inForce.MultiDB
	if m == nil || !m.Enabled {
		return false
	}
	for key := range p.live {
		if strings.HasPrefix(key, "multi-db.") {
			return true
		}
	}
	return p.changesLive(storeKeys...)
}

// storeSettings returns the settings of the store that can change while it is
// open.
func (c *Config) storeSettings() litestream.StoreSettings {
	def := litestream.NewStore(nil, nil).Settings()
	return litestream.StoreSettings{
		Levels:           compactionLevels(c.Levels),
		SnapshotInterval: c.snapshotInterval(), SnapshotRetention: c.snapshotRetention(),
		L0Retention:              orDefault(c.L0Retention, def.L0Retention),
		L0RetentionCheckInterval: orDefault(c.L0RetentionCheckInterval, def.L0RetentionCheckInterval),
		RetentionEnabled:         orDefault(c.Retention.Enabled, def.RetentionEnabled),
		ShutdownSyncTimeout:      orDefault(c.ShutdownSyncTimeout, def.ShutdownSyncTimeout),
		ShutdownSyncInterval:     orDefault(c.ShutdownSyncInterval, def.ShutdownSyncInterval),
	}
}
