package nats

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

const (
	// chunkSize is that of Litestream v0.5, in bytes.
	chunkSize = 128 << 10

	// chunkWindow is the number of chunks of one file that may be under way.
	chunkWindow = 8

	// maxStreamed is the size in bytes up to which a source that can be read
	// once is held in memory, so that its upload can be repeated.
	maxStreamed = 4 * chunkSize

	// cleanupTimeout bounds the removal of what a failed upload left behind.
	cleanupTimeout = 5 * time.Second
)

// WriteLTXFile stores a file, replacing one of the same name. What can be read
// at any place is sent again if the connection is lost; what cannot only up to
// 512 KiB.
func (c *ReplicaClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, false)
}

// WriteLTXFileExclusive stores a file unless one of that name exists
// (Nats-Expected-Last-Subject-Sequence). Of any number of writers exactly one
// succeeds.
func (c *ReplicaClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, true)
}

func (c *ReplicaClient) write(ctx context.Context, info *ltx.FileInfo, r io.Reader, exclusive bool) (*ltx.FileInfo, error) {
	key := c.root().File(info.Level, info.MinTXID, info.MaxTXID)
	if err := ctx.Err(); err != nil {
		return nil, c.fail("put", key, err)
	}
	src, hdr, err := blob.NewSource(r)
	if err != nil {
		return nil, c.fail("put", key, err)
	}
	info.CreatedAt = time.UnixMilli(hdr.Timestamp).UTC()
	headers := map[string][]string{TimestampHeader: {info.CreatedAt.Format(time.RFC3339Nano)}}
	if info.Size, err = c.store(ctx, key, src, headers, exclusive); err != nil {
		return nil, err
	}
	return info, nil
}

// store uploads one object and returns its size.
func (c *ReplicaClient) store(ctx context.Context, key string, src blob.Source, headers map[string][]string, exclusive bool) (int64, error) {
	began := time.Now()
	src, err := buffered(src)
	if err != nil {
		c.observe("PUT", 0, began, err)
		return 0, c.fail("put", key, err)
	}
	u := &upload{key: key, src: src, headers: headers, exclusive: exclusive}
	err = c.do(ctx, u.run)
	if err != nil && !u.unsure {
		u.clean(ctx, c)
	}
	if err != nil {
		c.observe("PUT", 0, began, err)
		return 0, c.wrap("put", key, err)
	}
	c.connectionWrites(ctx)
	c.observe("PUT", u.object.Size, began, nil)
	return u.object.Size, nil
}

// connectionWrites notes that this process writes to the server.
func (c *ReplicaClient) connectionWrites(ctx context.Context) {
	if cn, err := c.connection(ctx); err == nil {
		cn.writes.Store(true)
	}
}

// buffered turns a small stream into something that can be read again.
func buffered(src blob.Source) (blob.Source, error) {
	if src.Stream == nil {
		return src, nil
	}
	buf, err := io.ReadAll(io.LimitReader(src.Stream, maxStreamed))
	if err != nil {
		return src, fmt.Errorf("read file: %w", err)
	}
	if len(buf) < maxStreamed {
		return blob.Source{Section: io.NewSectionReader(bytes.NewReader(buf), 0, int64(len(buf)))}, nil
	}
	return blob.Source{Stream: io.MultiReader(bytes.NewReader(buf), src.Stream)}, nil
}

// upload is one object on its way, over as many connections as it takes. First
// all chunks are stored, on a subject that nobody knows of, and then the message
// that tells of them, if none has come before.
type upload struct {
	key       string
	src       blob.Source
	headers   map[string][]string
	exclusive bool

	object    *object // all its chunks are stored; nil: not yet
	abandoned string  // subject of the chunks of an attempt that broke
	expect    uint64  // message that the next one must follow
	replaced  *object // what was there
	unsure    bool    // the message may be stored
}

func (u *upload) run(ctx context.Context, b *bucket) error {
	if err := b.checkKey(u.key); err != nil {
		return err
	}
	if u.object == nil {
		if err := u.sendChunks(ctx, b); err != nil {
			return b.judge(ctx, err)
		}
	}
	return b.judge(ctx, u.tell(ctx, b))
}

// judge finds out what no answer to a message means: that the bucket does not
// exist, or that it has no leader for a moment.
func (b *bucket) judge(ctx context.Context, err error) error {
	if !errors.Is(err, natsgo.ErrNoResponders) {
		return err
	}
	if infoErr := b.askJSON(ctx, b.api("STREAM.INFO"), struct{}{}, nil); isCode(infoErr, codeNoStream) {
		return infoErr
	}
	return err
}

// sendChunks stores the content on a new subject.
func (u *upload) sendChunks(ctx context.Context, b *bucket) error {
	if u.abandoned != "" {
		_ = b.purge(ctx, u.abandoned, 0) // in vain: a listing finds them later
	}
	id := newNUID(u.key, time.Now())
	subject := b.chunkPrefix() + id
	o := &object{
		Name: u.key, Headers: u.headers, Options: &objectOptions{MaxChunkSize: chunkSize},
		Bucket: b.name, NUID: id,
	}
	u.abandoned = subject
	s := &sender{bucket: b, subject: subject, hash: sha256.New()}
	var err error
	if u.src.Section != nil {
		if _, err = u.src.Section.Seek(0, io.SeekStart); err == nil {
			err = s.send(ctx, u.src.Section, u.src.Section.Size())
		}
	} else if err = s.send(ctx, u.src.Stream, -1); err != nil {
		err = &finalError{err} // it cannot be read again
	}
	if err != nil {
		return err
	}
	o.Size, o.Chunks = s.size, s.chunks
	o.Digest = "SHA-256=" + base64.URLEncoding.EncodeToString(s.hash.Sum(nil))
	u.object, u.abandoned = o, ""
	return nil
}

// sender sends the chunks of one object.
type sender struct {
	bucket  *bucket
	subject string
	hash    hash.Hash
	size    int64
	chunks  int

	answered int // chunks that are known to be stored, or not
}

// send sends all that r has; size is -1 if that is not known.
func (s *sender) send(ctx context.Context, r io.Reader, size int64) error {
	limit := int64(min(chunkSize, s.bucket.nc.MaxPayload()))
	if size >= 0 && size <= limit {
		return s.sendOne(ctx, r, size)
	}
	t, err := s.bucket.talk(ctx, s.subject, chunkWindow)
	if err != nil {
		return err
	}
	defer t.close()
	err = s.sendAll(ctx, t, r, make([]byte, limit))
	// What is under way must be over before somebody removes it.
	for s.answered < s.chunks {
		if answerErr := s.answer(t); err == nil {
			err = answerErr
		} else if _, ok := errors.AsType[*apiError](answerErr); answerErr != nil && !ok {
			return err // nobody answers any more
		}
	}
	if err == nil && size >= 0 && s.size != size {
		err = &finalError{fmt.Errorf("read file: %d bytes of %d", s.size, size)}
	}
	return err
}

// sendAll sends all that r has, and waits for answers when too many are due.
func (s *sender) sendAll(ctx context.Context, t *talk, r io.Reader, buf []byte) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return &finalError{fmt.Errorf("read file: %w", err)}
		}
		if n == 0 {
			return nil
		}
		if s.chunks-s.answered == chunkWindow {
			if err := s.answer(t); err != nil {
				return err
			}
		}
		t.more()
		if err := t.send(buf[:n]); err != nil {
			return err
		}
		s.count(buf[:n])
		if err != nil {
			return nil //nolint:nilerr // the end: it was the last one
		}
	}
}

// answer waits until one more chunk is stored.
func (s *sender) answer(t *talk) error {
	msg, err := t.next()
	if err != nil {
		return err
	}
	s.answered++
	return readAnswer(msg.Data, nil)
}

func (s *sender) sendOne(ctx context.Context, r io.Reader, size int64) error {
	buf := make([]byte, size)
	if _, err := io.ReadFull(r, buf); err != nil {
		return &finalError{fmt.Errorf("read file: %w", err)}
	}
	// An empty object has a chunk, too: listings find objects by their chunks.
	msg, err := s.bucket.ask(ctx, &natsgo.Msg{Subject: s.subject, Data: buf})
	if err != nil {
		return err
	}
	s.count(buf)
	return readAnswer(msg.Data, nil)
}

func (s *sender) count(p []byte) {
	_, _ = s.hash.Write(p) // a hash never fails
	s.size += int64(len(p))
	s.chunks++
}

// tell stores the message that makes the object known. Its answer may be lost:
// it is then refused the next time, because it is there.
func (u *upload) tell(ctx context.Context, b *bucket) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		u.unsure = true
		err := b.put(ctx, u.object, u.expect)
		if err == nil {
			break
		}
		if _, answered := errors.AsType[*apiError](err); !answered {
			return err
		}
		if !isConflict(err) {
			u.unsure = false
			return err
		}
		current, err := b.get(ctx, u.key)
		if errors.Is(err, errMissing) {
			u.expect, u.replaced = 0, nil
			continue
		} else if err != nil {
			return err
		}
		if current.NUID == u.object.NUID {
			break // ours
		}
		if u.exclusive && !current.Deleted {
			u.unsure = false
			return fmt.Errorf("%w: stored %s by somebody else", fs.ErrExist, current.stored.Format(time.RFC3339))
		}
		u.expect, u.replaced = current.seq, current
	}
	u.unsure = false
	if old := u.replaced; old != nil && !old.Deleted && old.NUID != "" {
		_ = b.purge(ctx, b.chunkPrefix()+old.NUID, 0) // in vain: a listing finds them later
	}
	return nil
}

// clean removes the chunks of an upload that failed, as far as it gets.
func (u *upload) clean(ctx context.Context, c *ReplicaClient) {
	cn, err := c.connection(ctx)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	_ = cn.try(ctx, c.logger.Load(), func(ctx context.Context, l *link) error {
		b := &bucket{link: l, name: c.Bucket}
		subject := u.abandoned
		if u.object != nil {
			subject = b.chunkPrefix() + u.object.NUID
		}
		if subject == "" {
			return nil
		}
		return b.purge(ctx, subject, 0)
	})
}
