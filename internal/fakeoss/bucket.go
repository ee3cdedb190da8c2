package fakeoss

import (
	"encoding/base64"
	"encoding/xml"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxKeys is the most keys of one page and of one batch delete.
const maxKeys = 1000

// sorted returns the keys with a prefix that come behind another key. The lock
// is held.
func (b *bucket) sorted(prefix, after string) []string {
	keys := make([]string, 0, len(b.objects))
	for key := range b.objects {
		if strings.HasPrefix(key, prefix) && key > after {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

type listedObject struct {
	Key          string
	LastModified string
	ETag         string
	Type         string
	Size         int64
	StorageClass string
}

type listResult struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	Name                  string
	Prefix                string
	MaxKeys               int
	EncodingType          string `xml:",omitempty"`
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	KeyCount              int
	Contents              []listedObject
}

func (s *Server) list(c *call, b *bucket) *apiError {
	limit := 100 // the service's default
	if text := c.query.Get("max-keys"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxKeys {
			return refuse(http.StatusBadRequest, "InvalidArgument", "max-keys is out of bounds.")
		}
		limit = n
	}
	after := c.query.Get("start-after")
	if token := c.query.Get("continuation-token"); token != "" {
		last, err := base64.StdEncoding.DecodeString(token)
		if err != nil {
			return refuse(http.StatusBadRequest, "InvalidArgument", "The continuation token is not valid.")
		}
		after = string(last)
	}
	encode := func(name string) string { return name }
	out := listResult{Name: c.bucket, MaxKeys: limit, EncodingType: c.query.Get("encoding-type")}
	if out.EncodingType == "url" {
		encode = url.QueryEscape
	}
	out.Prefix = encode(c.query.Get("prefix"))

	s.mu.Lock()
	keys := b.sorted(c.query.Get("prefix"), after)
	if out.IsTruncated = len(keys) > limit; out.IsTruncated {
		keys = keys[:limit]
		out.NextContinuationToken = encode(base64.StdEncoding.EncodeToString([]byte(keys[limit-1])))
	}
	for _, key := range keys {
		obj := b.objects[key]
		out.Contents = append(out.Contents, listedObject{
			Key: encode(key), LastModified: obj.modified.UTC().Format("2006-01-02T15:04:05.000Z"),
			ETag: obj.etag, Type: "Normal", Size: obj.size, StorageClass: "Standard",
		})
	}
	s.mu.Unlock()
	out.KeyCount = len(keys)
	return c.writeXML(out)
}

type namedObject struct{ Key string }

func (s *Server) deleteBatch(c *call, b *bucket) *apiError {
	if c.r.Header.Get("Content-Md5") == "" {
		return refuse(http.StatusBadRequest, "MissingArgument", "Content-MD5 is required.")
	}
	body, refusal := c.readBody()
	if refusal != nil {
		return refusal
	}
	var in struct {
		XMLName xml.Name `xml:"Delete"`
		Quiet   bool
		Object  []namedObject
	}
	if err := xml.Unmarshal(body, &in); err != nil || len(in.Object) == 0 || len(in.Object) > maxKeys {
		return refuse(http.StatusBadRequest, "MalformedXML", "The XML you provided was not well-formed or did not validate.")
	}
	out := struct {
		XMLName      xml.Name `xml:"DeleteResult"`
		EncodingType string   `xml:",omitempty"`
		Deleted      []namedObject
	}{EncodingType: c.query.Get("encoding-type")}
	s.mu.Lock()
	for _, obj := range in.Object {
		delete(b.objects, obj.Key)
		b.note(obj.Key, nil)
		if out.EncodingType == "url" {
			obj.Key = url.QueryEscape(obj.Key)
		}
		out.Deleted = append(out.Deleted, obj)
	}
	s.mu.Unlock()
	if in.Quiet {
		return nil // an empty answer
	}
	return c.writeXML(out)
}
