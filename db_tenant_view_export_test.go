package litestream

// SetConnections lets a database of a fleet use a pool.
func (db *DB) SetConnections(p *ConnectionPool) { db.tenant.connections = p }

// Exec runs a statement on the connection.
func (c *PooledConn) Exec(query string) error { return c.conn.exec(query) }

// SetPassiveCheckpoint turns checkpoints on.
func (db *DB) SetPassiveCheckpoint() { db.tenant.checkpoint = true }
