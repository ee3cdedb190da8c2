package replicatest_test

import (
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// The replica in memory stands for real ones in other packages' tests, so it
// has to behave like them.
func TestMemClient(t *testing.T) {
	replicatest.Run(t, func(testing.TB) litestream.ReplicaClient { return testutil.NewMemClient() },
		replicatest.Options{PlainErrors: true})
}
