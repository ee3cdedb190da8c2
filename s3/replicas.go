package s3

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

var (
	_ litestream.ReplicaLister = (*ReplicaClient)(nil)
	_ litestream.RangeLister   = (*ReplicaClient)(nil)
)

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

// LTXFilesBetween lists the files of all databases below the client's path, with
// one request per 1,000 objects. CreatedAt is the time of upload.
func (c *ReplicaClient) LTXFilesBetween(ctx context.Context, after, until string, fn func(replica string, info *ltx.FileInfo) bool) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	root := s.prefix().Objects()
	in := &s3.ListObjectsV2Input{Bucket: aws.String(s.Bucket), Prefix: aws.String(root)}
	if after != "" {
		in.StartAfter = aws.String(root + after)
	}
	ended := false
	err = s.eachObject(ctx, in, func(obj *types.Object) {
		key := aws.ToString(obj.Key)
		ended = ended || until != "" && key > root+until
		if ended || after != "" && key <= root+after { // of a server that ignores the parameter
			if ended {
				stop() // before the next page
			}
			return
		}
		if replica, info, ok := s.prefix().ReplicaFile(entry(obj)); ok && !fn(replica, info) {
			ended = true
			stop()
		}
	})
	if ended {
		return nil
	}
	return err
}
