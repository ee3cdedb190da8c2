package webdav

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
)

// entry is what a listing tells of a file or folder.
type entry struct {
	name    string
	dir     bool
	size    int64 // -1: not told
	modTime time.Time
}

const propfindBody = `<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/></prop></propfind>`

// readDir lists a folder that is named relative to the path, with one request:
// the protocol has no pages, so that the answer is read piece by piece. A
// listing is whole or an error.
func (c *ReplicaClient) readDir(ctx context.Context, key string, fn func(entry)) (err error) {
	began := time.Now()
	var entries []entry
	for attempt := 1; ; attempt++ {
		entries, err = c.propfind(ctx, c.dirTarget(key))
		if err == nil || attempt == maxAttempts || ctx.Err() != nil || !errors.Is(err, errCut) {
			break
		}
	}
	code := statusOf(err)
	missing := code == http.StatusNotFound || code == http.StatusGone
	if missing {
		c.observe("LIST", 0, began, nil)
		return fs.ErrNotExist
	}
	c.observe("LIST", 0, began, err)
	if err != nil {
		return c.wrap("list", key, err)
	}
	for _, e := range entries {
		fn(e)
	}
	return nil
}

// errCut is an answer that ended early.
var errCut = errors.New("answer is cut off")

func (c *ReplicaClient) propfind(ctx context.Context, dir *url.URL) ([]entry, error) {
	body := []byte(propfindBody)
	resp, err := c.send(ctx, request{
		method: "PROPFIND", target: dir, body: io.NewSectionReader(bytes.NewReader(body), 0, int64(len(body))),
		header: map[string]string{"Depth": "1", "Content-Type": "application/xml; charset=utf-8"},
	})
	if err != nil {
		return nil, err
	}
	defer drain(resp)
	if resp.StatusCode != http.StatusMultiStatus {
		return nil, &statusError{method: "PROPFIND", status: resp.Status + ", which is no listing", code: http.StatusMethodNotAllowed}
	}
	return parseMultistatus(resp.Body, dir)
}

// davResponse is one entry of a listing (RFC 4918 section 14.24).
type davResponse struct {
	Href     string `xml:"DAV: href"`
	Propstat []struct {
		Status string `xml:"DAV: status"`
		Prop   struct {
			ResourceType struct {
				Collection *struct{} `xml:"DAV: collection"`
			} `xml:"DAV: resourcetype"`
			ContentLength *int64 `xml:"DAV: getcontentlength"`
			LastModified  string `xml:"DAV: getlastmodified"`
		} `xml:"DAV: prop"`
	} `xml:"DAV: propstat"`
}

// parseMultistatus reads a listing of dir, which it leaves out itself.
func parseMultistatus(r io.Reader, dir *url.URL) (entries []entry, err error) {
	d := xml.NewDecoder(r)
	open := false
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) && !open {
			return nil, errors.New("read listing: it is no multistatus document")
		} else if err != nil {
			return nil, fmt.Errorf("read listing: %w: %w", errCut, err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			switch {
			case tok.Name.Space == "DAV:" && tok.Name.Local == "multistatus":
				open = true
			case open && tok.Name.Space == "DAV:" && tok.Name.Local == "response":
				var resp davResponse
				if err := d.DecodeElement(&resp, &tok); err != nil {
					return nil, fmt.Errorf("read listing: %w: %w", errCut, err)
				}
				if e, ok := resp.entry(dir); ok {
					entries = append(entries, e)
				}
			default:
				if err := d.Skip(); err != nil {
					return nil, fmt.Errorf("read listing: %w: %w", errCut, err)
				}
			}
		case xml.EndElement:
			return entries, nil // of the multistatus
		}
	}
}

func (r *davResponse) entry(dir *url.URL) (entry, bool) {
	u, err := dir.Parse(strings.TrimSpace(r.Href))
	if err != nil {
		return entry{}, false
	}
	p := path.Clean(u.Path)
	if p == path.Clean(dir.Path) {
		return entry{}, false
	}
	e := entry{name: path.Base(p), size: -1, dir: strings.HasSuffix(u.Path, "/")}
	for _, ps := range r.Propstat {
		if ps.Status != "" && !strings.Contains(ps.Status, " 200") {
			continue
		}
		if ps.Prop.ResourceType.Collection != nil {
			e.dir = true
		}
		if ps.Prop.ContentLength != nil {
			e.size = *ps.Prop.ContentLength
		}
		if t, err := http.ParseTime(strings.TrimSpace(ps.Prop.LastModified)); err == nil {
			e.modTime = t.UTC()
		}
	}
	return e, true
}
