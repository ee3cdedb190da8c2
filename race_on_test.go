//go:build race

package litestream_test

// raceEnabled says that the race detector slows checksums down twentyfold, so
// that tests of volume leave most of it out.
const raceEnabled = true
