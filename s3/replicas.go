package s3

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

var _ litestream.ReplicaLister = (*ReplicaClient)(nil)

// Replicas finds the folders below the client's path that hold LTX files, with
// one request per 1,000 objects.
func (c *ReplicaClient) Replicas(ctx context.Context, fn func(path string) error) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	found := blob.Replicas{Of: s.prefix().Replica, Func: fn}
	in := &s3.ListObjectsV2Input{Bucket: aws.String(s.Bucket), Prefix: aws.String(s.prefix().Objects())}
	err = s.eachObject(ctx, in, func(obj *types.Object) {
		if !found.Add(aws.ToString(obj.Key)) {
			stop() // before the next page
		}
	})
	if found.Err() != nil {
		return found.Err()
	}
	return err
}
