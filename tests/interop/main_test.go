// Package interop_test shows that replicas can be traded with Litestream
// v0.5.18, whose program it runs as a black box: either restores what the other
// wrote, and either goes on where the other stopped.
package interop_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the run if a test leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
