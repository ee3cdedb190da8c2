package oss

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
)

var (
	_ litestream.VersionKeeper = (*ReplicaClient)(nil)
	_ litestream.RemnantClient = (*ReplicaClient)(nil)
)

// openUpload is an upload in parts that neither ended nor was aborted.
type openUpload struct {
	Key      string
	UploadID string `xml:"UploadId"`
}

// uploadsPage is one answer to a listing of uploads.
type uploadsPage struct {
	XMLName            xml.Name `xml:"ListMultipartUploadsResult"`
	EncodingType       string
	IsTruncated        bool
	NextKeyMarker      string
	NextUploadIDMarker string       `xml:"NextUploadIdMarker"`
	Uploads            []openUpload `xml:"Upload"`
}

// Remnants lists uploads of LTX files in parts that neither ended nor were
// aborted, with one request per 1,000. Litestream v0.3 had no such storage.
func (c *ReplicaClient) Remnants(ctx context.Context) (remnants []litestream.Remnant, err error) {
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	query := url.Values{"uploads": {""}, "prefix": {s.prefix().Tree()}, "max-uploads": {fmt.Sprint(pageSize)}, "encoding-type": {"url"}}
	for {
		var p uploadsPage
		if err := s.page(ctx, query, &p); err != nil {
			return nil, err
		}
		for _, u := range p.Uploads {
			key, err := decodeName(p.EncodingType, u.Key)
			if err != nil {
				return nil, s.fail("list", query.Get("prefix"), err)
			}
			if name, ok := strings.CutPrefix(key, s.prefix().Objects()); ok && s.prefix().IsFile(key) {
				remnants = append(remnants, litestream.Remnant{Kind: litestream.RemnantUpload, Name: name, Upload: u.UploadID})
			}
		}
		if !p.IsTruncated {
			return remnants, nil
		}
		next, err := decodeName(p.EncodingType, p.NextKeyMarker)
		if err != nil || next == query.Get("key-marker") && p.NextUploadIDMarker == query.Get("upload-id-marker") {
			return nil, s.fail("list", query.Get("prefix"), errors.Join(err, errors.New("listing of uploads does not advance")))
		}
		query.Set("key-marker", next)
		query.Set("upload-id-marker", p.NextUploadIDMarker)
	}
}

// DeleteRemnants aborts uploads, one request for each.
func (c *ReplicaClient) DeleteRemnants(ctx context.Context, remnants []litestream.Remnant) error {
	s, err := c.session()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range remnants {
		key := s.prefix().Objects() + r.Name
		began := time.Now()
		_, err := s.conn.call(ctx, &request{method: http.MethodDelete, bucket: s.Bucket, key: key, query: url.Values{"uploadId": {r.Upload}}}, nil)
		if errorCode(err) == codeUploadGone {
			err = nil
		}
		s.observe("DELETE", 0, began, err)
		if err != nil {
			errs = append(errs, s.fail("delete", key, err))
		}
	}
	return errors.Join(errs...)
}

// decodeName undoes the encoding of a name.
func decodeName(encoding, name string) (string, error) {
	if encoding != "url" {
		return name, nil
	}
	name, err := url.QueryUnescape(name)
	if err != nil {
		return "", fmt.Errorf("decode name: %w", err)
	}
	return name, nil
}

// page asks for one page of a listing.
func (s *session) page(ctx context.Context, query url.Values, out any) error {
	began := time.Now()
	_, err := s.conn.call(ctx, &request{method: http.MethodGet, bucket: s.Bucket, query: query}, out)
	s.observe("LIST", 0, began, err)
	if err != nil {
		return s.fail("list", query.Get("prefix"), err)
	}
	return nil
}

// versionsPage is one answer to a listing of versions.
type versionsPage struct {
	XMLName             xml.Name `xml:"ListVersionsResult"`
	EncodingType        string
	IsTruncated         bool
	NextKeyMarker       string
	NextVersionIDMarker string   `xml:"NextVersionIdMarker"`
	Versions            []object `xml:"Version"`
	Markers             []object `xml:"DeleteMarker"`
}

// KeptVersions lists the versions of the database's files that the bucket keeps,
// with one request per 1,000, and asks for the retention policy of the bucket,
// which holds for each object from its last change on.
func (c *ReplicaClient) KeptVersions(ctx context.Context) (*litestream.KeptVersions, error) {
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	k := &litestream.KeptVersions{}
	var newest time.Time
	err = s.eachVersion(ctx, func(v *object, marker bool) {
		if marker {
			k.Markers++
			return
		}
		k.Versions++
		k.Bytes += v.Size
		if v.LastModified.After(newest) {
			newest = v.LastModified
		}
	})
	if ctx.Err() != nil {
		return nil, s.fail("list", s.Path, ctx.Err())
	} else if err != nil {
		k.Untold = append(k.Untold, fmt.Sprintf("versions: %v", err))
		return k, nil
	}
	if k.Versions == 0 {
		return k, nil
	}
	days, locked, err := s.worm(ctx)
	if ctx.Err() != nil {
		return nil, s.fail("get", s.Path, ctx.Err())
	} else if err != nil {
		k.Untold = append(k.Untold, fmt.Sprintf("retention policy of the bucket: %v", err))
		return k, nil
	}
	k.Asked = k.Versions
	if days > 0 {
		k.DefaultLock = fmt.Sprintf("for %d days", days)
		if !locked {
			k.DefaultLock += ", which can still be taken back"
		}
		if until := newest.AddDate(0, 0, days); until.After(time.Now()) {
			// Older versions are free earlier; how many is not worth a second listing.
			k.Locked, k.LockedUntil = k.Versions, until.UTC()
		}
	}
	return k, nil
}

// eachVersion reads all pages of a listing of the database's versions.
func (s *session) eachVersion(ctx context.Context, fn func(v *object, marker bool)) error {
	query := url.Values{"versions": {""}, "prefix": {s.prefix().Tree()}, "max-keys": {fmt.Sprint(pageSize)}, "encoding-type": {"url"}}
	for {
		var p versionsPage
		if err := s.page(ctx, query, &p); err != nil {
			return err
		}
		for marker, objects := range map[bool][]object{false: p.Versions, true: p.Markers} {
			for i := range objects {
				key, err := decodeName(p.EncodingType, objects[i].Key)
				if err != nil {
					return s.fail("list", query.Get("prefix"), err)
				}
				if s.prefix().IsFile(key) {
					fn(&objects[i], marker)
				}
			}
		}
		if !p.IsTruncated {
			return nil
		}
		next, err := decodeName(p.EncodingType, p.NextKeyMarker)
		if err != nil || next == query.Get("key-marker") && p.NextVersionIDMarker == query.Get("version-id-marker") {
			return s.fail("list", query.Get("prefix"), errors.Join(err, errors.New("listing of versions does not advance")))
		}
		query.Set("key-marker", next)
		query.Set("version-id-marker", p.NextVersionIDMarker)
	}
}

// worm returns for how many days the bucket's policy locks an object, 0 if it has
// none, and whether the policy itself is locked.
func (s *session) worm(ctx context.Context) (days int, locked bool, err error) {
	var out struct {
		XMLName xml.Name `xml:"WormConfiguration"`
		State   string
		Days    int `xml:"RetentionPeriodInDays"`
	}
	began := time.Now()
	_, err = s.conn.call(ctx, &request{method: http.MethodGet, bucket: s.Bucket, query: url.Values{"worm": {""}}}, &out)
	s.observe("GET", 0, began, err)
	switch errorCode(err) {
	case "NoSuchWORMConfiguration", "MethodNotAllowed", "NotImplemented":
		return 0, false, nil
	}
	if err != nil {
		return 0, false, s.fail("get", s.Path, err)
	}
	if strings.EqualFold(out.State, "Expired") {
		return 0, false, nil
	}
	return out.Days, strings.EqualFold(out.State, "Locked"), nil
}
