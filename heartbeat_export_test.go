package litestream

import "context"

// Ping sends one request at once.
func (h *Heartbeat) Ping(ctx context.Context) error { return h.get(ctx) }
