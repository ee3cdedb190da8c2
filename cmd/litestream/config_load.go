package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// configPath returns the file to read: the flag's, the environment's, or the
// default.
func configPath(flagValue string) string {
	return cmp.Or(flagValue, os.Getenv("LITESTREAM_CONFIG"), defaultConfigPath())
}

// readConfigFile reads and checks a configuration file. The error names the
// file, and the key and line of what is wrong.
func readConfigFile(path string, expandEnv bool) (*Config, error) {
	path, err := expandPath(path)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("config file not found: %s", path)
	} else if err != nil {
		return nil, fmt.Errorf("read config file: %w", err)
	}
	cfg, err := parseConfig(data, expandEnv)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// parseConfig turns the text of a configuration file into a checked Config
// with defaults, inheritance and path expansion applied.
func parseConfig(data []byte, expandEnv bool) (*Config, error) {
	cfg := newDefaultConfig()
	if expandEnv {
		data = cfg.expandEnv(string(data))
	}
	if err := decodeConfig(data, cfg); err != nil {
		return nil, err
	}
	if err := cfg.normalize(); err != nil {
		return nil, err
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// expandEnv replaces $NAME and ${NAME} in the whole text, as upstream does,
// and warns about names that are not set: a $ in a password is lost that way.
func (c *Config) expandEnv(text string) []byte {
	unset := make(map[string]bool)
	out := os.Expand(text, func(name string) string {
		if name == "PID" {
			return strconv.Itoa(os.Getpid())
		}
		value, ok := os.LookupEnv(name)
		if !ok {
			unset[name] = true
		}
		return value
	})
	if len(unset) > 0 {
		c.warnUnset(text, unset)
	}
	return []byte(out)
}

// warnUnset adds one warning per unset variable that stands outside a comment.
func (c *Config) warnUnset(text string, unset map[string]bool) {
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		os.Expand(line, func(name string) string {
			if unset[name] {
				delete(unset, name)
				c.warn("$"+name, i+1, "environment variable is not set and stands for nothing; -no-expand-env reads the file as it is")
			}
			return ""
		})
	}
}

// normalize applies everything that needs more than one key: the one-element
// form of `replicas`, inheritance, promotion and path expansion.
func (c *Config) normalize() error {
	c.normalizeShutdownTimeout()
	if c.Levels == nil {
		c.Levels = defaultLevels()
	}
	var errs []error
	for i, db := range c.DBs {
		db.index = i
		if err := c.normalizeDB(i, db); err != nil {
			errs = append(errs, err)
		}
	}
	c.splitDirs()
	if c.MultiDB != nil {
		errs = append(errs, c.MultiDB.normalize(&c.ReplicaSettings))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.promoteSnapshots()
}

// normalizeShutdownTimeout reads the one duration that must be written as
// text: anything else is answered with a warning and the default.
func (c *Config) normalizeShutdownTimeout() {
	n := c.ShutdownTimeout.node
	if n == nil {
		return
	}
	if s := resolveScalar(n); s.kind == scalarString {
		if d, err := time.ParseDuration(s.text); err == nil && d > 0 {
			c.shutdownTimeout = d
			return
		}
	}
	c.warn("shutdown-timeout", n.Line, fmt.Sprintf("%q is not a duration such as 30s; the default, %s, is in force", n.Value, defaultShutdownTimeout))
}

func (c *Config) normalizeDB(i int, db *DBConfig) error {
	fail := func(key, reason string) error {
		return &configError{Field: fmt.Sprintf("dbs[%d].%s", i, key), Line: db.keyLine(key), Reason: reason}
	}
	if key, reason := db.entryProblem(); reason != "" {
		return fmt.Errorf("database config #%d: %w", i+1, fail(key, reason))
	}
	switch {
	case db.Replica != nil && len(db.Replicas) > 0:
		return fail("replicas", "cannot specify both 'replica' and 'replicas'")
	case len(db.Replicas) > 1:
		return fail("replicas", "multiple replicas on a single database are no longer supported")
	case len(db.Replicas) == 1:
		db.Replica, db.Replicas = db.Replicas[0], nil
	case db.Replica == nil:
		return fail("replica", "must specify a replica for the database")
	}
	if db.Dir != "" {
		return c.normalizeDir(db)
	}
	c.warnPathKeys(db)
	var err error
	if db.Path, err = expandPath(db.Path); err != nil {
		return fail("path", err.Error())
	}
	if db.MetaPath == "" {
		db.MetaPath = defaultMetaPath(db.Path)
	} else if db.MetaPath, err = expandPath(db.MetaPath); err != nil {
		return fail("meta-path", err.Error())
	}
	return db.Replica.normalize(fmt.Sprintf("dbs[%d].replica", i), &c.ReplicaSettings)
}

// normalize inherits the file's defaults and expands local paths. The rules
// about the replica's own keys are checked before it inherits any.
func (c *ReplicaConfig) normalize(field string, def *ReplicaSettings) error {
	if err := c.validateOwn(field); err != nil {
		return err
	}
	c.inherit(def)
	for _, p := range []struct {
		key    string
		value  *string
		expand bool
	}{
		{"path", &c.Path, c.replicaType() == replicaTypeFile && c.URL == ""},
		{"sse-customer-key-path", &c.SSECustomerKeyPath, c.SSECustomerKeyPath != ""},
	} {
		if !p.expand {
			continue
		}
		expanded, err := expandPath(*p.value)
		if err != nil {
			return &configError{Field: field + "." + p.key, Line: c.keyLine(p.key), Reason: err.Error()}
		}
		*p.value = expanded
	}
	return nil
}

// promoteSnapshots makes the snapshot settings of databases global where the
// file sets none at the top: v0.5 has one schedule for all databases.
func (c *Config) promoteSnapshots() error {
	for _, s := range []struct {
		key    string
		global **time.Duration
		of     func(*DBConfig) *time.Duration
	}{
		{"interval", &c.Snapshot.Interval, func(db *DBConfig) *time.Duration { return db.Snapshot.Interval }},
		{"retention", &c.Snapshot.Retention, func(db *DBConfig) *time.Duration { return db.Snapshot.Retention }},
	} {
		var first *DBConfig
		for _, db := range c.entries() {
			value := s.of(db)
			switch {
			case value == nil:
			case first == nil:
				first = db
				if *s.global != nil && **s.global != *value {
					c.warn(db.field("snapshot."+s.key), db.Snapshot.keyLine(s.key),
						fmt.Sprintf("not used: snapshot.%s, %s, is set for all databases", s.key, **s.global))
				}
			case *s.of(first) != *value:
				return &configError{
					Field: db.field("snapshot." + s.key), Line: db.Snapshot.keyLine(s.key),
					Reason: fmt.Sprintf("conflicting database snapshot settings: %s has %s, %s has %s", first.name(), *s.of(first), db.name(), *value),
				}
			}
		}
		if first != nil && *s.global == nil {
			*s.global = s.of(first)
		}
	}
	return nil
}
