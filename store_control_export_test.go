package litestream

// Renew returns a database with the same settings that was not opened yet.
func (db *DB) Renew() *DB { return db.renew() }
