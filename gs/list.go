package gs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

// pageSize is the number of objects in one answer, the most there can be.
const pageSize = 1000

// object is what the service tells of an object.
type object struct {
	Name        string            `json:"name"`
	Size        int64             `json:"size,string"`
	CRC32C      string            `json:"crc32c"`
	Generation  string            `json:"generation"`
	TimeCreated time.Time         `json:"timeCreated"`
	Metadata    map[string]string `json:"metadata"`
}

// LTXFiles lists one level with one request per 1,000 files. CreatedAt is the
// time of the LTX header, which the listing holds. Where a copy of the bucket
// has lost it, it is the time of upload, or with useMetadata read from the
// file.
func (c *ReplicaClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	query := url.Values{"prefix": {s.root().Level(level)}}
	if seek > 0 {
		query.Set("startOffset", s.root().Level(level)+seek.String())
	}
	l := blob.Listing{Root: s.root(), Seek: seek}
	err = s.eachObject(ctx, query, func(obj *object) { l.Add(obj.entry()) })
	if err == nil && useMetadata {
		err = l.ReadHeaders(ctx, s.open)
	}
	if err != nil {
		return nil, s.wrap("list", s.root().Level(level), err)
	}
	return ltx.NewFileInfoSliceIterator(l.Sorted()), nil
}

// LTXTree lists all levels with one request per 1,000 files.
func (c *ReplicaClient) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	l := blob.Listing{Root: s.root()}
	err = s.eachObject(ctx, url.Values{"prefix": {s.root().Tree()}}, func(obj *object) { l.Add(obj.entry()) })
	if err != nil {
		return nil, err
	}
	return l.Sorted(), nil
}

func (obj *object) entry() blob.Entry {
	return blob.Entry{Key: obj.Name, Size: obj.Size, Stored: obj.TimeCreated, Timestamp: obj.Metadata[MetadataTimestampKey]}
}

// page is one answer to a listing.
type page struct {
	NextPageToken string   `json:"nextPageToken"`
	Items         []object `json:"items"`
}

// eachObject reads all pages of a listing. A listing is whole or an error: a
// part of it would look like missing transactions. The object that fn is given
// is valid during the call.
func (s *session) eachObject(ctx context.Context, query url.Values, fn func(obj *object)) error {
	query.Set("maxResults", fmt.Sprint(pageSize))
	query.Set("fields", "nextPageToken,items(name,size,timeCreated,metadata)")
	for {
		p, err := s.listPage(ctx, query)
		if err != nil {
			return err
		}
		for i := range p.Items {
			fn(&p.Items[i])
		}
		if p.NextPageToken == "" {
			return nil
		}
		if p.NextPageToken == query.Get("pageToken") {
			return s.fail("list", query.Get("prefix"), errors.New("listing does not advance: same page token again"))
		}
		query.Set("pageToken", p.NextPageToken)
	}
}

func (s *session) listPage(ctx context.Context, query url.Values) (*page, error) {
	began := time.Now()
	var p page
	err := s.conn.call(ctx, &request{method: http.MethodGet, url: s.objectsURL() + "?" + query.Encode()}, &p)
	s.observe("LIST", 0, began, err)
	if err != nil {
		return nil, s.fail("list", query.Get("prefix"), err)
	}
	return &p, nil
}

// Empty asks for the first key below the path.
func (c *ReplicaClient) Empty(ctx context.Context) (bool, error) {
	s, err := c.session()
	if err != nil {
		return false, err
	}
	query := url.Values{"prefix": {s.root().Objects()}, "maxResults": {"1"}, "fields": {"nextPageToken,items(name)"}}
	p, err := s.listPage(ctx, query)
	if err != nil {
		return false, err
	}
	// A page may be without objects although there are more behind it.
	return len(p.Items) == 0 && strings.TrimSpace(p.NextPageToken) == "", nil
}
