//go:build race

package litestream_test

// raceEnabled says that checksums are slowed down twentyfold, so that tests of
// volume do less.
const raceEnabled = true
