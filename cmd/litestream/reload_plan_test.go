package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/control"
)

// describe returns changes as lines.
func describe(changes []control.ReloadChange) string {
	var b strings.Builder
	for _, c := range changes {
		b.WriteString(strings.TrimRight(strings.Join([]string{c.Action, c.What, c.Path, c.Detail}, "|"), "|") + "\n")
	}
	return b.String()
}

const planFleet = "multi-db:\n  enabled: true\n  patterns: [/d/p/*.db]\n  state-dir: /s\n  replica-template: {bucket: b, path: '{{1}}'}\n"

func TestPlanReload(t *testing.T) {
	const one = "dbs:\n  - {path: /a, replica: {path: /r/a}}\n"
	for _, tt := range []struct{ name, from, to, want string }{
		{"Nothing", one, "# moved\n\n" + one, ""},
		{
			"DefaultsWrittenDown", one, `
levels: [{interval: 30s}, {interval: 5m}, {interval: 1h}]
snapshot: {interval: 24h, retention: 24h}
retention: {enabled: true}
logging: {level: INFO, type: text}
sync-interval: 1s
dbs:
  - {path: /x/../a, monitor-interval: 1s, checksums: false, replica: {type: file, path: /r/a}}`, "",
		},
		{"Add", one, one + "  - {path: /b, replica: {path: /r/b}}\n", "add|dbs[1]|/b|replicated to file:///r/b\n"},
		{"Remove", one + "  - {path: /b, replica: {path: /r/b}}\n", one, "remove|dbs[1]|/b|synced a last time, its replica stays\n"},
		{"Order", one + "  - {path: /b, replica: {path: /r/b}}\n", "dbs:\n  - {path: /b, replica: {path: /r/b}}\n  - {path: /a, replica: {path: /r/a}}\n", ""},
		{
			"Change", one, "dbs:\n  - {path: /a, meta-path: /m, monitor-interval: 2s, replica: {path: /r/b, sync-interval: 3s}}\n",
			"change|dbs[0]|/a|meta-path: /.a-litestream → /m; monitor-interval: 1s → 2s; replica.path: /r/a → /r/b; replica.sync-interval: 1s → 3s\n",
		},
		{"Inherited", one, "sync-interval: 3s\nchecksums: true\n" + one, "change|dbs[0]|/a|checksums: false → true; replica.sync-interval: 1s → 3s\n"},
		{
			"Swap", "dbs:\n  - {path: /a, replica: {path: /r/a}}\n  - {path: /b, replica: {path: /r/b}}\n",
			"dbs:\n  - {path: /a, replica: {path: /r/b}}\n  - {path: /b, replica: {path: /r/a}}\n",
			"change|dbs[0]|/a|replica.path: /r/a → /r/b\nchange|dbs[1]|/b|replica.path: /r/b → /r/a\n",
		},
		{
			"Secrets", "dbs:\n  - {path: /a, replica: {bucket: b, type: s3, path: p, access-key-id: K, secret-access-key: S}}\n",
			"dbs:\n  - {path: /a, replica: {bucket: b, type: s3, path: p, access-key-id: K, secret-access-key: T}}\n",
			"change|dbs[0]|/a|replica.secret-access-key: another value\n",
		},
		{"StartOnly", one, "dbs:\n  - {path: /a, restore-if-db-not-exists: true, replica: {path: /r/a}}\n", ""},
		{
			"Live", one, `
levels: [{interval: 1m}]
snapshot: {interval: 1h}
l0-retention: 7m
shutdown-timeout: 1m
heartbeat-url: https://h/secret
logging: {level: debug}
` + one,
			"change|levels||[30s, 5m0s, 1h0m0s] → [1m0s]\nchange|snapshot.interval||24h0m0s → 1h0m0s\nchange|l0-retention||5m0s → 7m0s\n" +
				"change|logging.level||info → debug\nchange|heartbeat-url||not set → https://h/***\nchange|shutdown-timeout||30s → 1m0s\n",
		},
		{
			"Restart", one, "addr: :9\nexec: x\nsocket: {enabled: true, path: /s}\nlogging: {type: json}\nmax-staged-bytes: 1MB\nvalidation: {interval: 1h}\n" + one,
			"keep-until-restart|addr||not set → :9\nkeep-until-restart|exec||not set → x\nkeep-until-restart|socket.enabled||false → true\nkeep-until-restart|socket.path||not set → /s\n" +
				"keep-until-restart|validation.interval||not set → 1h0m0s\nkeep-until-restart|logging.type||text → json\nkeep-until-restart|max-staged-bytes||1073741824 → 1000000\n",
		},
		{
			"Directories", one + "  - {dir: /x, pattern: '*.db', watch: true, replica: {path: /r/x}}\n  - {dir: /y, pattern: '*.db', replica: {path: /r/y}}\n",
			one + "  - {dir: /x, pattern: '*.db', replica: {path: /r/x}}\n  - {dir: /z, pattern: '*.db', replica: {path: /r/z}}\n",
			"change|dbs[1].dir|/x|watch: true → false\nadd|dbs[2].dir|/z|replicated to file:///r/z\n" +
				"remove|dbs[2].dir|/y|its databases are synced a last time, their replicas stay\n",
		},
		{"FleetBegins", one, one + planFleet, "keep-until-restart|multi-db.enabled||false → true\n"},
		{"FleetEnds", one + planFleet, one, "keep-until-restart|multi-db.enabled||true → false\n"},
		{"FleetDisabled", one, one + strings.Replace(planFleet, "true", "false", 1), ""},
		{"FleetSame", planFleet, "\n\n" + planFleet + "  max-hot-databases: 1000\n  write-detection: {hot-duration: 15s}\n", ""},
		{
			"Fleet", planFleet, "multi-db:\n  enabled: true\n  patterns: [/d/p/*.db, /d/q/*.db]\n  exclude: [/d/p/x.db]\n  state-dir: /s2\n  max-hot-databases: 5\n" +
				"  limits: {connections: 7}\n  write-detection: {hot-duration: 1s}\n  snapshot: {interval: 1h}\n  drill: {interval: 24h, budget: 1GB}\n  replica-template: {bucket: b2, path: '{{1}}'}\n",
			"change|multi-db.patterns||[/d/p/*.db] → [/d/p/*.db, /d/q/*.db]\nchange|multi-db.exclude||[] → [/d/p/x.db]\n" +
				"keep-until-restart|multi-db.replica-template.bucket||b → b2\nkeep-until-restart|multi-db.state-dir||/s → /s2\n" +
				"change|multi-db.max-hot-databases||1000 → 5\nchange|multi-db.write-detection.hot-duration||15s → 1s\n" +
				"keep-until-restart|multi-db.limits.connections||1000 → 7\n" +
				"change|multi-db.drill.interval||0s → 24h0m0s\nchange|multi-db.drill.budget||0 → 1000000000\n" +
				"change|multi-db.snapshot.interval||not set → 1h0m0s\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, to := mustParse(t, tt.from), mustParse(t, tt.to)
			plan, err := planReload(from, to)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, describe(plan.changes)); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			// What is in force afterwards differs from the file in what waits.
			again, err := planReload(plan.inForce, to)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range again.changes {
				if c.Action != actionKeep {
					t.Errorf("the same file again: %+v", c)
				}
			}
			if got, want := strings.Count(describe(again.changes), actionKeep), strings.Count(tt.want, actionKeep); got != want {
				t.Errorf("the same file again: %d keys wait for the restart, want %d", got, want)
			}
		})
	}
}

// What changes now has to go together with what stays.
func TestPlanReload_Refused(t *testing.T) {
	const db = "dbs:\n  - {path: /d/p/x.db, replica: {path: /r/x}}\n"
	for name, tt := range map[string]struct{ from, to, want string }{
		"PatternStays": {
			planFleet, db,
			"together with what stays in force until the restart: dbs[0].path (line 2): pattern /d/p/*.db (line 3) of multi-db matches the path, too",
		},
		"TemplateStays": {
			"multi-db:\n  enabled: true\n  patterns: [/d/*/*.db]\n  state-dir: /s\n  replica-template: {bucket: b, path: '{{1}}/{{2}}'}\n", planFleet,
			"variable {{2}} has no value in pattern /d/p/*.db",
		},
	} {
		_, err := planReload(mustParse(t, tt.from), mustParse(t, tt.to))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}
