package webdav_test

import (
	"testing"

	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
)

func TestContract_Lighttpd(t *testing.T) {
	t.Parallel()
	contract(t, servers.Lighttpd(t), replicatest.Options{})
}

func TestContract_Rclone(t *testing.T) {
	t.Parallel()
	contract(t, servers.Rclone(t), replicatest.Options{Short: true})
}

// TestContract_Apache leaves out the races: Apache looks and moves in two
// steps. It wants credentials in a digest.
func TestContract_Apache(t *testing.T) {
	t.Parallel()
	contract(t, servers.Apache(t, true), replicatest.Options{Short: true, NoRaces: true})
}

// TestContract_Nginx leaves out the races: nginx looks and moves in two steps.
func TestContract_Nginx(t *testing.T) {
	t.Parallel()
	contract(t, servers.Nginx(t), replicatest.Options{Short: true, NoRaces: true})
}
