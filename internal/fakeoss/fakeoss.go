// Package fakeoss is a server of the protocol of Alibaba Cloud OSS for tests and
// benchmarks, as far as replicas use it. It keeps objects in memory and, unlike
// most servers of its kind, checks what a client sends: the signature of
// version 4 with its clock, the region and the checksums. There is no server of
// that protocol to install.
package fakeoss

import (
	"bytes"
	"crypto/md5" //nolint:gosec // the protocol's checksum
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"hash/crc64"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the settings of a Server. They must not change while it serves.
type Options struct {
	AccessKeyID     string
	AccessKeySecret string
	SecurityToken   string // that requests must carry; empty: none
	Region          string

	// Now is the server's clock; nil: the machine's.
	Now func() time.Time
}

// Server is an http.Handler. It is safe for concurrent use.
type Server struct {
	Options

	requests atomic.Int64

	mu      sync.Mutex // guards buckets and all below them
	buckets map[string]*bucket
}

// New returns a server without buckets.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Server{Options: o, buckets: make(map[string]*bucket)}
}

// Requests returns how many requests have come.
func (s *Server) Requests() int64 { return s.requests.Load() }

// CreateBucket makes an empty bucket. In one that keeps versions, requests not to
// overwrite have no effect, as with the service; its versions can be listed, and
// only the newest be read.
func (s *Server) CreateBucket(name string, versioned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buckets[name] = &bucket{versioned: versioned, objects: make(map[string]*object), uploads: make(map[string]*upload)}
}

// SetRetention gives a bucket a policy that locks each object for some days; a
// policy that is not locked can be taken back. Nothing is refused by it.
func (s *Server) SetRetention(bucketName string, days int, locked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buckets[bucketName].retention = &retention{days, locked}
}

// Put stores an object past the protocol, Get returns one, and Keys the names
// of all of a bucket.
func (s *Server) Put(bucketName, key string, data []byte) {
	obj := newObject([][]byte{data}, nil, s.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buckets[bucketName].objects[key] = obj
}

// Get returns the content of an object.
func (s *Server) Get(bucketName, key string) (data []byte, ok bool) {
	s.mu.Lock()
	obj := s.buckets[bucketName].objects[key]
	s.mu.Unlock()
	if obj == nil {
		return nil, false
	}
	return bytes.Join(obj.chunks, nil), true
}

// Keys returns the names of all objects of a bucket in order.
func (s *Server) Keys(bucketName string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buckets[bucketName].sorted("", "")
}

// StartUpload begins a multipart upload past the protocol, which nobody ends.
func (s *Server) StartUpload(bucketName, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[bucketName]
	b.uploads[fmt.Sprintf("P%024X", s.requests.Add(1))] = &upload{key: key, parts: make(map[int]*object)}
}

// Uploads returns the number of multipart uploads of a bucket that are neither
// complete nor aborted.
func (s *Server) Uploads(bucketName string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.buckets[bucketName].uploads)
}

// bucket is what a bucket holds.
type bucket struct {
	versioned bool
	objects   map[string]*object
	uploads   map[string]*upload
	versions  []version // in the order in which they came
	retention *retention
}

// object is stored content, which never changes.
type object struct {
	chunks   chunks
	size     int64
	header   http.Header // user metadata and content type
	etag     string
	crc      uint64
	modified time.Time
}

var crcTable = crc64.MakeTable(crc64.ECMA)

func newObject(parts [][]byte, header http.Header, now time.Time) *object {
	obj := &object{chunks: parts, header: header, modified: now}
	sum := md5.New() //nolint:gosec // the protocol's checksum
	for _, p := range parts {
		_, _ = sum.Write(p) // a hash never fails
		obj.crc = crc64.Update(obj.crc, crcTable, p)
		obj.size += int64(len(p))
	}
	obj.etag = `"` + strings.ToUpper(hex.EncodeToString(sum.Sum(nil))) + `"`
	return obj
}

// chunks are the parts of an object, which are read as one.
type chunks [][]byte

// ReadAt reads at a place of the object.
func (c chunks) ReadAt(p []byte, off int64) (n int, err error) {
	for _, b := range c {
		if off >= int64(len(b)) {
			off -= int64(len(b))
			continue
		}
		n += copy(p[n:], b[off:])
		off = 0
		if n == len(p) {
			return n, nil
		}
	}
	return n, io.EOF
}

// call is one request on its way.
type call struct {
	w      http.ResponseWriter
	r      *http.Request
	id     string
	bucket string
	key    string
	query  url.Values
}

// apiError is what the server refuses with.
type apiError struct {
	status  int
	code    string
	message string
}

func refuse(status int, code, format string, args ...any) *apiError {
	return &apiError{status, code, fmt.Sprintf(format, args...)}
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{w: w, r: r, id: fmt.Sprintf("%024X", s.requests.Add(1)), query: r.URL.Query()}
	w.Header().Set("X-Oss-Request-Id", c.id)
	w.Header().Set("Date", s.Now().UTC().Format(http.TimeFormat))
	refusal := c.resolve()
	if refusal == nil {
		refusal = s.authenticate(c)
	}
	if refusal == nil {
		refusal = s.serve(c)
	}
	if refusal != nil {
		c.fail(refusal)
	}
}

// resolve finds out which bucket and key a request is about: an address has no
// names below it, so that there the bucket stands in the path.
func (c *call) resolve() *apiError {
	path, err := url.PathUnescape(strings.TrimPrefix(c.r.URL.EscapedPath(), "/"))
	if err != nil {
		return refuse(http.StatusBadRequest, "InvalidURI", "%v", err)
	}
	host, _, _ := strings.Cut(c.r.Host, ":")
	if _, err := netip.ParseAddr(host); err == nil {
		c.bucket, c.key, _ = strings.Cut(path, "/")
		return nil
	}
	c.bucket, _, _ = strings.Cut(host, ".")
	c.key = path
	return nil
}

// fail answers with an error; where an answer has no body, in a header.
func (c *call) fail(e *apiError) {
	body, err := xml.Marshal(struct {
		XMLName   xml.Name `xml:"Error"`
		Code      string
		Message   string
		RequestID string `xml:"RequestId"`
		HostID    string `xml:"HostId"`
	}{Code: e.code, Message: e.message, RequestID: c.id, HostID: c.r.Host})
	if err != nil {
		body = nil
	}
	// What was not read of the request would be the next one's beginning.
	_, _ = io.Copy(io.Discard, c.r.Body)
	c.w.Header().Set("Content-Type", "application/xml")
	if c.r.Method == http.MethodHead {
		c.w.Header().Set("X-Oss-Err", base64.StdEncoding.EncodeToString(body))
	}
	c.w.WriteHeader(e.status)
	_, _ = c.w.Write(body) // a client that went away wants no answer
}

func (s *Server) serve(c *call) *apiError {
	s.mu.Lock()
	b := s.buckets[c.bucket]
	s.mu.Unlock()
	if b == nil {
		return refuse(http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist.")
	}
	if strings.HasPrefix(c.key, "/") || strings.HasPrefix(c.key, `\`) || len(c.key) > 1023 {
		return refuse(http.StatusBadRequest, "InvalidObjectName", "The specified object is not valid.")
	}
	if c.key == "" {
		return s.serveBucket(c, b)
	}
	return s.serveObject(c, b)
}

// has reports whether a parameter is there, with or without a value.
func (c *call) has(name string) bool {
	_, ok := c.query[name]
	return ok
}

func (s *Server) serveBucket(c *call, b *bucket) *apiError {
	switch m := c.r.Method; {
	case m == http.MethodGet && c.query.Get("list-type") == "2":
		return s.list(c, b)
	case m == http.MethodGet && c.has("uploads"):
		return s.listUploads(c, b)
	case m == http.MethodGet && c.has("versions"):
		return s.listVersions(c, b)
	case m == http.MethodGet && c.has("worm"):
		return s.getRetention(c, b)
	case m == http.MethodPost && c.has("delete"):
		return s.deleteBatch(c, b)
	}
	return notAllowed()
}

func (s *Server) serveObject(c *call, b *bucket) *apiError {
	switch m := c.r.Method; {
	case m == http.MethodPost && c.has("uploads"):
		return s.createUpload(c, b)
	case m == http.MethodPut && c.has("uploadId"):
		return s.putPart(c, b)
	case m == http.MethodPost && c.has("uploadId"):
		return s.completeUpload(c, b)
	case m == http.MethodDelete && c.has("uploadId"):
		return s.abortUpload(c, b)
	case m == http.MethodPut:
		return s.put(c, b)
	case m == http.MethodGet, m == http.MethodHead:
		return s.get(c, b)
	}
	return notAllowed()
}

func notAllowed() *apiError {
	return refuse(http.StatusMethodNotAllowed, "MethodNotAllowed", "The server knows no such request.")
}

// readBody reads a request's body and compares its checksum.
func (c *call) readBody() ([]byte, *apiError) {
	data := make([]byte, max(c.r.ContentLength, 0))
	if _, err := io.ReadFull(c.r.Body, data); err != nil || c.r.ContentLength < 0 {
		return nil, refuse(http.StatusBadRequest, "IncompleteBody", "The body ends early or has no length.")
	}
	if want := c.r.Header.Get("Content-Md5"); want != "" {
		sum := md5.Sum(data) //nolint:gosec // the protocol's checksum
		if base64.StdEncoding.EncodeToString(sum[:]) != want {
			return nil, refuse(http.StatusBadRequest, "InvalidDigest", "The Content-MD5 you specified was invalid.")
		}
	}
	return data, nil
}

// userHeader returns the headers that are kept with an object.
func userHeader(h http.Header) http.Header {
	kept := make(http.Header)
	for name, values := range h {
		if strings.HasPrefix(name, "X-Oss-Meta-") || name == "Content-Type" {
			kept[name] = values
		}
	}
	return kept
}

// store makes an object, unless it is there and must not be replaced. The lock
// is held.
func (s *Server) store(c *call, b *bucket, obj *object) *apiError {
	if b.objects[c.key] != nil && !b.versioned && c.r.Header.Get("X-Oss-Forbid-Overwrite") == "true" {
		return refuse(http.StatusConflict, "FileAlreadyExists", "The object you specified already exists and can not be overwritten.")
	}
	b.objects[c.key] = obj
	b.note(c.key, obj)
	if b.versioned {
		c.w.Header().Set("X-Oss-Version-Id", "v"+c.id)
	}
	return nil
}

func (s *Server) put(c *call, b *bucket) *apiError {
	data, refusal := c.readBody()
	if refusal != nil {
		return refusal
	}
	obj := newObject([][]byte{data}, userHeader(c.r.Header), s.Now())
	s.mu.Lock()
	refusal = s.store(c, b, obj)
	s.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	c.checksums(obj)
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// checksums tells what was stored.
func (c *call) checksums(obj *object) {
	c.w.Header().Set("ETag", obj.etag)
	c.w.Header().Set("X-Oss-Hash-Crc64ecma", strconv.FormatUint(obj.crc, 10))
}

func (s *Server) get(c *call, b *bucket) *apiError {
	s.mu.Lock()
	obj := b.objects[c.key]
	s.mu.Unlock()
	if obj == nil {
		return refuse(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
	}
	h := c.w.Header()
	maps.Copy(h, obj.header)
	c.checksums(obj)
	h.Set("Last-Modified", obj.modified.UTC().Format(http.TimeFormat))
	off, n, status := c.byteRange(obj.size)
	if status == http.StatusRequestedRangeNotSatisfiable {
		return refuse(status, "InvalidRange", "The requested range cannot be satisfied.")
	}
	if status == http.StatusPartialContent {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, obj.size))
	}
	h.Set("Content-Length", strconv.FormatInt(n, 10))
	c.w.WriteHeader(status)
	if c.r.Method == http.MethodGet {
		_, _ = io.Copy(c.w, io.NewSectionReader(obj.chunks, off, n)) // a client may go away
	}
	return nil
}

// byteRange returns what part of an object is asked for. A range behind its end
// is answered with all of it, unless the client wants the behaviour of the
// standard.
func (c *call) byteRange(size int64) (off, n int64, status int) {
	text, ok := strings.CutPrefix(c.r.Header.Get("Range"), "bytes=")
	first, last, dash := strings.Cut(text, "-")
	off, err := strconv.ParseInt(first, 10, 64)
	if !ok || !dash || err != nil {
		return 0, size, http.StatusOK
	}
	standard := c.r.Header.Get("X-Oss-Range-Behavior") == "standard"
	end := size - 1
	if last != "" {
		if end, err = strconv.ParseInt(last, 10, 64); err != nil || end < off {
			return 0, size, http.StatusOK
		}
	}
	switch {
	case off < size && (end < size || standard):
		return off, min(end, size-1) - off + 1, http.StatusPartialContent
	case standard:
		return 0, 0, http.StatusRequestedRangeNotSatisfiable
	default:
		return 0, size, http.StatusOK
	}
}

// writeXML answers with a document.
func (c *call) writeXML(doc any) *apiError {
	b, err := xml.Marshal(doc)
	if err != nil {
		return refuse(http.StatusInternalServerError, "InternalError", "%v", err)
	}
	c.w.Header().Set("Content-Type", "application/xml")
	_, _ = c.w.Write(append([]byte(xml.Header), b...)) // a client may go away
	return nil
}
