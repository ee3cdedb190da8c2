package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/mcpserver"
)

// validate checks the complete configuration. The error joins one configError
// per problem, in the form `<field> (line N): <reason> (got <value>)`.
func (c *Config) validate() error {
	errs := c.validateRoot()
	errs = append(errs, c.validateLogging(), c.Socket.validate())
	seen := make(map[string]*DBConfig, len(c.DBs))
	destinations := make(map[string]*DBConfig, len(c.DBs))
	for _, db := range c.DBs {
		errs = append(errs, db.validate(db.index)...)
		if r := db.Replica; r.replicaType() == replicaTypeS3 && (r.AccessKeyID == "") != (r.SecretAccessKey == "") {
			c.warn(db.field("replica"), r.line, "access-key-id and secret-access-key have an effect together only; credentials come from the environment")
		}
		if r := db.Replica; r.replicaType() == replicaTypeNATS && r.Path != "" {
			c.warn(db.field("replica.path"), r.keyLine("path"), "ignored, as in Litestream v0.5: the bucket is the database's own; a url such as nats://host/bucket/path shares one")
		}
		if first, ok := seen[filepath.Clean(db.Path)]; ok {
			errs = append(errs, fmt.Errorf("database config #%d: %w", db.index+1, &configError{
				Field: db.field("path"), Line: db.keyLine("path"), Got: db.Path,
				Reason: fmt.Sprintf("duplicate path, used by database config #%d (line %d) already", first.index+1, first.keyLine("path")),
			}))
			continue
		}
		seen[filepath.Clean(db.Path)] = db
		client, err := db.Replica.checkClient(db.field("replica"))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		dest := redactedLocation(client)
		if first, ok := destinations[dest]; ok {
			errs = append(errs, &configError{
				Field: db.field("replica"), Line: db.Replica.line, Got: dest,
				Reason: fmt.Sprintf("databases %s and %s have the same replica destination and would overwrite each other", first.Path, db.Path),
			})
			continue
		}
		destinations[dest] = db
	}
	errs = append(errs, c.validateDirs()...)
	return errors.Join(append(errs, c.validateMultiDB()...)...)
}

// bound is a rule for one duration.
type bound struct {
	key    string
	value  *time.Duration
	line   int
	min    time.Duration
	reason string
}

func checkBounds(prefix string, bounds []bound) []error {
	var errs []error
	for _, b := range bounds {
		if b.value != nil && *b.value < b.min {
			errs = append(errs, &configError{Field: prefix + b.key, Line: b.line, Reason: b.reason, Got: b.value.String()})
		}
	}
	return errs
}

const positive = "must be greater than 0"

func (s *SnapshotConfig) bounds() []bound {
	return []bound{
		{"snapshot.interval", s.Interval, s.keyLine("interval"), 1, positive},
		{"snapshot.retention", s.Retention, s.keyLine("retention"), 1, positive},
	}
}

func (c *Config) validateRoot() []error {
	var snapshot []bound // a value promoted from a database is checked there
	for _, b := range c.Snapshot.bounds() {
		if c.Snapshot.has(strings.TrimPrefix(b.key, "snapshot.")) {
			snapshot = append(snapshot, b)
		}
	}
	errs := checkBounds("", append(snapshot, []bound{
		{"l0-retention", c.L0Retention, c.keyLine("l0-retention"), 0, "must not be negative"},
		{"l0-retention-check-interval", c.L0RetentionCheckInterval, c.keyLine("l0-retention-check-interval"), 1, positive},
		{"shutdown-sync-timeout", c.ShutdownSyncTimeout, c.keyLine("shutdown-sync-timeout"), 0, "must not be negative"},
		{"shutdown-sync-interval", c.ShutdownSyncInterval, c.keyLine("shutdown-sync-interval"), 1, positive},
		{"sync-interval", c.SyncInterval, c.keyLine("sync-interval"), 1, positive},
		{"heartbeat-interval", c.HeartbeatInterval, c.keyLine("heartbeat-interval"), litestream.MinHeartbeatInterval, "must be at least 1 minute"},
	}...))
	errs = append(errs, c.validateHeartbeat(), c.validateMCP())
	errs = append(errs, checkLevels("", c.Levels, c.keyLine("levels"))...)
	if c.MaxStagedBytes != nil && *c.MaxStagedBytes <= 0 {
		errs = append(errs, &configError{Field: "max-staged-bytes", Line: c.keyLine("max-staged-bytes"), Reason: positive, Got: fmt.Sprint(*c.MaxStagedBytes)})
	}
	if c.snapshotRetention() < c.snapshotInterval() {
		c.warn("snapshot.retention", c.Snapshot.keyLine("retention"),
			fmt.Sprintf("%s is shorter than snapshot.interval, %s: the newest snapshot is kept all the same", c.snapshotRetention(), c.snapshotInterval()))
	}
	return errs
}

func (c *Config) validateMCP() error {
	if c.MCPAddr == "" {
		return nil
	}
	if _, _, err := mcpserver.Address(c.MCPAddr); err != nil {
		return &configError{Field: "mcp-addr", Line: c.keyLine("mcp-addr"), Reason: err.Error()}
	}
	return nil
}

// validateHeartbeat checks the URL without naming what is secret in it.
func (c *Config) validateHeartbeat() error {
	if c.HeartbeatURL == "" {
		return nil
	}
	u, err := url.Parse(c.HeartbeatURL)
	switch {
	case !strings.HasPrefix(c.HeartbeatURL, "http://") && !strings.HasPrefix(c.HeartbeatURL, "https://"):
		return &configError{Field: "heartbeat-url", Line: c.keyLine("heartbeat-url"), Reason: "must start with http:// or https://", Got: litestream.RedactHeartbeatURL(c.HeartbeatURL)}
	case err != nil || u.Host == "":
		return &configError{Field: "heartbeat-url", Line: c.keyLine("heartbeat-url"), Reason: "is not a URL with a host"}
	}
	return nil
}

func checkLevels(prefix string, levels []*LevelConfig, line int) []error {
	var errs []error
	for i, level := range levels {
		errs = append(errs, checkBounds(prefix, []bound{
			{fmt.Sprintf("levels[%d].interval", i), &level.Interval, level.keyLine("interval"), 1, positive},
		})...)
	}
	if n := len(levels); n > litestream.MaxCompactionLevel {
		errs = append(errs, &configError{
			Field: prefix + "levels", Line: line, Got: fmt.Sprint(n),
			Reason: fmt.Sprintf("must have at most %d entries", litestream.MaxCompactionLevel),
		})
	}
	return errs
}

func (c *Config) validateLogging() error {
	switch c.Logging.Type {
	case "", "text", "json", "pretty":
	default:
		return &configError{Field: "logging.type", Line: c.Logging.keyLine("type"), Reason: "must be text, json or pretty", Got: c.Logging.Type}
	}
	if _, ok := parseLogLevel(c.Logging.Level); !ok {
		c.warn("logging.level", c.Logging.keyLine("level"), fmt.Sprintf("unknown level %q, info is in force", c.Logging.Level))
	}
	return nil
}

func (db *DBConfig) validate(i int) []error {
	prefix := fmt.Sprintf("dbs[%d].", i)
	errs := checkBounds(prefix, db.Snapshot.bounds())
	if n := db.MinCheckpointPageN; n != nil && *n <= 0 {
		errs = append(errs, &configError{
			Field: prefix + "min-checkpoint-page-count", Line: db.keyLine("min-checkpoint-page-count"),
			Reason: positive, Got: fmt.Sprint(*n),
		})
	}
	return append(errs, db.Replica.validate(prefix+"replica")...)
}

// validateOwn checks the rules about a replica's own keys, before it inherits
// the file's defaults.
func (c *ReplicaConfig) validateOwn(field string) error {
	typ := c.replicaType()
	fail := func(key, reason, got string) error {
		return &configError{Field: field + "." + key, Line: c.keyLine(key), Reason: reason, Got: got}
	}
	rival, got := c.urlRival()
	typeKey := "type"
	if c.URL != "" {
		typeKey = "url"
	}
	switch {
	case c.URL != "" && !litestream.IsURL(c.URL):
		return fail("url", "replica url scheme required, such as s3:// or file://", redactURL(c.URL))
	case !isReplicaType(typ):
		return fail(typeKey, fmt.Sprintf("unknown replica type in config: %q", typ), "")
	case litestream.IsURL(c.Path):
		return fail("path", "replica path cannot be a url, use the 'url' key instead", redactURL(c.Path))
	case c.URL != "" && c.Path != "" && typ != replicaTypeNATS:
		return fail("path", fmt.Sprintf("cannot specify url & path for %s replica", typ), c.Path)
	case c.URL != "" && rival != "":
		return fail(rival, fmt.Sprintf("cannot specify url & %s for %s replica", rival, typ), got)
	case c.URL == "" && c.Path == "" && typ == replicaTypeFile:
		return fail("path", "file replica path required", "")
	}
	if c.URL != "" {
		if _, _, _, _, _, err := litestream.ParseReplicaURL(c.URL); err != nil {
			return fail("url", err.Error(), "")
		}
	}
	return nil
}

// urlRival returns the key that names what the URL does, and its value; "" if
// there is none.
func (c *ReplicaConfig) urlRival() (key, value string) {
	switch typ := c.replicaType(); {
	case hasBucket(typ) && c.Bucket != "":
		return "bucket", c.Bucket
	case typ == replicaTypeSFTP && c.Host != "":
		return "host", c.Host
	case typ == replicaTypeWebDAV && c.WebDAVURL != "":
		return "webdav-url", redactURL(c.WebDAVURL)
	}
	return "", ""
}

// validate checks the complete replica.
func (c *ReplicaConfig) validate(field string) []error {
	var errs []error
	if c.SyncInterval != nil && *c.SyncInterval <= 0 {
		errs = append(errs, &configError{Field: field + ".sync-interval", Line: c.keyLine("sync-interval"), Reason: positive, Got: c.SyncInterval.String()})
	}
	if !c.Age.isZero() {
		errs = append(errs, &configError{
			Field: field + ".age", Line: cmp.Or(c.Age.line, c.line),
			Reason: "age encryption is not supported, as in Litestream v0.5; v0.3 is the last release that has it",
		})
	}
	return errs
}

// checkClient makes the replica's client, which reads the URL and the key file.
func (c *ReplicaConfig) checkClient(field string) (litestream.ReplicaClient, error) {
	client, err := newReplicaClient(c)
	if err != nil {
		return nil, &configError{Field: field, Line: c.line, Reason: err.Error()}
	}
	return client, nil
}
