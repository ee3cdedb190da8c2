package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
)

// MultiDBConfig is the key `multi-db`. Below it unknown keys are errors.
type MultiDBConfig struct {
	position

	Enabled  bool        `yaml:"enabled"`
	Patterns []rawScalar `yaml:"patterns"`
	Exclude  []rawScalar `yaml:"exclude"`

	ReplicaTemplate *ReplicaConfig `yaml:"replica-template"`
	Hostname        string         `yaml:"hostname"`
	StateDir        string         `yaml:"state-dir"`

	MaxHotDatabases *int                 `yaml:"max-hot-databases"`
	ScanInterval    *time.Duration       `yaml:"scan-interval"`
	WriteDetection  WriteDetectionConfig `yaml:"write-detection"`
	Limits          LimitsConfig         `yaml:"limits"`
	Drill           DrillConfig          `yaml:"drill"`

	ConnectionIdleTimeout *time.Duration `yaml:"connection-idle-timeout"`
	DeletedRetention      *time.Duration `yaml:"deleted-retention"`
	Checksums             *bool          `yaml:"checksums"`
	Checkpoint            string         `yaml:"checkpoint"`
	AllowNetworkFS        bool           `yaml:"allow-network-filesystem"`
	MaxStagedBytes        *ByteSize      `yaml:"max-staged-bytes"`

	Snapshot    SnapshotConfig `yaml:"snapshot"`
	Levels      []*LevelConfig `yaml:"levels"`
	L0Retention *time.Duration `yaml:"l0-retention"`

	tenants *litestream.TenantMap
	base    litestream.ReplicaClient // of the template, for no path yet
	clients *litestream.S3ClientPool
}

// WriteDetectionConfig says how changed databases are found.
type WriteDetectionConfig struct {
	position
	Mode        string         `yaml:"mode"`
	HotDuration *time.Duration `yaml:"hot-duration"`
}

// DrillConfig says how often and at what cost replicas are proven to restore.
type DrillConfig struct {
	position
	Interval *time.Duration `yaml:"interval"`
	Budget   *ByteSize      `yaml:"budget"`
}

// LimitsConfig bounds what all databases found by pattern use at a time.
type LimitsConfig struct {
	position
	Connections     *int `yaml:"connections"`
	MonitorWorkers  *int `yaml:"monitor-workers"`
	SnapshotWorkers *int `yaml:"snapshot-workers"`
	ReplicaWorkers  *int `yaml:"replica-workers"`
	S3Connections   *int `yaml:"s3-connections"`
}

// normalize expands paths, inherits the file's defaults for replicas and
// builds the map of tenants. All errors name key and line.
func (c *MultiDBConfig) normalize(def *ReplicaSettings) error {
	var err error
	c.StateDir = cmp.Or(c.StateDir, firstPath(os.Getenv("STATE_DIRECTORY")), litestream.DefaultStateDir)
	if c.StateDir, err = expandPath(c.StateDir); err != nil {
		return c.fail("state-dir", "", err)
	}
	if c.ReplicaTemplate == nil {
		return c.fail("replica-template", "", errors.New("is required"))
	}
	template, err := c.normalizeTemplate(def)
	if err != nil {
		return err
	}
	if c.Hostname == "" {
		// Without it {{hostname}} has no value, which is said where it matters.
		c.Hostname, _ = os.Hostname()
	}
	settings := c.settings(template)
	if err := settings.Validate(); err != nil {
		return c.locate(err)
	}
	c.tenants, err = litestream.NewTenantMap(settings)
	return err
}

// setHostname builds the map of tenants again for another {{hostname}}.
func (c *MultiDBConfig) setHostname(hostname string) error {
	template, err := c.pathTemplate()
	if err != nil {
		return err
	}
	c.Hostname = hostname
	c.tenants, err = litestream.NewTenantMap(c.settings(template))
	return err
}

// firstPath returns the first of the directories that systemd hands over.
func firstPath(list string) string {
	first, _, _ := strings.Cut(list, ":")
	return first
}

// normalizeTemplate makes the client of the template without what varies, and
// returns the template of its path.
func (c *MultiDBConfig) normalizeTemplate(def *ReplicaSettings) (string, error) {
	const field = "multi-db.replica-template"
	t := c.ReplicaTemplate
	if err := t.normalize(field, def); err != nil {
		return "", err
	}
	if errs := t.validate(field); len(errs) > 0 {
		return "", errors.Join(errs...)
	}
	if strings.Contains(t.Bucket, "{{") {
		return "", &configError{Field: field + ".bucket", Line: t.keyLine("bucket"), Got: t.Bucket, Reason: "variables may stand in path and url only"}
	}
	template, err := c.pathTemplate()
	if err != nil {
		return "", err
	}
	fixed := *t
	fixed.maxConns = c.settings(template).Limits.S3Connections
	if fixed.URL != "" {
		head, _, query := splitTemplateURL(fixed.URL)
		fixed.URL = head + query
	}
	c.base, err = fixed.checkClient(field)
	c.clients = litestream.NewS3ClientPool(func(string) (litestream.ReplicaClient, error) { return c.base, nil })
	return template, err
}

// pathTemplate returns the template of the replica's path: the key `path`, or
// the path in the key `url` in the form that a client takes.
func (c *MultiDBConfig) pathTemplate() (string, error) {
	t := c.ReplicaTemplate
	if t.URL == "" {
		return t.Path, nil
	}
	fail := func(reason string) error {
		return &configError{Field: "multi-db.replica-template.url", Line: t.keyLine("url"), Got: redactURL(t.URL), Reason: reason}
	}
	head, tail, query := splitTemplateURL(t.URL)
	if strings.Contains(head, "{{") || strings.Contains(query, "{{") || strings.HasSuffix(head, ":/") {
		return "", fail("variables may stand in the path only")
	}
	scheme, _, prefix, _, _, err := litestream.ParseReplicaURL(head)
	if err != nil {
		return "", fail(err.Error())
	}
	if scheme == replicaTypeNATS && (prefix == "" || prefix == ".") {
		return "", fail("variables may not stand in place of the bucket: all databases share one, as in nats://host/bucket/{{tenant}}")
	}
	prefix = belowBucket(scheme, prefix)
	if scheme != replicaTypeFile { // whose paths are not decoded
		if tail, err = decodeTemplate(tail); err != nil {
			return "", fail(err.Error())
		}
	}
	switch {
	case prefix != "." && prefix != "":
	case takesRootedPath(t.replicaType()):
		return "/" + tail, nil // as a URL without variables
	default:
		return tail, nil
	}
	return strings.TrimSuffix(prefix, "/") + "/" + tail, nil
}

// splitTemplateURL splits a URL at the slash before its first variable, and at
// the query. Without a variable tail is empty.
func splitTemplateURL(u string) (head, tail, query string) {
	if i := strings.IndexByte(u, '?'); i >= 0 {
		u, query = u[:i], u[i:]
	}
	i := strings.Index(u, "{{")
	if i < 0 {
		return u, "", query
	}
	slash := strings.LastIndexByte(u[:i], '/')
	if slash < 0 {
		return u, "", query
	}
	return u[:slash], u[slash+1:], query
}

// settings returns what the keys say, over the defaults.
func (c *MultiDBConfig) settings(template string) litestream.MultiDBConfig {
	s := litestream.NewMultiDBConfig()
	for _, p := range c.Patterns {
		s.Patterns = append(s.Patterns, p.node.Value)
	}
	for _, p := range c.Exclude {
		s.Exclude = append(s.Exclude, p.node.Value)
	}
	s.ReplicaPath, s.Hostname, s.StateDir = template, c.Hostname, c.StateDir
	s.MaxHotDatabases = orDefault(c.MaxHotDatabases, s.MaxHotDatabases)
	s.ScanInterval = orDefault(c.ScanInterval, s.ScanInterval)
	s.WriteDetection = cmp.Or(c.WriteDetection.Mode, s.WriteDetection)
	s.HotDuration = orDefault(c.WriteDetection.HotDuration, s.HotDuration)
	s.ConnectionIdleTimeout = orDefault(c.ConnectionIdleTimeout, s.ConnectionIdleTimeout)
	s.DeletedRetention = orDefault(c.DeletedRetention, s.DeletedRetention)
	s.Checksums = orDefault(c.Checksums, s.Checksums)
	s.Checkpoint = cmp.Or(c.Checkpoint, s.Checkpoint)
	s.AllowNetworkFS = c.AllowNetworkFS
	s.MaxStagedBytes = int64(orDefault(c.MaxStagedBytes, ByteSize(s.MaxStagedBytes)))
	s.Drill.Interval = orDefault(c.Drill.Interval, s.Drill.Interval)
	s.Drill.Budget = int64(orDefault(c.Drill.Budget, ByteSize(s.Drill.Budget)))
	s.Limits.Connections = orDefault(c.Limits.Connections, s.Limits.Connections)
	s.Limits.MonitorWorkers = orDefault(c.Limits.MonitorWorkers, s.Limits.MonitorWorkers)
	s.Limits.SnapshotWorkers = orDefault(c.Limits.SnapshotWorkers, s.Limits.SnapshotWorkers)
	s.Limits.ReplicaWorkers = orDefault(c.Limits.ReplicaWorkers, s.Limits.ReplicaWorkers)
	s.Limits.S3Connections = orDefault(c.Limits.S3Connections, s.Limits.S3Connections)
	return s
}

// locate turns the errors of settings into such with a line.
func (c *MultiDBConfig) locate(err error) error {
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var errs []error
	for _, err := range list.Unwrap() {
		if se, ok := errors.AsType[*litestream.SettingError](err); ok {
			err = c.fail(se.Key, se.Got, se.Err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *MultiDBConfig) fail(key, got string, err error) error {
	if key == "replica-template.path" && c.ReplicaTemplate.URL != "" {
		key = "replica-template.url"
	}
	return &configError{Field: "multi-db." + key, Line: c.settingLine(key), Reason: err.Error(), Got: got}
}

// settingLine returns the line of a key such as limits.connections.
func (c *MultiDBConfig) settingLine(key string) int {
	name, rest, nested := strings.Cut(key, ".")
	list, index, isEntry := strings.Cut(name, "[")
	var i int
	if isEntry {
		_, _ = fmt.Sscanf(index, "%d]", &i) // of our own making
	}
	switch {
	case nested && name == "limits":
		return c.Limits.keyLine(rest)
	case nested && name == "drill":
		return c.Drill.keyLine(rest)
	case nested && name == "write-detection":
		return c.WriteDetection.keyLine(rest)
	case nested:
		return c.ReplicaTemplate.keyLine(rest)
	case isEntry && list == "patterns":
		return c.Patterns[i].node.Line
	case isEntry:
		return c.Exclude[i].node.Line
	default:
		return c.keyLine(name)
	}
}

// validateMultiDB checks what the key shares with the rest of the file.
func (c *Config) validateMultiDB() []error {
	m := c.MultiDB
	if m == nil {
		return nil
	}
	errs := checkBounds("multi-db.", append(m.Snapshot.bounds(), bound{
		"l0-retention", m.L0Retention, m.keyLine("l0-retention"), 0, "must not be negative",
	}))
	errs = append(errs, checkLevels("multi-db.", m.Levels, m.keyLine("levels"))...)
	for _, db := range c.DBs {
		if t, err := m.tenants.Lookup(db.Path); err == nil {
			errs = append(errs, &configError{
				Field: db.field("path"), Line: db.keyLine("path"), Got: db.Path,
				Reason: fmt.Sprintf("pattern %s (line %d) of multi-db matches the path, too: exclude it there", m.Patterns[t.Pattern].node.Value, m.Patterns[t.Pattern].node.Line),
			})
		}
	}
	return errs
}

// manager returns the settings in force, and the client of the folder that all
// replicas lie in.
func (c *MultiDBConfig) manager() (litestream.MultiDBConfig, litestream.ReplicaClient, error) {
	template, err := c.pathTemplate()
	if err != nil {
		return litestream.MultiDBConfig{}, nil, err
	}
	root, err := c.clientAt(c.folderOf(template))
	return c.settings(template), root, err
}

// rootFolder returns the folder that all replicas lie in.
func (c *MultiDBConfig) rootFolder() (string, error) {
	template, err := c.pathTemplate()
	return c.folderOf(template), err
}

func (c *MultiDBConfig) folderOf(template string) string {
	literal, _, _ := strings.Cut(template, "{{")
	folder := literal[:strings.LastIndexByte(literal, '/')+1]
	if folder == "/" && takesRootedPath(c.base.Type()) {
		return folder
	}
	return strings.TrimSuffix(folder, "/")
}

// client returns the client of a tenant's replica.
func (c *MultiDBConfig) client(t *litestream.Tenant) (litestream.ReplicaClient, error) {
	return c.clientAt(t.ReplicaPath)
}

// clientAt returns a client of one path, which shares the connections of all
// with the same endpoint and credentials.
func (c *MultiDBConfig) clientAt(replicaPath string) (litestream.ReplicaClient, error) {
	if c.base.Type() == replicaTypeFile {
		replicaPath = filepath.Join("/", filepath.FromSlash(replicaPath))
	}
	return c.clients.Client(c.base.Type(), replicaPath)
}

// decodeTemplate replaces percent escapes outside of variables.
func decodeTemplate(s string) (string, error) {
	var b strings.Builder
	for rest := s; rest != ""; {
		lit, _, found := strings.Cut(rest, "{{")
		decoded, err := url.PathUnescape(lit)
		if err != nil {
			return "", err
		}
		b.WriteString(decoded)
		if !found {
			break
		}
		rest = rest[len(lit):]
		end := strings.Index(rest, "}}")
		if end < 0 {
			end = len(rest) - 2
		}
		b.WriteString(rest[:end+2])
		rest = rest[end+2:]
	}
	return b.String(), nil
}
