package litestream_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/internal/testutil"
)

// TestMain fails the run if a test leaves a goroutine behind. In a child
// process it is the other program of a test instead.
func TestMain(m *testing.M) {
	if role := os.Getenv(childRoleEnv); role != "" {
		if err := serveChild(role, os.Getenv(childPathEnv)); err != nil {
			fmt.Println("err", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8)))
}
