//go:build !race

package litestream_test

const raceEnabled = false
