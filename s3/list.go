package s3

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/superfly/ltx"
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

// list reads all pages of a level's listing. A listing is whole or an error:
// a part of it would look like missing transactions.
func (s *session) list(ctx context.Context, level int, seek ltx.TXID) (infos []*ltx.FileInfo, err error) {
	prefix := s.prefix(level)
	in := &s3.ListObjectsV2Input{Bucket: aws.String(s.Bucket), Prefix: aws.String(prefix)}
	if seek > 0 {
		// Every name that begins with this TXID is longer, hence behind it. A
		// server that ignores the parameter costs time only.
		in.StartAfter = aws.String(prefix + seek.String())
	}
	for {
		began := time.Now()
		out, err := s.api.ListObjectsV2(ctx, in)
		if err == nil && aws.ToBool(out.IsTruncated) {
			err = checkToken(in.ContinuationToken, out.NextContinuationToken)
		}
		s.observe("LIST", 0, began, err)
		if err != nil {
			return nil, s.fail("list", prefix, err)
		}
		for i := range out.Contents {
			obj := &out.Contents[i]
			name, ok := strings.CutPrefix(aws.ToString(obj.Key), prefix)
			if !ok {
				continue
			}
			minTXID, maxTXID, err := ltx.ParseFilename(name)
			if err != nil || minTXID < seek {
				continue
			}
			infos = append(infos, &ltx.FileInfo{
				Level:     level,
				MinTXID:   minTXID,
				MaxTXID:   maxTXID,
				Size:      aws.ToInt64(obj.Size),
				CreatedAt: aws.ToTime(obj.LastModified).UTC(),
			})
		}
		if !aws.ToBool(out.IsTruncated) {
			return infos, nil
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
