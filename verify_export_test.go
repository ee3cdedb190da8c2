package litestream

import "time"

// SetKnobs replaces the times that users cannot set.
func (opt *VerifyOptions) SetKnobs(pause time.Duration, k RestoreKnobs) {
	opt.knobs = verifyKnobs{pause: pause, fetch: fetchKnobs{chunkBytes: k.ChunkBytes, retryDelays: k.RetryDelays, stall: k.Stall}}
}
