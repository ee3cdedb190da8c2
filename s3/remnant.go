package s3

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/benbjohnson/litestream"
)

var _ litestream.RemnantClient = (*ReplicaClient)(nil)

// Remnants lists uploads in parts that neither ended nor were aborted, and the
// objects of a backup of Litestream v0.3, with one request per 1,000 of each. A
// server that does not list uploads has none.
func (c *ReplicaClient) Remnants(ctx context.Context) ([]litestream.Remnant, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	remnants, err := s.uploads(ctx)
	if err != nil {
		return nil, err
	}
	objects, err := c.V03Objects(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		remnants = append(remnants, litestream.Remnant{Kind: litestream.RemnantV03, Name: o.Name, Size: o.Size})
	}
	return remnants, nil
}

// uploads lists the uploads of LTX files that are open.
func (s *session) uploads(ctx context.Context) (remnants []litestream.Remnant, err error) {
	root := s.Path + "/"
	in := &s3.ListMultipartUploadsInput{Bucket: aws.String(s.Bucket), Prefix: aws.String(s.prefix().Tree())}
	for {
		began := time.Now()
		out, err := s.api.ListMultipartUploads(ctx, in)
		s.observe("LIST", 0, began, err)
		if code := errorCode(err); code == "NotImplemented" || code == "MethodNotAllowed" || code == "HTTP501" {
			return nil, nil
		} else if err != nil {
			return nil, s.fail("list", aws.ToString(in.Prefix), err)
		}
		for _, u := range out.Uploads {
			name := strings.TrimPrefix(aws.ToString(u.Key), root)
			if s.prefix().IsFile(aws.ToString(u.Key)) {
				remnants = append(remnants, litestream.Remnant{Kind: litestream.RemnantUpload, Name: name, Upload: aws.ToString(u.UploadId)})
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return remnants, nil
		}
		if aws.ToString(out.NextKeyMarker) == "" || aws.ToString(out.NextKeyMarker) == aws.ToString(in.KeyMarker) && aws.ToString(out.NextUploadIdMarker) == aws.ToString(in.UploadIdMarker) {
			return nil, s.fail("list", aws.ToString(in.Prefix), errors.New("listing of uploads does not advance"))
		}
		in.KeyMarker, in.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}

// DeleteRemnants aborts uploads, one request for each, and deletes objects.
func (c *ReplicaClient) DeleteRemnants(ctx context.Context, remnants []litestream.Remnant) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	var errs []error
	var keys []string
	for _, r := range remnants {
		if r.Kind == litestream.RemnantV03 {
			keys = append(keys, c.v03Root()+r.Name)
			continue
		}
		key := c.Path + "/" + r.Name
		began := time.Now()
		_, err := s.api.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
			Bucket: aws.String(s.Bucket), Key: aws.String(key), UploadId: aws.String(r.Upload),
		})
		if errorCode(err) == "NoSuchUpload" {
			err = nil
		}
		s.observe("DELETE", 0, began, err)
		if err != nil {
			errs = append(errs, s.fail("delete", key, err))
		}
	}
	return errors.Join(append(errs, s.deleteKeys(ctx, keys))...)
}
