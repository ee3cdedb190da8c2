package webdav

import "github.com/benbjohnson/litestream"

func init() {
	for _, scheme := range []string{"webdav", "webdavs"} {
		litestream.RegisterReplicaClientFactory(scheme, newReplicaClientFromURL)
	}
}
