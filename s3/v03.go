package s3

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/benbjohnson/litestream"
)

// v03Root returns what the keys of a backup of Litestream v0.3 begin with. It
// cleaned the path, unlike v0.5 (docs/formats/v03.md).
func (c *ReplicaClient) v03Root() string {
	switch root := path.Clean(c.Path); root {
	case ".", "/":
		return ""
	default:
		return root + "/"
	}
}

// V03Objects lists the objects of a backup of Litestream v0.3 with one request
// per 1,000 of them. Their times are those of the upload.
func (c *ReplicaClient) V03Objects(ctx context.Context) (objects []litestream.ObjectInfo, err error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	root := c.v03Root()
	in := &s3.ListObjectsV2Input{Bucket: aws.String(s.Bucket), Prefix: aws.String(root + "generations/")}
	err = s.eachObject(ctx, in, func(obj *types.Object) {
		if name, ok := strings.CutPrefix(aws.ToString(obj.Key), root); ok {
			objects = append(objects, litestream.ObjectInfo{
				Name: name, Size: aws.ToInt64(obj.Size), ModifiedAt: aws.ToTime(obj.LastModified).UTC(),
			})
		}
	})
	return objects, err
}

// OpenV03Object reads a part of an object that V03Objects listed, with the
// promises of OpenLTXFile.
func (c *ReplicaClient) OpenV03Object(ctx context.Context, name string, offset, size int64) (io.ReadCloser, error) {
	key := c.v03Root() + name
	if !fs.ValidPath(name) || offset < 0 || size < 0 {
		return nil, c.fail("get", key, fmt.Errorf("invalid object or range: %q, offset %d, size %d", name, offset, size))
	}
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	return s.open(ctx, key, offset, size)
}
