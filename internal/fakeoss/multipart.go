package fakeoss

import (
	"encoding/xml"
	"net/http"
	"strconv"
	"strings"
)

// Limits of parts.
const (
	minPartSize = 100 << 10 // bytes, of all but the last
	maxParts    = 10000
)

// upload is a multipart upload that is not complete.
type upload struct {
	key    string
	header http.Header
	parts  map[int]*object
}

func (s *Server) createUpload(c *call, b *bucket) *apiError {
	id := "U" + c.id
	s.mu.Lock()
	b.uploads[id] = &upload{key: c.key, header: userHeader(c.r.Header), parts: make(map[int]*object)}
	s.mu.Unlock()
	return c.writeXML(struct {
		XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
		Bucket   string
		Key      string
		UploadID string `xml:"UploadId"`
	}{Bucket: c.bucket, Key: c.key, UploadID: id})
}

// find returns the upload that a request names. The lock is held.
func (b *bucket) find(c *call) (*upload, *apiError) {
	if u := b.uploads[c.query.Get("uploadId")]; u != nil && u.key == c.key {
		return u, nil
	}
	return nil, refuse(http.StatusNotFound, "NoSuchUpload", "The specified upload does not exist.")
}

func (s *Server) putPart(c *call, b *bucket) *apiError {
	number, err := strconv.Atoi(c.query.Get("partNumber"))
	if err != nil || number < 1 || number > maxParts {
		return refuse(http.StatusBadRequest, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive.")
	}
	data, refusal := c.readBody()
	if refusal != nil {
		return refusal
	}
	part := newObject([][]byte{data}, nil, s.Now())
	s.mu.Lock()
	u, refusal := b.find(c)
	if refusal == nil {
		u.parts[number] = part
	}
	s.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	c.checksums(part)
	c.w.WriteHeader(http.StatusOK)
	return nil
}

type namedPart struct {
	PartNumber int
	ETag       string
}

// collect returns the content of the parts that a client names in order. The
// lock is held.
func (u *upload) collect(parts []namedPart) ([][]byte, *apiError) {
	var data [][]byte
	last := 0
	for i, p := range parts {
		stored := u.parts[p.PartNumber]
		switch {
		case stored == nil || strings.Trim(p.ETag, `"`) != strings.Trim(stored.etag, `"`):
			return nil, refuse(http.StatusBadRequest, "InvalidPart", "One or more of the specified parts could not be found.")
		case p.PartNumber <= last:
			return nil, refuse(http.StatusBadRequest, "InvalidPartOrder", "The list of parts was not in ascending order.")
		case stored.size < minPartSize && i < len(parts)-1:
			return nil, refuse(http.StatusBadRequest, "EntityTooSmall", "Your proposed upload smaller than the minimum allowed size.")
		}
		last = p.PartNumber
		data = append(data, stored.chunks...)
	}
	return data, nil
}

func (s *Server) completeUpload(c *call, b *bucket) *apiError {
	body, refusal := c.readBody()
	if refusal != nil {
		return refusal
	}
	var in struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Part    []namedPart
	}
	if err := xml.Unmarshal(body, &in); err != nil || len(in.Part) == 0 {
		return refuse(http.StatusBadRequest, "MalformedXML", "The XML you provided was not well-formed or did not validate.")
	}
	s.mu.Lock()
	u, refusal := b.find(c)
	var data [][]byte
	if refusal == nil {
		data, refusal = u.collect(in.Part)
	}
	s.mu.Unlock()
	if refusal != nil {
		return refusal
	}

	obj := newObject(data, u.header, s.Now()) // takes a while, so without the lock
	obj.etag = `"` + strings.Trim(obj.etag, `"`) + "-" + strconv.Itoa(len(in.Part)) + `"`
	s.mu.Lock()
	if _, refusal = b.find(c); refusal == nil {
		refusal = s.store(c, b, obj)
	}
	if refusal == nil {
		delete(b.uploads, c.query.Get("uploadId"))
	}
	s.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	c.checksums(obj)
	return c.writeXML(struct {
		XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
		Bucket  string
		Key     string
		ETag    string
	}{Bucket: c.bucket, Key: c.key, ETag: obj.etag})
}

func (s *Server) abortUpload(c *call, b *bucket) *apiError {
	s.mu.Lock()
	_, refusal := b.find(c)
	delete(b.uploads, c.query.Get("uploadId"))
	s.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
