package main

import (
	"path/filepath"
	"runtime"
	"time"

	"github.com/benbjohnson/litestream"
)

// Defaults that concern the command alone, as in Litestream v0.5.
const (
	defaultSocketPath        = "/var/run/litestream.sock"
	defaultSocketPermissions = 0o600
	defaultShutdownTimeout   = 30 * time.Second
)

// Config is the configuration file after defaults, inheritance and expansion.
// Fields that are pointers tell "not set" from "set to zero"; the accessors
// beside them return the value in force.
type Config struct {
	position

	Addr    string       `yaml:"addr"`
	MCPAddr string       `yaml:"mcp-addr"`
	Exec    string       `yaml:"exec"`
	Socket  SocketConfig `yaml:"socket"`

	Levels    []*LevelConfig  `yaml:"levels"`
	Snapshot  SnapshotConfig  `yaml:"snapshot"`
	Retention RetentionConfig `yaml:"retention"`

	Validation       ValidationConfig `yaml:"validation"`
	VerifyCompaction bool             `yaml:"verify-compaction"`

	L0Retention              *time.Duration `yaml:"l0-retention"`
	L0RetentionCheckInterval *time.Duration `yaml:"l0-retention-check-interval"`

	ShutdownTimeout      rawScalar      `yaml:"shutdown-timeout"`
	ShutdownSyncTimeout  *time.Duration `yaml:"shutdown-sync-timeout"`
	ShutdownSyncInterval *time.Duration `yaml:"shutdown-sync-interval"`

	HeartbeatURL      string         `yaml:"heartbeat-url"` // a secret: services know their users by it
	HeartbeatInterval *time.Duration `yaml:"heartbeat-interval"`

	Checksums      *bool     `yaml:"checksums"`        // ours: default for all databases
	MaxStagedBytes *ByteSize `yaml:"max-staged-bytes"` // ours: whole process

	Logging LoggingConfig `yaml:"logging"`
	DBs     []*DBConfig   `yaml:"dbs"`

	MultiDB *MultiDBConfig `yaml:"multi-db"` // ours

	ReplicaSettings `yaml:",inline"` // defaults of all replicas

	Dirs []*DBConfig // the entries of DBs with `dir`, which are taken out of it

	shutdownTimeout time.Duration
	warnings        []configWarning
}

// SocketConfig configures the control socket.
type SocketConfig struct {
	position
	Enabled     bool    `yaml:"enabled"`
	Path        string  `yaml:"path"`
	Permissions *uint32 `yaml:"permissions"`
}

// LevelConfig is one compaction level; the first entry is level 1.
type LevelConfig struct {
	position
	Interval time.Duration `yaml:"interval"`
}

// SnapshotConfig says how often databases are stored whole and how long those
// snapshots are kept.
type SnapshotConfig struct {
	position
	Interval  *time.Duration `yaml:"interval"`
	Retention *time.Duration `yaml:"retention"`
}

// RetentionConfig switches the removal of remote files.
type RetentionConfig struct {
	position
	Enabled *bool `yaml:"enabled"`
}

// ValidationConfig says how often it is checked that the files of each level
// join; 0 or less is never.
type ValidationConfig struct {
	position
	Interval *time.Duration `yaml:"interval"`
}

// LoggingConfig says what is logged, how and where to.
type LoggingConfig struct {
	position
	Level  string `yaml:"level"`
	Type   string `yaml:"type"`
	Stderr bool   `yaml:"stderr"`
	Source bool   `yaml:"source"`
}

// DBConfig is one entry of `dbs`.
type DBConfig struct {
	position

	Path     string `yaml:"path"`
	MetaPath string `yaml:"meta-path"` // filled with the default when unset

	Dir       string `yaml:"dir"` // in place of Path: all databases in it
	Pattern   string `yaml:"pattern"`
	Recursive bool   `yaml:"recursive"`
	Watch     bool   `yaml:"watch"`
	MetaDir   string `yaml:"meta-dir"`

	MonitorInterval    *time.Duration `yaml:"monitor-interval"`
	CheckpointInterval *time.Duration `yaml:"checkpoint-interval"`
	BusyTimeout        *time.Duration `yaml:"busy-timeout"`
	MinCheckpointPageN *int           `yaml:"min-checkpoint-page-count"`
	TruncatePageN      *int           `yaml:"truncate-page-n"`
	MaxSyncWALBytes    *int64         `yaml:"max-sync-wal-bytes"`
	Checksums          *bool          `yaml:"checksums"`
	AllowNetworkFS     bool           `yaml:"allow-network-filesystem"`

	RestoreIfDBNotExists bool           `yaml:"restore-if-db-not-exists"`
	Snapshot             SnapshotConfig `yaml:"snapshot"`

	Replica  *ReplicaConfig   `yaml:"replica"` // set for every valid entry
	Replicas []*ReplicaConfig `yaml:"replicas"`

	index   int                   // in the file's `dbs`
	running *litestream.DirConfig // of a directory that is replicated
}

// orDefault returns what p points to, or def.
func orDefault[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// newDefaultConfig returns the configuration that an empty file stands for.
func newDefaultConfig() *Config {
	return &Config{
		Levels:          defaultLevels(),
		shutdownTimeout: defaultShutdownTimeout,
	}
}

// defaultLevels returns upstream's levels 1 to 3.
func defaultLevels() []*LevelConfig {
	return []*LevelConfig{{Interval: 30 * time.Second}, {Interval: 5 * time.Minute}, {Interval: time.Hour}}
}

// defaultConfigPath returns the path that is read when no other is given.
func defaultConfigPath() string {
	if runtime.GOOS == "windows" {
		return `C:\Litestream\litestream.yml`
	}
	return "/etc/litestream.yml"
}

// defaultMetaPath returns the metadata directory beside a database.
func defaultMetaPath(dbPath string) string {
	dir, file := filepath.Split(dbPath)
	return filepath.Join(dir, "."+file+"-litestream")
}

// snapshotInterval returns the interval in force for all databases.
func (c *Config) snapshotInterval() time.Duration {
	return orDefault(c.Snapshot.Interval, litestream.DefaultSnapshotInterval)
}

// snapshotRetention returns the retention in force for all databases.
func (c *Config) snapshotRetention() time.Duration {
	return orDefault(c.Snapshot.Retention, litestream.DefaultSnapshotRetention)
}

// maxStagedBytes returns the limit of staged bytes of the whole process.
func (c *Config) maxStagedBytes() int64 {
	return int64(orDefault(c.MaxStagedBytes, litestream.DefaultMaxStagedBytes))
}

// db returns the entry of an expanded path, or nil. For a file that a directory
// entry stands for, whether it exists or not, it is made from that one.
func (c *Config) db(path string) *DBConfig {
	for _, db := range c.DBs {
		if db.Path == path {
			return db
		}
	}
	return c.dbInDir(path)
}

// checksums reports whether the database's increments carry checksums.
func (c *Config) checksums(db *DBConfig) bool {
	return orDefault(db.Checksums, orDefault(c.Checksums, false))
}
