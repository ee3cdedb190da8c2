package s3

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

// maxParallelHeads bounds the metadata requests of one listing.
const maxParallelHeads = 50

// LTXFiles lists one level. Without useMetadata, CreatedAt is the time of
// upload; with it, every object costs a request of its own.
func (c *ReplicaClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	prefix := s.prefix().Level(level)
	in := &s3.ListObjectsV2Input{Bucket: aws.String(s.Bucket), Prefix: aws.String(prefix)}
	if seek > 0 {
		// Every name that begins with this TXID is longer, hence behind it. A
		// server that ignores the parameter costs time only.
		in.StartAfter = aws.String(prefix + seek.String())
	}
	l := blob.Listing{Root: s.prefix(), Seek: seek}
	err = s.eachObject(ctx, in, func(obj *types.Object) { l.Add(entry(obj)) })
	if err == nil && useMetadata {
		err = l.ReadTimes(ctx, maxParallelHeads, s.timestamp)
	}
	if err != nil {
		return nil, s.wrap("list", prefix, err)
	}
	return ltx.NewFileInfoSliceIterator(l.Sorted()), nil
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
	in := &s3.ListObjectsV2Input{Bucket: aws.String(s.Bucket), Prefix: aws.String(s.prefix().Tree())}
	l := blob.Listing{Root: s.prefix()}
	if err := s.eachObject(ctx, in, func(obj *types.Object) { l.Add(entry(obj)) }); err != nil {
		return nil, err
	}
	return l.Sorted(), nil
}

func entry(obj *types.Object) blob.Entry {
	return blob.Entry{Key: aws.ToString(obj.Key), Size: aws.ToInt64(obj.Size), Stored: aws.ToTime(obj.LastModified)}
}

// timestamp returns the time of a file's LTX header: from the metadata, or from
// the header itself where a copy of the bucket has lost the metadata. The time
// of upload would be a guess, and a restore to a point in time cannot guess.
func (s *session) timestamp(ctx context.Context, key string) (time.Time, error) {
	in := &s3.HeadObjectInput{Bucket: aws.String(s.Bucket), Key: aws.String(key)}
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = s.customerKey()
	began := time.Now()
	out, err := s.api.HeadObject(ctx, in)
	s.observe("GET", 0, began, err)
	if err != nil {
		return time.Time{}, s.fail("get", key, err)
	}
	if t, err := time.Parse(time.RFC3339Nano, out.Metadata[MetadataTimestampKey]); err == nil {
		return t.UTC(), nil
	}
	t, err := blob.HeaderTime(ctx, s.open, key)
	if err != nil {
		return time.Time{}, s.wrap("get", key, err)
	}
	return t, nil
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
