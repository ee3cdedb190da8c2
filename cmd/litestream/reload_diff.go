package main

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/benbjohnson/litestream"
)

// settingDiff is a key that has another value than before, as text that shows
// no secret.
type settingDiff struct {
	key      string // below where the comparison began, such as replica.path
	old, new string
}

// String returns what a person reads of it.
func (d settingDiff) String() string {
	if d.old == d.new { // both are secret
		return d.key + ": another value"
	}
	return fmt.Sprintf("%s: %s → %s", d.key, d.old, d.new)
}

// diffSettings compares the keys that a scope of the file has, those below
// them included, where the two values have them as fields. Lines do not count,
// nor do keys that skip names.
func diffSettings(s scope, from, to reflect.Value, skip func(key string) bool) []settingDiff {
	return appendDiffs(nil, "", s, from, to, skip)
}

func appendDiffs(diffs []settingDiff, prefix string, s scope, from, to reflect.Value, skip func(string) bool) []settingDiff {
	for _, k := range configKeys {
		if k.scope != s || k.ignored() || skip(prefix+k.name) {
			continue
		}
		a, ok := fieldByKey(from, k.name)
		if !ok {
			continue
		}
		b, _ := fieldByKey(to, k.name)
		if below := structOf(a); k.child != "" && below.IsValid() {
			diffs = appendDiffs(diffs, prefix+k.name+".", k.child, below, structOf(b), skip)
		} else if !sameSetting(a, b) {
			diffs = append(diffs, settingDiff{key: prefix + k.name, old: settingText(k.name, a), new: settingText(k.name, b)})
		}
	}
	return diffs
}

// structOf returns the mapping that a field holds, an empty one if it is not
// written, and the zero Value for a field that holds something else.
func structOf(v reflect.Value) reflect.Value {
	t := v.Type()
	if t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct {
		if v.IsNil() {
			return reflect.Zero(t.Elem())
		}
		v, t = v.Elem(), t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[rawScalar]() {
		return reflect.Value{}
	}
	return v
}

// sameSetting compares two values of one type as they stand in a file.
func sameSetting(a, b reflect.Value) bool {
	switch {
	case a.Type() == reflect.TypeFor[rawScalar]():
		return rawText(a) == rawText(b)
	case a.Kind() == reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return sameSetting(a.Elem(), b.Elem())
	case a.Kind() == reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !sameSetting(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case a.Kind() == reflect.Struct:
		for i := range a.NumField() {
			if a.Type().Field(i).Tag.Get("yaml") != "" && !sameSetting(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	default:
		return a.Equal(b)
	}
}

func rawText(v reflect.Value) string {
	n := v.Interface().(rawScalar).node
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// maxSettingText bounds the text of one value in a report: lists may be long.
const maxSettingText = 200

// settingText returns a value as text.
func settingText(key string, v reflect.Value) string {
	s := valueText(key, v)
	if r := []rune(s); len(r) > maxSettingText {
		s = string(r[:maxSettingText]) + "…"
	}
	return s
}

func valueText(key string, v reflect.Value) string {
	switch {
	case v.Type() == reflect.TypeFor[rawScalar]():
		return rawText(v)
	case v.Type() == reflect.TypeFor[*LevelConfig]():
		return v.Elem().FieldByName("Interval").Interface().(time.Duration).String()
	case v.Kind() == reflect.Pointer && v.IsNil():
		return "not set"
	case v.Kind() == reflect.Pointer:
		return valueText(key, v.Elem())
	case v.Kind() == reflect.Slice:
		texts := make([]string, v.Len())
		for i := range texts {
			texts[i] = valueText(key, v.Index(i))
		}
		return "[" + strings.Join(texts, ", ") + "]"
	}
	s := fmt.Sprint(v.Interface()) // a secret hides itself
	if s == "" {
		return "not set"
	}
	return shown(key, s)
}

// resolved returns the entry of a database with the defaults that hold for
// what it leaves open, so that to write one down is no change.
func (c *Config) resolved(db *DBConfig) *DBConfig {
	r, def, replica := *db, litestream.NewDB(db.Path), *db.Replica
	fill(&r.MonitorInterval, def.MonitorInterval)
	fill(&r.CheckpointInterval, def.CheckpointInterval)
	fill(&r.BusyTimeout, def.BusyTimeout)
	fill(&r.MinCheckpointPageN, def.MinCheckpointPageN)
	fill(&r.TruncatePageN, def.TruncatePageN)
	fill(&r.MaxSyncWALBytes, def.MaxSyncWALBytes)
	checksums := c.checksums(db)
	r.Checksums = &checksums
	fill(&replica.SyncInterval, litestream.DefaultSyncInterval)
	fill(&replica.MaxSyncLTXFiles, litestream.NewReplica(def).MaxSyncLTXFiles)
	if replica.URL == "" {
		replica.Type = replica.replicaType()
	}
	r.Replica = &replica
	return &r
}

// resolvedRoot returns the keys at the top with the defaults that hold.
func (c *Config) resolvedRoot() *Config {
	r, def := *c, litestream.NewStore(nil, nil)
	fill(&r.Snapshot.Interval, def.SnapshotInterval)
	fill(&r.Snapshot.Retention, def.SnapshotRetention)
	fill(&r.Retention.Enabled, def.RetentionEnabled)
	fill(&r.L0Retention, def.L0Retention)
	fill(&r.L0RetentionCheckInterval, def.L0RetentionCheckInterval)
	fill(&r.ShutdownSyncTimeout, def.ShutdownSyncTimeout)
	fill(&r.ShutdownSyncInterval, def.ShutdownSyncInterval)
	fill(&r.HeartbeatInterval, litestream.DefaultHeartbeatInterval)
	fill(&r.MaxStagedBytes, ByteSize(def.MaxStagedBytes))
	r.Logging.Level = strings.ToLower(levelName(logLevel(c.Logging)))
	if r.Logging.Type == "" {
		r.Logging.Type = "text"
	}
	return &r
}

// resolved returns the keys of multi-db with the defaults that hold. Those that
// the top of the file lends stay open.
func (c *MultiDBConfig) resolved() *MultiDBConfig {
	r, s := *c, c.settings("")
	fill(&r.MaxHotDatabases, s.MaxHotDatabases)
	fill(&r.ScanInterval, s.ScanInterval)
	r.WriteDetection.Mode = s.WriteDetection
	fill(&r.WriteDetection.HotDuration, s.HotDuration)
	fill(&r.ConnectionIdleTimeout, s.ConnectionIdleTimeout)
	fill(&r.DeletedRetention, s.DeletedRetention)
	fill(&r.Checksums, s.Checksums)
	r.Checkpoint = s.Checkpoint
	fill(&r.MaxStagedBytes, ByteSize(s.MaxStagedBytes))
	fill(&r.Limits.Connections, s.Limits.Connections)
	fill(&r.Limits.MonitorWorkers, s.Limits.MonitorWorkers)
	fill(&r.Limits.SnapshotWorkers, s.Limits.SnapshotWorkers)
	fill(&r.Limits.ReplicaWorkers, s.Limits.ReplicaWorkers)
	fill(&r.Limits.S3Connections, s.Limits.S3Connections)
	fill(&r.Drill.Interval, s.Drill.Interval)
	fill(&r.Drill.Budget, ByteSize(s.Drill.Budget))
	template := *c.ReplicaTemplate
	fill(&template.SyncInterval, litestream.DefaultSyncInterval)
	r.ReplicaTemplate = &template
	return &r
}

// fill sets what is not set.
func fill[T any](p **T, def T) {
	if *p == nil {
		*p = &def
	}
}
