package litestream

import "time"

// NextL0Retention returns when the oldest level-0 file becomes old enough to
// be deleted, so that a pass before then would find nothing. It is false while
// no file waits for its age alone: a compaction has to come first, or there is
// nothing but the newest file, which stays.
func (c *Compactor) NextL0Retention() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	files := c.state[0].files
	if c.L0Retention <= 0 || len(files) < 2 || files[0].max > c.state[1].maxTXID {
		return time.Time{}, false
	}
	at := time.UnixMilli(files[0].createdAt).Add(c.L0Retention + c.Grace)
	if at.Before(c.Now()) {
		return time.Time{}, false
	}
	return at, true
}
