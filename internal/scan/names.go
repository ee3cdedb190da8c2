package scan

import "strings"

// IsDatabaseName reports whether a file of that name can be a database: not
// the log, index or journal that SQLite keeps beside one.
func IsDatabaseName(name string) bool {
	return name != "" && !strings.HasSuffix(name, walSuffix) && !strings.HasSuffix(name, "-shm") && !strings.HasSuffix(name, "-journal")
}

// IsMetaDir reports whether a directory is one that Litestream keeps beside a
// database. Nothing in it is a database.
func IsMetaDir(name string) bool {
	return strings.HasPrefix(name, ".") && strings.HasSuffix(name, "-litestream")
}

const walSuffix = "-wal"
