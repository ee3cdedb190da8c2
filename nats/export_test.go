package nats

import "time"

// SetNow sets the clock by which a client tells what is old.
func SetNow(c *ReplicaClient, now func() time.Time) { c.pool.now = now }
