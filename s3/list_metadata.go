package s3

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/superfly/ltx"
)

// maxParallelHeads bounds the metadata requests of one listing.
const maxParallelHeads = 50

// readTimestamps replaces the upload times of infos by the timestamps of their
// LTX headers, with up to 50 requests at a time. It returns infos without the
// files that were deleted meanwhile. It waits for all it started.
func (s *session) readTimestamps(ctx context.Context, infos []*ltx.FileInfo) ([]*ltx.FileInfo, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	next := make(chan int)
	gone := make([]bool, len(infos))
	var wg sync.WaitGroup
	for range min(maxParallelHeads, len(infos)) {
		wg.Go(func() {
			for i := range next {
				t, err := s.timestamp(ctx, infos[i])
				switch {
				case errors.Is(err, fs.ErrNotExist):
					gone[i] = true
				case err != nil:
					cancel(err)
				default:
					infos[i].CreatedAt = t
				}
			}
		})
	}
	for i := range infos {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, s.wrap("get", s.prefix(0), err)
	}

	kept := infos[:0]
	for i, info := range infos {
		if !gone[i] {
			kept = append(kept, info)
		}
	}
	return kept, nil
}

// timestamp returns the time of a file's LTX header: from the metadata, or from
// the header itself where a copy of the bucket has lost the metadata. The time
// of upload would be a guess, and a restore to a point in time cannot guess.
func (s *session) timestamp(ctx context.Context, info *ltx.FileInfo) (time.Time, error) {
	key := s.key(info.Level, info.MinTXID, info.MaxTXID)
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
	return s.headerTimestamp(ctx, key)
}

func (s *session) headerTimestamp(ctx context.Context, key string) (t time.Time, err error) {
	r, err := s.open(ctx, key, 0, ltx.HeaderSize)
	if err != nil {
		return time.Time{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	hdr, _, err := ltx.PeekHeader(r)
	if err != nil {
		return time.Time{}, s.wrap("get", key, err)
	}
	return time.UnixMilli(hdr.Timestamp).UTC(), nil
}
