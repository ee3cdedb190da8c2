package nats

import "github.com/benbjohnson/litestream"

func init() {
	litestream.RegisterReplicaClientFactory(ReplicaClientType, newReplicaClientFromURL)
}
