package fakeoss

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// version is one that a bucket keeps of an object.
type version struct {
	key string
	obj *object // nil: a mark that it was deleted
	n   int     // its number
}

// retention is a policy that locks objects.
type retention struct {
	days   int
	locked bool
}

// note keeps a version where the bucket does. The lock is held.
func (b *bucket) note(key string, obj *object) {
	if b.versioned {
		b.versions = append(b.versions, version{key, obj, len(b.versions) + 1})
	}
}

// after returns a part of a listing that is in order: what comes behind a
// marker, up to a limit, and whether that is all.
func after[T any](all []T, limit int, isBehind func(T) bool) (some []T, truncated bool) {
	i := slices.IndexFunc(all, isBehind)
	if i < 0 {
		return nil, false
	}
	all = all[i:]
	return all[:min(limit, len(all))], len(all) > limit
}

// limit returns how many a page may have.
func (c *call) limit(name string) (int, *apiError) {
	n, err := strconv.Atoi(c.query.Get(name))
	if err != nil || n < 1 || n > maxKeys {
		return 0, refuse(http.StatusBadRequest, "InvalidArgument", "%s is out of bounds.", name)
	}
	return n, nil
}

type listedVersion struct {
	Key          string
	VersionID    string `xml:"VersionId"`
	LastModified string `xml:",omitempty"`
	Size         int64
}

func (s *Server) listVersions(c *call, b *bucket) *apiError {
	limit, refusal := c.limit("max-keys")
	if refusal != nil {
		return refusal
	}
	s.mu.Lock()
	all := slices.DeleteFunc(slices.Clone(b.versions), func(v version) bool { return !strings.HasPrefix(v.key, c.query.Get("prefix")) })
	s.mu.Unlock()
	slices.SortFunc(all, func(x, y version) int { return cmp.Or(cmp.Compare(x.key, y.key), cmp.Compare(y.n, x.n)) })
	key, id := c.query.Get("key-marker"), 0
	fmt.Sscanf(c.query.Get("version-id-marker"), "v%d", &id) //nolint:errcheck // 0 then
	some, truncated := after(all, limit, func(v version) bool { return v.key > key || v.key == key && v.n < id })
	out := struct {
		XMLName             xml.Name `xml:"ListVersionsResult"`
		EncodingType        string
		IsTruncated         bool
		NextKeyMarker       string          `xml:",omitempty"`
		NextVersionIDMarker string          `xml:"NextVersionIdMarker,omitempty"`
		Version             []listedVersion `xml:",omitempty"`
		DeleteMarker        []listedVersion `xml:",omitempty"`
	}{EncodingType: "url", IsTruncated: truncated}
	for _, v := range some {
		listed := listedVersion{Key: url.QueryEscape(v.key), VersionID: fmt.Sprintf("v%d", v.n)}
		out.NextKeyMarker, out.NextVersionIDMarker = listed.Key, listed.VersionID
		if v.obj == nil {
			out.DeleteMarker = append(out.DeleteMarker, listed)
			continue
		}
		listed.Size, listed.LastModified = v.obj.size, v.obj.modified.UTC().Format("2006-01-02T15:04:05.000Z")
		out.Version = append(out.Version, listed)
	}
	return c.writeXML(out)
}

type listedUpload struct {
	Key      string
	UploadID string `xml:"UploadId"`
}

func (s *Server) listUploads(c *call, b *bucket) *apiError {
	limit, refusal := c.limit("max-uploads")
	if refusal != nil {
		return refusal
	}
	var all []listedUpload
	s.mu.Lock()
	for id, u := range b.uploads {
		if strings.HasPrefix(u.key, c.query.Get("prefix")) {
			all = append(all, listedUpload{u.key, id})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(x, y listedUpload) int {
		return cmp.Or(cmp.Compare(x.Key, y.Key), cmp.Compare(x.UploadID, y.UploadID))
	})
	key, id := c.query.Get("key-marker"), c.query.Get("upload-id-marker")
	some, truncated := after(all, limit, func(u listedUpload) bool { return u.Key > key || u.Key == key && u.UploadID > id })
	out := struct {
		XMLName            xml.Name `xml:"ListMultipartUploadsResult"`
		EncodingType       string
		IsTruncated        bool
		NextKeyMarker      string         `xml:",omitempty"`
		NextUploadIDMarker string         `xml:"NextUploadIdMarker,omitempty"`
		Upload             []listedUpload `xml:",omitempty"`
	}{EncodingType: "url", IsTruncated: truncated}
	for _, u := range some {
		u.Key = url.QueryEscape(u.Key)
		out.NextKeyMarker, out.NextUploadIDMarker = u.Key, u.UploadID
		out.Upload = append(out.Upload, u)
	}
	return c.writeXML(out)
}

func (s *Server) getRetention(c *call, b *bucket) *apiError {
	s.mu.Lock()
	r := b.retention
	s.mu.Unlock()
	if r == nil {
		return refuse(http.StatusNotFound, "NoSuchWORMConfiguration", "The bucket has no retention policy.")
	}
	state := "InProgress"
	if r.locked {
		state = "Locked"
	}
	return c.writeXML(struct {
		XMLName xml.Name `xml:"WormConfiguration"`
		State   string
		Days    int `xml:"RetentionPeriodInDays"`
	}{State: state, Days: r.days})
}
