package file

import (
	"net/url"

	"github.com/benbjohnson/litestream"
)

func init() {
	litestream.RegisterReplicaClientFactory(ReplicaClientType, newReplicaClientFromURL)
}

func newReplicaClientFromURL(_, _, urlPath string, _ url.Values, _ *url.Userinfo) (litestream.ReplicaClient, error) {
	return NewReplicaClient(urlPath), nil
}
