package s3

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/benbjohnson/litestream"
)

var _ litestream.ReplicaLister = (*ReplicaClient)(nil)

// Replicas finds the folders below the client's path that hold LTX files, with
// one request per 1,000 objects.
func (c *ReplicaClient) Replicas(ctx context.Context, fn func(path string) error) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	root := ""
	if s.Path != "" {
		root = s.Path + "/"
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	in := &s3.ListObjectsV2Input{Bucket: aws.String(s.Bucket), Prefix: aws.String(root)}
	last := ""
	err = s.eachObject(ctx, in, func(obj *types.Object) {
		key, ok := strings.CutPrefix(aws.ToString(obj.Key), root)
		path, ok2 := replicaOf(key, obj)
		if !ok || !ok2 || path == last || ctx.Err() != nil {
			return
		}
		last = path
		if err := fn(path); err != nil {
			stop(err)
		}
	})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// replicaOf returns the folder of a database's replica from the key of one of
// its files.
func replicaOf(key string, obj *types.Object) (path string, ok bool) {
	i := strings.LastIndexByte(key, '/')
	if i < 0 {
		return "", false
	}
	i = strings.LastIndexByte(key[:i], '/')
	level, name, ok := splitLevel(key[i+1:])
	if !ok || fileInfo(level, name, obj) == nil {
		return "", false
	}
	return key[:max(i, 0)], true
}
