package gs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/benbjohnson/litestream/internal/blob"
)

// A resumable upload is a session at the service, which is told what follows
// and answers how much it has. After a lost connection it is asked, and what it
// lacks is sent again. An unfinished one is nothing that anybody can read, and
// is gone after a week.

// cancelTimeout bounds the request that gives up a failed upload.
const cancelTimeout = 30 * time.Second

// maxSessions is how often a file is begun anew because the service has
// forgotten the session.
const maxSessions = 3

// errSessionLost means that the service does not know a session any more.
var errSessionLost = errors.New("upload session is gone")

// window is a part of the object that can be sent any number of times.
type window struct {
	data  io.ReaderAt // by offset in the object
	start int64       // what lies before cannot be sent again
	end   int64
	last  bool   // the object ends with it
	sum   string // encoded checksum of the whole object, if it is the last
}

// resumable is a session and what it has.
type resumable struct {
	*upload
	url string
	off int64 // bytes that the service has
}

// sendSection stores what can be read at any place. All of it is one request,
// of which the rest is sent again after a lost connection.
func (u *upload) sendSection(ctx context.Context, section *io.SectionReader) error {
	sum, err := checksum(section)
	if err != nil {
		return err
	}
	w := window{data: section, end: section.Size(), last: true, sum: encodeChecksum(sum)}
	for n := 1; ; n++ {
		rs, err := u.begin(ctx, &sum)
		if err != nil {
			return err
		}
		obj, err := rs.sendWindow(ctx, w)
		if err == nil {
			return obj.check(section.Size(), sum)
		}
		rs.cancel(ctx)
		if n == maxSessions || !errors.Is(err, errSessionLost) {
			return err
		}
	}
}

// sendStream stores what can be read once, of which first was read already, in
// chunks. It returns the size.
func (u *upload) sendStream(ctx context.Context, first []byte, r io.Reader) (int64, error) {
	rs, err := u.begin(ctx, nil)
	if err != nil {
		return 0, err
	}
	h := crc32.New(crcTable)
	n, err := rs.sendChunks(ctx, first, bufio.NewReader(r), h)
	if err != nil {
		rs.cancel(ctx)
	}
	return n, err
}

func (rs *resumable) sendChunks(ctx context.Context, buf []byte, r *bufio.Reader, h hash.Hash32) (int64, error) {
	start := int64(0)
	for {
		_, _ = h.Write(buf) // a hash never fails
		_, err := r.Peek(1)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("read file: %w", err)
		}
		w := window{data: offsetBytes{start, buf}, start: start, end: start + int64(len(buf)), last: err != nil}
		if w.last {
			w.sum = encodeChecksum(h.Sum32())
		}
		obj, err := rs.sendWindow(ctx, w)
		if err != nil {
			return 0, err
		}
		if w.last {
			return w.end, obj.check(w.end, h.Sum32())
		}
		start = w.end
		n, err := io.ReadFull(r, buf)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, fmt.Errorf("read file: %w", err)
		}
		buf = buf[:n]
	}
}

// offsetBytes are bytes of which the first lies at an offset.
type offsetBytes struct {
	off int64
	b   []byte
}

// ReadAt reads at a place of the object.
func (o offsetBytes) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, o.b[off-o.off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// begin starts a session. With the checksum the service refuses any other
// content.
func (u *upload) begin(ctx context.Context, sum *uint32) (*resumable, error) {
	resource, err := u.resource(sum)
	if err != nil {
		return nil, err
	}
	resp, err := u.conn.do(ctx, &request{
		method: http.MethodPost,
		url:    u.insertURL("resumable"),
		header: http.Header{"Content-Type": {"application/json; charset=UTF-8"}, "X-Upload-Content-Type": {contentType}},
		size:   int64(len(resource)),
		body:   func() io.Reader { return strings.NewReader(string(resource)) },
	})
	if err != nil {
		return nil, err
	}
	if err := readAnswer(resp, nil); err != nil {
		return nil, err
	}
	rs := &resumable{upload: u, url: resp.Header.Get("Location")}
	if rs.url == "" {
		return nil, errors.New("server's answer names no upload session")
	}
	return rs, nil
}

// sendWindow sends a part until the service has all of it. With the last part
// it returns the finished object.
func (rs *resumable) sendWindow(ctx context.Context, w window) (*object, error) {
	for failures := 0; ; {
		from := rs.off
		obj, err := rs.sendRest(ctx, w)
		if err != nil && isTemporary(err) && ctx.Err() == nil && failures+1 < blob.MaxAttempts {
			failures++
			if err := pause(ctx, failures, err); err != nil {
				return nil, err
			}
			obj, err = rs.ask(ctx, w)
		}
		switch {
		case err != nil:
			return nil, sessionError(err)
		case obj != nil, rs.off == w.end && !w.last:
			return obj, nil
		case rs.off > from:
			failures = 0
		default:
			if failures++; failures >= blob.MaxAttempts {
				return nil, errors.New("server keeps nothing of what is sent")
			}
		}
	}
}

// sessionError recognises the answers to a session that is gone, or whose
// content was refused.
func sessionError(err error) error {
	api, ok := errors.AsType[*apiError](err)
	if ok && (api.status == http.StatusNotFound || api.status == http.StatusGone || isCorrupted(err)) {
		return fmt.Errorf("%w: %s", errSessionLost, api.message)
	}
	return err
}

// newRequest returns a request with a part that is empty, or goes on from what
// the service has to the end of w.
func (rs *resumable) newRequest(w window, empty bool) *request {
	total := "*"
	if w.last {
		total = fmt.Sprint(w.end)
	}
	r := &request{method: http.MethodPut, url: rs.url, header: make(http.Header), bare: true}
	if empty {
		r.header.Set("Content-Range", "bytes */"+total)
		return r
	}
	off := rs.off
	r.header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%s", off, w.end-1, total))
	r.size = w.end - off
	r.body = func() io.Reader { return io.NewSectionReader(w.data, off, r.size) }
	return r
}

// sendRest sends what the service lacks of a part, and finishes the object with
// the last one.
func (rs *resumable) sendRest(ctx context.Context, w window) (*object, error) {
	r := rs.newRequest(w, rs.off == w.end)
	if w.last {
		r.header.Set("X-Goog-Hash", "crc32c="+w.sum)
	}
	resp, err := rs.conn.try(ctx, r) //nolint:bodyclose // readAnswer closes it
	if err != nil {
		return nil, err
	}
	return rs.readAnswer(resp, w)
}

// ask asks how much the service has.
func (rs *resumable) ask(ctx context.Context, w window) (*object, error) {
	resp, err := rs.conn.do(ctx, rs.newRequest(w, true)) //nolint:bodyclose // readAnswer closes it
	if err != nil {
		return nil, err
	}
	return rs.readAnswer(resp, w)
}

// readAnswer notes how much the service has, and returns the object once that
// is finished.
func (rs *resumable) readAnswer(resp *http.Response, w window) (*object, error) {
	if resp.StatusCode != statusIncomplete {
		var obj object
		if err := readAnswer(resp, &obj); err != nil {
			return nil, err
		}
		rs.off = w.end
		return &obj, nil
	}
	if err := readAnswer(resp, nil); err != nil {
		return nil, err
	}
	has := int64(0)
	if rng := resp.Header.Get("Range"); rng != "" {
		var first, last int64
		if _, err := fmt.Sscanf(rng, "bytes=%d-%d", &first, &last); err != nil || first != 0 {
			return nil, fmt.Errorf("server has an unknown part of the upload: %q", rng)
		}
		has = last + 1
	}
	if has < w.start || has > w.end {
		return nil, fmt.Errorf("%w: server has %d bytes, it had %d", errSessionLost, has, rs.off)
	}
	rs.off = has
	return nil, nil //nolint:nilnil // the object is not finished
}

// cancel gives up a session, also when ctx is the reason that it failed. The
// service forgets one that it is not told of within a week.
func (rs *resumable) cancel(ctx context.Context) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer stop()
	resp, err := rs.conn.try(ctx, &request{method: http.MethodDelete, url: rs.url, bare: true})
	if err == nil {
		err = readAnswer(resp, nil)
	}
	// 499 is the answer to what was asked for.
	if api, ok := errors.AsType[*apiError](err); err != nil && (!ok || api.status/100 != 4) {
		rs.logger.Load().Debug("cancel upload", "bucket", rs.Bucket, "key", rs.key, "error", err)
	}
}
