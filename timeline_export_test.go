package litestream

import "github.com/superfly/ltx"

// NewTimeline returns the timeline of a listing.
func NewTimeline(files ...*ltx.FileInfo) *Timeline {
	var levels levelFiles
	for _, f := range files {
		levels[f.Level] = append(levels[f.Level], f)
	}
	return newTimeline(levels)
}
