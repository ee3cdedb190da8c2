package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/doctor"
	"github.com/benbjohnson/litestream/s3"
)

var doctorHelp = help{
	about: "doctor tries the storage of replicas: it stores, lists, reads and deletes files the way replication and restore do, and says\nwhat works, how fast, and what to change. It writes below <path of the replica>/!litestream/ only, and removes that again.",
	forms: []string{"doctor [arguments] REPLICA_URL", "doctor [arguments] [DB_PATH]", "doctor -providers"},
	flags: [][2]string{
		configFlag, expandEnvFlag,
		{"-quick", "Without the file of 17 MiB and the 1,050 small files: some ten\nrequests instead of some thousand."},
		{"-json", "Print JSON instead of text."},
		{"-providers", "Print the S3 services that are known by their endpoint, and what\nis done differently for them."},
	},
	notes: `With a configuration file every replica is tried once, that of multi-db in the
folder that all of them lie in. Of several that differ in their path alone, the
first is tried with everything, and of the others whether a file can be stored,
read, listed and deleted. A problem of the file itself is told with key and line.

Exits with 0 if all that is required works, 1 if not, 2 if the command line is wrong.`,
	examples: []string{
		"doctor s3://bucket/app", "doctor -quick 's3://bucket/app?endpoint=minio:9000'",
		"doctor -config /path/to/litestream.yml", "doctor -config /path/to/litestream.yml /path/to/db",
	},
}

// exitUsage is the status of the doctor after a wrong command line.
const exitUsage = 2

// usageError ends the command with exitUsage.
type usageError struct{ error }

// Unwrap returns the error itself.
func (e usageError) Unwrap() error { return e.error }

// doctorTarget is one storage that is tried.
type doctorTarget struct {
	config *ReplicaConfig
	client litestream.ReplicaClient
	path   string   // of the client
	group  string   // equal for those that differ in the path alone
	users  []string // databases and directories; empty for a URL
	keeps  bool     // nothing is deleted
}

// doctorReport is what the command prints of a storage.
type doctorReport struct {
	Replica   string   `json:"replica"`
	Type      string   `json:"type"`
	Service   string   `json:"service,omitempty"` // of s3, as -providers has it
	Databases []string `json:"databases,omitempty"`
	Status    string   `json:"status"` // ok, warning or failed
	*doctor.Report
}

func (a *app) runDoctor(ctx context.Context, args []string) error {
	var conf configFlags
	fs := a.newFlagSet("litestream-doctor", &doctorHelp)
	conf.register(fs)
	quick := fs.Bool("quick", false, "quick")
	asJSON := fs.Bool("json", false, "print json")
	providers := fs.Bool("providers", false, "print the table of services")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return usageError{err}
	}
	switch {
	case *providers && fs.NArg() > 0, fs.NArg() > 1:
		return usageError{errTooManyArguments}
	case *providers:
		return a.printProviders(*asJSON)
	}
	targets, err := a.doctorTargets(&conf, fs.Arg(0))
	if err != nil {
		return err
	}
	ctx, stop := a.cancelOnSignal(ctx)
	defer stop()
	return a.examine(ctx, targets, *quick, *asJSON)
}

// printProviders prints what is known of S3 services.
func (a *app) printProviders(asJSON bool) error {
	header, rows := s3.ProviderTable()
	if !asJSON {
		return writeTable(a.stdout, header, rows)
	}
	out := make([]map[string]string, 0, len(rows))
	for _, row := range rows {
		entry := make(map[string]string, len(header))
		for i, name := range header {
			entry[strings.ReplaceAll(name, " ", "_")] = row[i]
		}
		out = append(out, entry)
	}
	return writeJSON(a.stdout, out)
}

// doctorTargets returns what the arguments ask for.
func (a *app) doctorTargets(conf *configFlags, arg string) ([]*doctorTarget, error) {
	if litestream.IsURL(arg) {
		if conf.path != "" {
			return nil, usageError{errors.New("cannot specify a replica URL and the -config flag")}
		}
		rc := &ReplicaConfig{URL: arg}
		if err := rc.validateOwn("replica"); err != nil {
			return nil, usageError{unwrapConfigError(err)}
		}
		t, err := newDoctorTarget(rc, "")
		if err != nil {
			return nil, usageError{err}
		}
		return []*doctorTarget{t}, nil
	}
	if path := configPath(conf.path); conf.path == "" {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("replica URL or configuration file required: %s does not exist", path)
			if arg != "" {
				err = fmt.Errorf("%s is no replica URL, and no database of a configuration: %s does not exist", redactURL(arg), path)
			}
			return nil, usageError{&tryError{err, "litestream doctor s3://bucket/path"}}
		}
	}
	cfg, err := conf.read(a)
	if err != nil {
		return nil, err
	}
	targets, err := cfg.doctorTargets(arg)
	if err == nil && len(targets) == 0 {
		err = errors.New("the configuration has no replica")
	}
	for _, t := range targets {
		t.keeps = !orDefault(cfg.Retention.Enabled, true)
	}
	return targets, err
}

// doctorTargets returns the replicas of the configuration, or that of a path.
func (c *Config) doctorTargets(arg string) ([]*doctorTarget, error) {
	var all []*doctorTarget
	add := func(rc *ReplicaConfig, user string) error {
		t, err := newDoctorTarget(rc, user)
		if err == nil {
			all = append(all, t)
		}
		return err
	}
	if arg != "" {
		path, err := expandPath(arg)
		if err != nil {
			return nil, usageError{err}
		}
		if db := c.db(path); db != nil {
			return all, add(db.Replica, db.Path)
		}
		if c.MultiDB == nil {
			return nil, usageError{fmt.Errorf("database not found in config: %s", path)}
		}
		if _, err := c.MultiDB.tenants.Lookup(path); err != nil {
			return nil, usageError{fmt.Errorf("database not found in config: %w", err)}
		}
		t, err := c.MultiDB.doctorTarget()
		return []*doctorTarget{t}, err
	}
	for _, db := range c.entries() {
		if err := add(db.Replica, db.name()); err != nil {
			return nil, err
		}
	}
	if c.MultiDB != nil {
		t, err := c.MultiDB.doctorTarget()
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

func newDoctorTarget(rc *ReplicaConfig, user string) (*doctorTarget, error) {
	client, err := newReplicaClient(rc)
	if err != nil {
		return nil, err
	}
	t := &doctorTarget{config: rc, client: client, path: rc.clientPath(), group: rc.storage()}
	if user != "" {
		t.users = []string{user}
	}
	return t, nil
}

// doctorTarget returns the folder that all replicas of multi-db lie in.
func (c *MultiDBConfig) doctorTarget() (*doctorTarget, error) {
	folder, err := c.rootFolder()
	if err != nil {
		return nil, err
	}
	client, err := c.clientAt(folder)
	if err != nil {
		return nil, err
	}
	if f, ok := client.(*file.ReplicaClient); ok {
		folder = f.Path()
	}
	return &doctorTarget{config: c.ReplicaTemplate, client: client, path: folder, group: c.ReplicaTemplate.storage(), users: []string{"multi-db"}}, nil
}

// examine tries the storages one after the other and prints what is found.
func (a *app) examine(ctx context.Context, targets []*doctorTarget, quick, asJSON bool) error {
	reports := []doctorReport{}
	seen := make(map[string]bool)
	failed, warned := 0, 0
	for _, t := range targets {
		depth := doctor.Full
		switch {
		case seen[t.group]:
			depth = doctor.Brief
		case quick:
			depth = doctor.Quick
		}
		seen[t.group] = true
		var each func(doctor.Check)
		if !asJSON {
			a.printTarget(t)
			each = a.printCheck
		}
		r, err := t.examine(ctx, depth, each)
		if err != nil {
			return err
		}
		failed, warned = failed+r.Count(doctor.Failed), warned+r.Count(doctor.Warning)
		reports = append(reports, t.report(r))
		if ctx.Err() != nil {
			break
		}
	}
	if asJSON {
		if err := writeJSON(a.stdout, map[string]any{"replicas": reports}); err != nil {
			return err
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case failed == 1:
		return errors.New("one check failed")
	case failed > 1:
		return fmt.Errorf("%d checks failed", failed)
	case asJSON:
	case warned > 0:
		printf(a.stdout, "All that is required works, with the limits above.\n")
	default:
		printf(a.stdout, "Everything works.\n")
	}
	return nil
}

// examine tries one storage. A local folder that was made for it goes again.
func (t *doctorTarget) examine(ctx context.Context, depth doctor.Depth, each func(doctor.Check)) (*doctor.Report, error) {
	if err := t.client.Init(ctx); err != nil {
		return nil, err
	}
	if f, ok := t.client.(*file.ReplicaClient); ok {
		defer removeMade(missingFolders(f.Path()))
	}
	return doctor.Run(ctx, doctor.Options{Client: t.client, Path: t.path, Depth: depth, KeepsFiles: t.keeps, Each: each}), nil
}

// missingFolders returns those of a path that do not exist, the deepest first.
func missingFolders(path string) (missing []string) {
	for dir := path; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			return missing
		}
		missing = append(missing, dir)
	}
}

func removeMade(folders []string) {
	for _, dir := range folders {
		_ = os.Remove(dir) // one that somebody uses meanwhile is not empty, and stays
	}
}

func (t *doctorTarget) service() string {
	if c, ok := t.client.(*s3.ReplicaClient); ok {
		return s3.ProviderName(c.Endpoint)
	}
	return ""
}

func (t *doctorTarget) report(r *doctor.Report) doctorReport {
	out := doctorReport{
		Replica: redactedLocation(t.client), Type: t.client.Type(), Service: t.service(),
		Databases: t.users, Status: string(doctor.OK), Report: r,
	}
	if r.Count(doctor.Warning) > 0 {
		out.Status = string(doctor.Warning)
	}
	if r.Count(doctor.Failed) > 0 {
		out.Status = string(doctor.Failed)
	}
	return out
}

func (a *app) printTarget(t *doctorTarget) {
	printf(a.stdout, "%s\n", redactedLocation(t.client))
	if s := t.service(); s != "" {
		printf(a.stdout, "  service: %s (litestream doctor -providers)\n", s)
	}
	if len(t.users) > 0 {
		printf(a.stdout, "  replica of: %s\n", strings.Join(t.users, ", "))
	}
}

func (a *app) printCheck(c doctor.Check) {
	printf(a.stdout, "  %-8s %-14s %s\n", c.Status, c.Name, c.Text)
	if c.Advice != "" {
		printf(a.stdout, "  %-8s %-14s -> %s\n", "", "", c.Advice)
	}
}
