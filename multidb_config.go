package litestream

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/benbjohnson/litestream/internal/glob"
)

// Defaults of MultiDBConfig.
const (
	DefaultStateDir              = "/var/lib/litestream"
	DefaultMaxHotDatabases       = 1000
	DefaultScanInterval          = 15 * time.Second
	DefaultHotDuration           = 15 * time.Second
	DefaultConnectionIdleTimeout = 5 * time.Second
)

// WriteDetectionMTime is the one way of write detection: the sizes, times and
// inodes of the main file and its log.
const WriteDetectionMTime = "mtime"

// What may be done about logs of databases found by pattern whose applications
// never checkpoint.
const (
	MultiDBCheckpointNever   = "never"
	MultiDBCheckpointPassive = "passive"
)

// MultiDBConfig are the settings for databases that are found by pattern. It
// is a value: copy it to change it. NewMultiDBConfig returns the defaults.
type MultiDBConfig struct {
	// Patterns are absolute paths in the language of doublestar v4, where
	// {{name}} is a * with a name. The first one that matches a path counts.
	Patterns []string
	Exclude  []string // paths that are left out, in the same language

	// ReplicaPath is the template of the path of each database's replica.
	ReplicaPath string
	Hostname    string // value of {{hostname}}; empty: the variable has none

	StateDir        string // absolute; no pattern may match it
	MaxHotDatabases int
	ScanInterval    time.Duration

	WriteDetection string        // WriteDetectionMTime
	HotDuration    time.Duration // how long a database stays hot after a change

	ConnectionIdleTimeout time.Duration
	DeletedRetention      time.Duration // of replicas of deleted databases; 0: for ever
	Checksums             bool          // increments carry the database checksum
	Checkpoint            string        // MultiDBCheckpointNever or …Passive
	MaxStagedBytes        int64

	// AllowNetworkFS accepts databases on network file systems, which are read
	// without a connection or a lock there. Otherwise they fail.
	AllowNetworkFS bool

	Limits MultiDBLimits
	Drill  DrillConfig
}

// DrillConfig are the settings of the drill, which proves that replicas restore.
type DrillConfig struct {
	// Interval is within which every replica is proven once; 0: none is.
	Interval time.Duration
	// Budget is how many bytes a day it may read, of which each request counts
	// for 16 KiB; 0: as many as that takes.
	Budget int64
}

// MultiDBLimits bound what all databases found by pattern use at a time.
type MultiDBLimits struct {
	Connections     int // SQLite connections
	MonitorWorkers  int
	SnapshotWorkers int
	ReplicaWorkers  int
	S3Connections   int // per endpoint and credential
}

// NewMultiDBConfig returns the defaults. Patterns and ReplicaPath have none.
func NewMultiDBConfig() MultiDBConfig {
	return MultiDBConfig{
		StateDir:              DefaultStateDir,
		MaxHotDatabases:       DefaultMaxHotDatabases,
		ScanInterval:          DefaultScanInterval,
		WriteDetection:        WriteDetectionMTime,
		HotDuration:           DefaultHotDuration,
		ConnectionIdleTimeout: DefaultConnectionIdleTimeout,
		Checksums:             true,
		Checkpoint:            MultiDBCheckpointNever,
		MaxStagedBytes:        DefaultMaxStagedBytes,
		Limits: MultiDBLimits{
			Connections:     1000,
			MonitorWorkers:  100,
			SnapshotWorkers: 50,
			ReplicaWorkers:  200,
			S3Connections:   200,
		},
	}
}

// SettingError is a setting that cannot be used.
type SettingError struct {
	Key string // as in the configuration file, such as "patterns[1]"
	Got string // the value as text; empty where the reason tells it
	Err error
}

// Error returns the key, the reason and the value.
func (e *SettingError) Error() string {
	if e.Got == "" {
		return fmt.Sprintf("%s: %v", e.Key, e.Err)
	}
	return fmt.Sprintf("%s: %v (got %s)", e.Key, e.Err, e.Got)
}

// Unwrap returns the reason.
func (e *SettingError) Unwrap() error { return e.Err }

var errNotPositive = errors.New("must be greater than 0")

// Validate checks all settings, by their text alone. The error joins one
// *SettingError per problem.
func (c *MultiDBConfig) Validate() error {
	var errs []error
	fail := func(key, got string, err error) { errs = append(errs, &SettingError{Key: key, Got: got, Err: err}) }
	for _, n := range []struct {
		key   string
		value int64
	}{
		{"max-hot-databases", int64(c.MaxHotDatabases)},
		{"max-staged-bytes", c.MaxStagedBytes},
		{"limits.connections", int64(c.Limits.Connections)},
		{"limits.monitor-workers", int64(c.Limits.MonitorWorkers)},
		{"limits.snapshot-workers", int64(c.Limits.SnapshotWorkers)},
		{"limits.replica-workers", int64(c.Limits.ReplicaWorkers)},
		{"limits.s3-connections", int64(c.Limits.S3Connections)},
	} {
		if n.value <= 0 {
			fail(n.key, fmt.Sprint(n.value), errNotPositive)
		}
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"scan-interval", c.ScanInterval},
		{"write-detection.hot-duration", c.HotDuration},
		{"connection-idle-timeout", c.ConnectionIdleTimeout},
	} {
		if d.value <= 0 {
			fail(d.key, d.value.String(), errNotPositive)
		}
	}
	if c.Drill.Interval < 0 || c.Drill.Interval > 0 && c.Drill.Interval < minDrillInterval {
		fail("drill.interval", c.Drill.Interval.String(), fmt.Errorf("must be at least %s, or 0 for no drill", minDrillInterval))
	}
	if c.Drill.Budget < 0 {
		fail("drill.budget", fmt.Sprint(c.Drill.Budget), errors.New("must not be negative"))
	}
	if c.DeletedRetention < 0 {
		fail("deleted-retention", c.DeletedRetention.String(), errors.New("must not be negative"))
	}
	if c.WriteDetection != WriteDetectionMTime {
		fail("write-detection.mode", c.WriteDetection, fmt.Errorf("must be %s", WriteDetectionMTime))
	}
	if c.Checkpoint != MultiDBCheckpointNever && c.Checkpoint != MultiDBCheckpointPassive {
		fail("checkpoint", c.Checkpoint, fmt.Errorf("must be %s or %s", MultiDBCheckpointNever, MultiDBCheckpointPassive))
	}
	if !filepath.IsAbs(c.StateDir) || filepath.Clean(c.StateDir) != c.StateDir {
		fail("state-dir", c.StateDir, errors.New("must be an absolute path"))
	}
	_, mapErrs := c.compile()
	return errors.Join(append(errs, mapErrs...)...)
}

// compile builds what Lookup needs. It collects all errors.
func (c *MultiDBConfig) compile() (*TenantMap, []error) {
	var errs []error
	fail := func(key, got string, err error) { errs = append(errs, &SettingError{Key: key, Got: got, Err: err}) }
	m := &TenantMap{hostname: c.Hostname}
	if len(c.Patterns) == 0 {
		fail("patterns", "", errors.New("at least one pattern is required"))
	}
	for i, text := range c.Exclude {
		e, err := glob.CompileExclude(text)
		if err != nil {
			fail(fmt.Sprintf("exclude[%d]", i), text, err)
			continue
		}
		m.exclude = append(m.exclude, e)
	}
	tmpl, err := parseTemplate(c.ReplicaPath)
	if err != nil {
		fail("replica-template.path", c.ReplicaPath, err)
	}
	for i, text := range c.Patterns {
		key := fmt.Sprintf("patterns[%d]", i)
		p, err := compileTenantPattern(text)
		if err != nil {
			fail(key, text, err)
			continue
		}
		if p.glob.MayMatchBelow(c.StateDir) && !m.excludesDir(c.StateDir) {
			fail(key, text, fmt.Errorf("matches the state directory %s: move state-dir, or exclude %s/**", c.StateDir, c.StateDir))
		}
		if tmpl != nil {
			if p.template, err = p.bind(tmpl, c.Hostname); err == nil {
				p.compileInverse(c.Hostname)
			} else {
				fail("replica-template.path", c.ReplicaPath, err)
			}
		}
		m.patterns = append(m.patterns, p)
	}
	return m, errs
}
