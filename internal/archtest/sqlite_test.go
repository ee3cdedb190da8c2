package archtest

import (
	"testing"

	"github.com/mattn/go-sqlite3"
)

// TestSQLiteVersion holds the embedded SQLite at 3.51.3 or above. Versions from
// 3.7.0 to 3.51.2 can corrupt a database when one connection checkpoints while
// another commits and resets the WAL (SQLite's release notes of 3.51.3), and
// replication does just that beside the application. 3.52.0 had the bug
// too; it was withdrawn.
func TestSQLiteVersion(t *testing.T) {
	const fixed, withdrawn = 3_051_003, 3_052_000
	version, number, _ := sqlite3.Version()
	if number < fixed || number == withdrawn {
		t.Errorf("embedded SQLite is %s, want 3.51.3 or above and not 3.52.0", version)
	}
}
