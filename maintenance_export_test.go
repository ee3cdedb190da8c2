package litestream

import (
	"context"
	"time"

	"github.com/superfly/ltx"
)

// Names for the tests of what maintains the databases of a fleet.
type (
	MaintenanceSettings = maintenanceSettings
	TenantFiles         = tenantFiles
	TenantMaintainer    = tenantMaintainer
	TenantTarget        = tenantTarget
)

// Run calls run.
func (t *tenantMaintainer) Run(ctx context.Context, target TenantTarget) error {
	return t.run(ctx, target)
}

// DeleteReplica calls deleteReplica.
func (t *tenantMaintainer) DeleteReplica(ctx context.Context, path string, client ReplicaClient) error {
	return t.deleteReplica(ctx, path, client)
}

// NoteUpload calls noteUpload.
func (f *tenantFiles) NoteUpload(info *ltx.FileInfo, now time.Time) { f.noteUpload(info, now) }

// Due calls due.
func (f tenantFiles) Due(s MaintenanceSettings, path string) time.Time { return f.due(s, path) }

// Lost reports whether nothing is known but that the database is deleted.
func (f tenantFiles) Lost() bool {
	f.gone = false
	return f == tenantFiles{}
}
