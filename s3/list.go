package s3

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// LTXFiles lists one level. Without useMetadata, CreatedAt is the time of
// upload; with it, every object costs a request of its own.
func (c *ReplicaClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	infos, err := s.list(ctx, level, seek)
	if err != nil {
		return nil, err
	}
	if useMetadata {
		if infos, err = s.readTimestamps(ctx, infos); err != nil {
			return nil, err
		}
	}
	return ltx.NewFileInfoSliceIterator(infos), nil
}

// LTXTree lists all levels with one request per 1,000 files. CreatedAt is the
// time of upload.
func (c *ReplicaClient) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	// The names of all level folders begin alike. Databases that are stored
	// below this one's path are so left out of the listing.
	root := s.Path + "/"
	in := &s3.ListObjectsV2Input{Bucket: aws.String(s.Bucket), Prefix: aws.String(root + levelPrefix)}
	var infos []*ltx.FileInfo
	err = s.eachObject(ctx, in, func(obj *types.Object) {
		level, name, ok := splitLevel(strings.TrimPrefix(aws.ToString(obj.Key), root))
		if !ok {
			return
		}
		if info := fileInfo(level, name, obj); info != nil {
			infos = append(infos, info)
		}
	})
	if err != nil {
		return nil, err
	}
	// S3 lists in this order, which not all of its likes promise.
	slices.SortFunc(infos, func(a, b *ltx.FileInfo) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.MinTXID, b.MinTXID), cmp.Compare(a.MaxTXID, b.MaxTXID))
	})
	return infos, nil
}

// levelPrefix is how the folder of every level begins; one digit follows.
const levelPrefix = "000"

// splitLevel splits a key relative to the path into level and file name.
func splitLevel(rel string) (level int, name string, ok bool) {
	rest, ok := strings.CutPrefix(rel, levelPrefix)
	if !ok || len(rest) < 2 || rest[1] != '/' || rest[0] < '0' || rest[0] > '0'+litestream.SnapshotLevel {
		return 0, "", false
	}
	return int(rest[0] - '0'), rest[2:], true
}

// list reads all pages of a level's listing.
func (s *session) list(ctx context.Context, level int, seek ltx.TXID) (infos []*ltx.FileInfo, err error) {
	prefix := s.prefix(level)
	in := &s3.ListObjectsV2Input{Bucket: aws.String(s.Bucket), Prefix: aws.String(prefix)}
	if seek > 0 {
		// Every name that begins with this TXID is longer, hence behind it. A
		// server that ignores the parameter costs time only.
		in.StartAfter = aws.String(prefix + seek.String())
	}
	err = s.eachObject(ctx, in, func(obj *types.Object) {
		name, ok := strings.CutPrefix(aws.ToString(obj.Key), prefix)
		if !ok {
			return
		}
		if info := fileInfo(level, name, obj); info != nil && info.MinTXID >= seek {
			infos = append(infos, info)
		}
	})
	return infos, err
}

// fileInfo returns what a listing tells of a file, nil if it is no LTX file.
func fileInfo(level int, name string, obj *types.Object) *ltx.FileInfo {
	minTXID, maxTXID, err := ltx.ParseFilename(name)
	if err != nil {
		return nil
	}
	return &ltx.FileInfo{
		Level:     level,
		MinTXID:   minTXID,
		MaxTXID:   maxTXID,
		Size:      aws.ToInt64(obj.Size),
		CreatedAt: aws.ToTime(obj.LastModified).UTC(),
	}
}

// eachObject reads all pages of a listing. A listing is whole or an error: a
// part of it would look like missing transactions. The object that fn is given
// is valid during the call.
func (s *session) eachObject(ctx context.Context, in *s3.ListObjectsV2Input, fn func(obj *types.Object)) error {
	for {
		began := time.Now()
		out, err := s.api.ListObjectsV2(ctx, in)
		if err == nil && aws.ToBool(out.IsTruncated) {
			err = checkToken(in.ContinuationToken, out.NextContinuationToken)
		}
		s.observe("LIST", 0, began, err)
		if err != nil {
			return s.fail("list", aws.ToString(in.Prefix), err)
		}
		for i := range out.Contents {
			fn(&out.Contents[i])
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		in.ContinuationToken = out.NextContinuationToken
	}
}

// checkToken makes sure that a listing goes on where it stopped.
func checkToken(prev, next *string) error {
	switch {
	case aws.ToString(next) == "":
		return errors.New("listing is cut off: no continuation token")
	case prev != nil && *prev == *next:
		return errors.New("listing does not advance: same continuation token again")
	}
	return nil
}
