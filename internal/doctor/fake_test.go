package doctor_test

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeS3 is as much of an S3 server as a replica needs. It checks no signature,
// and does wrong what a test asks for.
type fakeS3 struct {
	*httptest.Server

	// Faults; set before the first request.
	ignoreConditions bool
	refuseConditions bool
	racy             func(key string) bool // whose conditions are ignored
	ignoreRange      bool
	deny             func(r *http.Request) (status int, code string) // "" lets it through
	noToken          bool                                            // cut listings have no continuation
	firstPageOnly    bool                                            // listings end after a page and say they are whole
	sticky           bool                                            // deleted objects stay
	truncate         int                                             // keep so many bytes of every larger object; 0: all
	flip             bool                                            // one byte of every object is changed
	stale            bool                                            // reads return the first version
	skew             time.Duration                                   // of the server's clock

	before func(r *http.Request) // called with every request

	mu      sync.Mutex // guards the rest
	objects map[string]fakeObject
	parts   map[string]map[int][]byte // by upload
	seq     int
}

type fakeObject struct {
	data, first []byte
	meta        http.Header
	at          time.Time
}

const fakePage = 1000

func newFakeS3(tb testing.TB) *fakeS3 {
	tb.Helper()
	f := &fakeS3{objects: make(map[string]fakeObject), parts: make(map[string]map[int][]byte)}
	f.Server = httptest.NewServer(f)
	tb.Cleanup(f.Close)
	return f
}

// keys returns what is stored.
func (f *fakeS3) keys() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.objects))
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if f.before != nil {
		f.before(r)
	}
	if f.deny != nil {
		if status, code := f.deny(r); code != "" {
			fail(w, status, code)
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Header().Set("Date", time.Now().Add(f.skew).UTC().Format(http.TimeFormat))
	q := r.URL.Query()
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case r.Method == http.MethodGet && key == "":
		f.list(w, q.Get("prefix"), cmp.Or(q.Get("continuation-token"), q.Get("start-after")), q.Get("max-keys"))
	case r.Method == http.MethodPost && q.Has("delete"):
		f.deleteMany(w, body)
	case r.Method == http.MethodPost && q.Has("uploads"):
		f.seq++
		id := strconv.Itoa(f.seq)
		f.parts[id] = make(map[int][]byte)
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case r.Method == http.MethodPut && q.Has("uploadId"):
		n, _ := strconv.Atoi(q.Get("partNumber"))
		f.parts[q.Get("uploadId")][n] = body
		w.Header().Set("ETag", `"x"`)
	case r.Method == http.MethodPost && q.Has("uploadId"):
		parts := f.parts[q.Get("uploadId")]
		var data []byte
		for _, n := range slices.Sorted(maps.Keys(parts)) {
			data = append(data, parts[n]...)
		}
		if f.store(w, r, key, data) {
			fmt.Fprintf(w, "<CompleteMultipartUploadResult><Key>%s</Key><ETag>x</ETag></CompleteMultipartUploadResult>", key)
		}
	case r.Method == http.MethodPut:
		f.store(w, r, key, body)
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	default:
		f.get(w, r, key)
	}
}

// store keeps an object and reports whether it did.
func (f *fakeS3) store(w http.ResponseWriter, r *http.Request, key string, data []byte) bool {
	old, exists := f.objects[key]
	if r.Header.Get("If-None-Match") != "" {
		switch {
		case f.refuseConditions:
			fail(w, http.StatusNotImplemented, "NotImplemented")
			return false
		case exists && !f.ignoreConditions && (f.racy == nil || !f.racy(key)):
			fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
			return false
		}
	}
	o := fakeObject{data: data, first: data, meta: make(http.Header), at: time.Now().Add(f.skew)}
	for name, values := range r.Header {
		if strings.HasPrefix(name, "X-Amz-Meta-") {
			o.meta[name] = values
		}
	}
	if exists {
		o.first = old.first
	}
	if f.truncate > 0 && len(o.data) > f.truncate {
		o.data = o.data[:f.truncate]
	}
	if f.flip && len(o.data) > 0 {
		o.data = slices.Clone(o.data)
		o.data[len(o.data)-1] ^= 1
	}
	f.objects[key] = o
	w.Header().Set("ETag", `"x"`)
	return true
}

func (f *fakeS3) get(w http.ResponseWriter, r *http.Request, key string) {
	o, ok := f.objects[key]
	if !ok {
		fail(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	data := o.data
	if f.stale {
		data = o.first
	}
	maps.Copy(w.Header(), o.meta)
	w.Header().Set("Last-Modified", o.at.UTC().Format(http.TimeFormat))
	w.Header().Set("ETag", `"x"`)
	rng := strings.TrimPrefix(r.Header.Get("Range"), "bytes=")
	if rng == "" || f.ignoreRange {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(data)
		}
		return
	}
	from, to, _ := strings.Cut(rng, "-")
	begin, _ := strconv.Atoi(from)
	end := len(data)
	if n, err := strconv.Atoi(to); err == nil {
		end = min(end, n+1)
	}
	if begin >= len(data) {
		fail(w, http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", begin, end-1, len(data)))
	w.Header().Set("Content-Length", strconv.Itoa(end-begin))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(data[begin:end])
}

func (f *fakeS3) list(w http.ResponseWriter, prefix, after, maxKeys string) {
	page := fakePage
	if n, err := strconv.Atoi(maxKeys); err == nil {
		page = n
	}
	var out strings.Builder
	n, last, truncated := 0, "", false
	for _, key := range slices.Sorted(maps.Keys(f.objects)) {
		if !strings.HasPrefix(key, prefix) || key <= after {
			continue
		}
		if n == page {
			truncated = !f.firstPageOnly
			break
		}
		o := f.objects[key]
		fmt.Fprintf(&out, "<Contents><Key>%s</Key><Size>%d</Size><LastModified>%s</LastModified></Contents>", key, len(o.data), o.at.UTC().Format(time.RFC3339))
		n, last = n+1, key
	}
	fmt.Fprintf(w, "<ListBucketResult><IsTruncated>%t</IsTruncated>%s", truncated, out.String())
	if truncated && !f.noToken {
		fmt.Fprintf(w, "<NextContinuationToken>%s</NextContinuationToken>", last)
	}
	fmt.Fprint(w, "</ListBucketResult>")
}

func (f *fakeS3) deleteMany(w http.ResponseWriter, body []byte) {
	var in struct {
		Object []struct{ Key string }
	}
	if err := xml.Unmarshal(body, &in); err != nil {
		fail(w, http.StatusBadRequest, "MalformedXML")
		return
	}
	for _, o := range in.Object {
		if !f.sticky {
			delete(f.objects, o.Key)
		}
	}
	fmt.Fprint(w, "<DeleteResult></DeleteResult>")
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>told by the test</Message></Error>", code)
}
