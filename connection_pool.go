package litestream

// ConnectionPool bounds the SQLite connections over the databases of a fleet.
type ConnectionPool struct{}
