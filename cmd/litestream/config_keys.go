package main

import "fmt"

// scope is a place in the configuration file that has keys of its own.
type scope string

const (
	scopeRoot       scope = "root"
	scopeDB         scope = "dbs[]"
	scopeReplica    scope = "replica"
	scopeSnapshot   scope = "snapshot"
	scopeLevel      scope = "levels[]"
	scopeLogging    scope = "logging"
	scopeSocket     scope = "socket"
	scopeRetention  scope = "retention"
	scopeValidation scope = "validation"
	scopeAge        scope = "age"

	scopeMultiDB        scope = "multi-db"
	scopeWriteDetection scope = "multi-db.write-detection"
	scopeDrill          scope = "multi-db.drill"
	scopeLimits         scope = "multi-db.limits"
)

// configKey is one key that upstream or this project knows.
type configKey struct {
	name  string
	scope scope

	// child is the scope of the mapping below the key, if there is one.
	child scope

	// instead is set for the keys that upstream ignores, which are accepted with
	// a warning. It says what is in force.
	instead func(*Config) string
}

// ignored reports whether the key has no effect.
func (k configKey) ignored() bool { return k.instead != nil }

// configKeys lists every key once per scope.
// A key that stands both in a replica and at the top is in sharedKeys.
var configKeys = append([]configKey{
	{name: "addr", scope: scopeRoot},
	{name: "exec", scope: scopeRoot},
	{name: "socket", scope: scopeRoot, child: scopeSocket},
	{name: "levels", scope: scopeRoot, child: scopeLevel},
	{name: "snapshot", scope: scopeRoot, child: scopeSnapshot},
	{name: "retention", scope: scopeRoot, child: scopeRetention},
	{name: "validation", scope: scopeRoot, child: scopeValidation},
	{name: "l0-retention", scope: scopeRoot},
	{name: "l0-retention-check-interval", scope: scopeRoot},
	{name: "shutdown-timeout", scope: scopeRoot},
	{name: "shutdown-sync-timeout", scope: scopeRoot},
	{name: "shutdown-sync-interval", scope: scopeRoot},
	{name: "logging", scope: scopeRoot, child: scopeLogging},
	{name: "dbs", scope: scopeRoot, child: scopeDB},
	{name: "checksums", scope: scopeRoot},
	{name: "max-staged-bytes", scope: scopeRoot},
	{name: "mcp-addr", scope: scopeRoot},
	{name: "verify-compaction", scope: scopeRoot},
	{name: "heartbeat-url", scope: scopeRoot},
	{name: "heartbeat-interval", scope: scopeRoot},
	{name: "multi-db", scope: scopeRoot, child: scopeMultiDB},

	{name: "enabled", scope: scopeMultiDB},
	{name: "patterns", scope: scopeMultiDB},
	{name: "exclude", scope: scopeMultiDB},
	{name: "replica-template", scope: scopeMultiDB, child: scopeReplica},
	{name: "hostname", scope: scopeMultiDB},
	{name: "state-dir", scope: scopeMultiDB},
	{name: "max-hot-databases", scope: scopeMultiDB},
	{name: "scan-interval", scope: scopeMultiDB},
	{name: "write-detection", scope: scopeMultiDB, child: scopeWriteDetection},
	{name: "limits", scope: scopeMultiDB, child: scopeLimits},
	{name: "drill", scope: scopeMultiDB, child: scopeDrill},
	{name: "connection-idle-timeout", scope: scopeMultiDB},
	{name: "deleted-retention", scope: scopeMultiDB},
	{name: "checksums", scope: scopeMultiDB},
	{name: "checkpoint", scope: scopeMultiDB},
	{name: "allow-network-filesystem", scope: scopeMultiDB},
	{name: "max-staged-bytes", scope: scopeMultiDB},
	{name: "snapshot", scope: scopeMultiDB, child: scopeSnapshot},
	{name: "levels", scope: scopeMultiDB, child: scopeLevel},
	{name: "l0-retention", scope: scopeMultiDB},

	{name: "mode", scope: scopeWriteDetection},
	{name: "hot-duration", scope: scopeWriteDetection},

	{name: "interval", scope: scopeDrill},
	{name: "budget", scope: scopeDrill},

	{name: "connections", scope: scopeLimits},
	{name: "monitor-workers", scope: scopeLimits},
	{name: "snapshot-workers", scope: scopeLimits},
	{name: "replica-workers", scope: scopeLimits},
	{name: "s3-connections", scope: scopeLimits},

	{name: "enabled", scope: scopeSocket},
	{name: "path", scope: scopeSocket},
	{name: "permissions", scope: scopeSocket},

	{name: "interval", scope: scopeLevel},
	{name: "retention", scope: scopeLevel, instead: snapshotRetentionNote},

	{name: "interval", scope: scopeSnapshot},
	{name: "retention", scope: scopeSnapshot},

	{name: "enabled", scope: scopeRetention},
	{name: "interval", scope: scopeValidation},

	{name: "level", scope: scopeLogging},
	{name: "type", scope: scopeLogging},
	{name: "stderr", scope: scopeLogging},
	{name: "source", scope: scopeLogging},

	{name: "path", scope: scopeDB},
	{name: "meta-path", scope: scopeDB},
	{name: "monitor-interval", scope: scopeDB},
	{name: "checkpoint-interval", scope: scopeDB},
	{name: "busy-timeout", scope: scopeDB},
	{name: "min-checkpoint-page-count", scope: scopeDB},
	{name: "truncate-page-n", scope: scopeDB},
	{name: "max-sync-wal-bytes", scope: scopeDB},
	{name: "restore-if-db-not-exists", scope: scopeDB},
	{name: "checksums", scope: scopeDB},
	{name: "allow-network-filesystem", scope: scopeDB},
	{name: "snapshot", scope: scopeDB, child: scopeSnapshot},
	{name: "replica", scope: scopeDB, child: scopeReplica},
	{name: "replicas", scope: scopeDB, child: scopeReplica},
	{name: "dir", scope: scopeDB},
	{name: "pattern", scope: scopeDB},
	{name: "recursive", scope: scopeDB},
	{name: "watch", scope: scopeDB},
	{name: "meta-dir", scope: scopeDB},
	{name: "max-checkpoint-page-count", scope: scopeDB, instead: truncateNote},

	{name: "type", scope: scopeReplica},
	{name: "url", scope: scopeReplica},
	{name: "path", scope: scopeReplica},
	{name: "name", scope: scopeReplica, instead: fixedNote("a database has one replica, which needs no name")},
	{name: "retention", scope: scopeReplica, instead: snapshotRetentionNote},
	{name: "retention-check-interval", scope: scopeReplica, instead: snapshotIntervalNote},
	{name: "snapshot-interval", scope: scopeReplica, instead: snapshotIntervalNote},

	{name: "identities", scope: scopeAge},
	{name: "recipients", scope: scopeAge},
}, sharedKeys()...)

// sharedKeys returns the keys of a replica that the top of the file may hold
// as a default, once for each of the two scopes.
func sharedKeys() []configKey {
	perReplica := []configKey{
		{name: "sync-interval"},
		{name: "max-sync-ltx-files"},
		{name: "access-key-id"},
		{name: "secret-access-key"},
		{name: "region"},
		{name: "bucket"},
		{name: "endpoint"},
		{name: "storage-class"},
		{name: "force-path-style"},
		{name: "sign-payload"},
		{name: "sign-accept-encoding"},
		{name: "require-content-md5"},
		{name: "put-object-content-md5"},
		{name: "skip-verify"},
		{name: "part-size"},
		{name: "concurrency"},
		{name: "sse-customer-algorithm"},
		{name: "sse-customer-key"},
		{name: "sse-customer-key-path"},
		{name: "sse-kms-key-id"},
		{name: "account-name"},
		{name: "account-key"},
		{name: "sas-token"},
		{name: "host"},
		{name: "user"},
		{name: "password"},
		{name: "key-path"},
		{name: "host-key"},
		{name: "concurrent-writes"},
		{name: "webdav-url"},
		{name: "webdav-username"},
		{name: "webdav-password"},
		{name: "jwt"},
		{name: "seed"},
		{name: "creds"},
		{name: "nkey"},
		{name: "username"},
		{name: "token"},
		{name: "tls"},
		{name: "root-cas"},
		{name: "client-cert"},
		{name: "client-key"},
		{name: "max-reconnects"},
		{name: "reconnect-wait"},
		{name: "timeout"},
		{name: "age", child: scopeAge},
		{name: "auto-recover", instead: fixedNote("local files that are missing or damaged are always made anew")},
		{name: "validation-interval", instead: fixedNote("every snapshot compares all pages with what was captured")},
	}
	keys := make([]configKey, 0, 2*len(perReplica))
	for _, k := range perReplica {
		k.scope = scopeReplica
		keys = append(keys, k)
		k.scope = scopeRoot
		keys = append(keys, k)
	}
	return keys
}

// lookupKey returns the table's entry of a key.
func lookupKey(s scope, name string) (configKey, bool) {
	for _, k := range configKeys {
		if k.scope == s && k.name == name {
			return k, true
		}
	}
	return configKey{}, false
}

func fixedNote(text string) func(*Config) string {
	return func(*Config) string { return text }
}

func snapshotRetentionNote(c *Config) string {
	return fmt.Sprintf("snapshot.retention, %s, is in force", c.snapshotRetention())
}

func snapshotIntervalNote(c *Config) string {
	return fmt.Sprintf("snapshot.interval, %s, is in force", c.snapshotInterval())
}

func truncateNote(*Config) string {
	return "truncate-page-n is in force; its default is 121359 pages"
}
