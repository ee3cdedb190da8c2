package nats

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/superfly/ltx"
)

const (
	// maxBuffered is the size in bytes up to which a file is read when it is
	// opened.
	maxBuffered = 256 << 10

	// readBatch is the number of chunks, and readBytes about the number of bytes,
	// that are asked for at a time.
	readBatch = 8
	readBytes = readBatch * chunkSize
)

// OpenLTXFile reads size bytes of a file from offset on, or all that follow if
// size is 0. From the end of the file on there is nothing to read. A reader
// whose connection is lost goes on over another one; it holds no connection
// between two reads. A whole file that does not have its checksum is an error.
func (c *ReplicaClient) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	key := c.root().File(level, minTXID, maxTXID)
	if err := checkRange(offset, size); err != nil {
		return nil, c.fail("get", key, err)
	}
	return c.open(ctx, key, offset, size)
}

func (c *ReplicaClient) open(ctx context.Context, key string, offset, size int64) (io.ReadCloser, error) {
	r := &reader{client: c, ctx: ctx, key: key, began: time.Now()}
	r.err = c.do(ctx, func(ctx context.Context, b *bucket) (err error) {
		r.object, err = b.live(ctx, key)
		return err
	})
	if r.err != nil {
		r.err = c.wrap("get", key, r.err)
		return nil, errors.Join(r.err, r.Close())
	}
	r.skip = min(offset, r.object.Size)
	r.left = r.object.Size - r.skip
	if size > 0 {
		r.left = min(r.left, size)
	}
	if r.left == r.object.Size && r.object.Digest != "" {
		r.hash = sha256.New()
	}
	// What is small is read at once: most files cost nothing until they are closed.
	for r.left > 0 && r.n < maxBuffered {
		if err := r.fill(); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	if r.left > 0 {
		return r, nil
	}
	part := r.part
	if err := r.Close(); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(part)), nil
}

// reader reads an object chunk by chunk.
type reader struct {
	client *ReplicaClient
	ctx    context.Context //nolint:containedctx // of the call that opened it
	key    string
	began  time.Time
	object *object

	seq    uint64    // of the last message that was read
	skip   int64     // bytes before those that are wanted
	left   int64     // bytes wanted and not read
	part   []byte    // read, and not handed out
	n      int64     // bytes read
	hash   hash.Hash // of a whole object
	err    error     // of reading
	closed bool
}

// Read reads what follows.
func (r *reader) Read(p []byte) (int, error) {
	for len(r.part) == 0 {
		switch {
		case r.err != nil:
			return 0, r.err
		case r.closed:
			return 0, os.ErrClosed
		case r.left == 0:
			return 0, io.EOF
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.part)
	r.part = r.part[n:]
	return n, nil
}

// Close gives the file up, and reports what was read.
func (r *reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.client.observe("GET", r.n, r.began, r.err)
	return nil
}

// fill reads the next chunks.
func (r *reader) fill() error {
	err := r.client.do(r.ctx, r.read)
	if err == nil && r.left == 0 && r.hash != nil {
		if sum := "SHA-256=" + base64.URLEncoding.EncodeToString(r.hash.Sum(nil)); sum != r.object.Digest {
			err = fmt.Errorf("checksum of the object is %s, what was received has %s", r.object.Digest, sum)
		}
	}
	if err != nil {
		r.err = r.client.wrap("get", r.key, err)
	}
	return r.err
}

func (r *reader) read(ctx context.Context, b *bucket) error {
	want := int(min((r.skip+r.left+chunkSize-1)/chunkSize, readBatch))
	if r.seq == 0 {
		if err := r.seek(ctx, b); err != nil {
			return err
		}
	}
	chunks, err := b.chunks(ctx, r.object.NUID, r.seq+1, want)
	if err != nil {
		return err
	}
	if len(chunks) == 0 {
		return r.explainEnd(ctx, b)
	}
	for _, ch := range chunks {
		r.take(ch)
	}
	return nil
}

// take appends what is wanted of a chunk.
func (r *reader) take(ch chunk) {
	r.seq = ch.seq
	data := ch.data
	skipped := min(r.skip, int64(len(data)))
	r.skip -= skipped
	data = data[skipped:]
	data = data[:min(int64(len(data)), r.left)]
	if r.hash != nil {
		_, _ = r.hash.Write(data) // a hash never fails
	}
	r.part = append(r.part, data...)
	r.left -= int64(len(data))
	r.n += int64(len(data))
}

// explainEnd says why an object has fewer chunks than it should.
func (r *reader) explainEnd(ctx context.Context, b *bucket) error {
	now, err := b.live(ctx, r.key)
	switch {
	case err != nil:
		return err // deleted meanwhile, or worse
	case now.NUID != r.object.NUID:
		return errors.New("file was replaced while it was read")
	}
	return fmt.Errorf("%w: %d of %d bytes are stored", io.ErrUnexpectedEOF, r.object.Size-r.skip-r.left, r.object.Size)
}

const (
	// maxProbes bounds the chunks that seek reads.
	maxProbes = 12

	// nearby is the number of chunks that are as soon read as found.
	nearby = 2
)

// seek finds the message before the chunk that the offset lies in, if that is
// not one of the first and all chunks have the same size, as ours do. What it
// does not find is read and dropped.
func (r *reader) seek(ctx context.Context, b *bucket) error {
	total := int64(r.object.Chunks)
	wanted := r.skip / chunkSize
	if _, _, ours := parseNUID(r.object.NUID); !ours || wanted < readBatch || total != (r.object.Size+chunkSize-1)/chunkSize {
		return nil
	}
	p := place{wanted: wanted, high: int64(r.object.seq), highIndex: total}
	for range maxProbes {
		from := p.guess()
		if from <= p.low+1 || p.low > 0 && wanted-p.lowIndex <= nearby {
			break
		}
		seq, index, err := b.probe(ctx, r.object.NUID, uint64(from), total)
		if err != nil {
			return err
		}
		switch {
		case seq == 0:
			return nil // the server does not count
		case index == wanted:
			p.low, p.lowIndex = from-1, index
			r.seq, r.skip = uint64(p.low), r.skip-wanted*chunkSize
			return nil
		case index > wanted:
			p.high, p.highIndex = from, index
		default:
			p.low, p.lowIndex = int64(seq), index+1
		}
		p.probes++
	}
	r.seq, r.skip = uint64(p.low), r.skip-p.lowIndex*chunkSize
	return nil
}

// place is what is known of where a chunk lies: behind the message low, which
// chunk lowIndex follows, and before the message high, which chunk highIndex
// follows or is.
type place struct {
	wanted    int64
	low, high int64
	lowIndex  int64
	highIndex int64
	probes    int
}

// guess returns the message to look at next. All chunks were stored before the
// message that tells of them, mostly one right behind the other.
func (p *place) guess() int64 {
	back := p.highIndex - p.wanted
	if p.low == 0 {
		return max(p.high-back<<p.probes, 2)
	}
	mean := (p.high - p.low) / max(p.highIndex-p.lowIndex, 1)
	return max(min(p.high-back*mean, p.high-back), p.low+1+p.wanted-p.lowIndex)
}

// chunk is one message of an object's content.
type chunk struct {
	seq  uint64
	data []byte

	pending int64 // that follow it; -1: the server does not say
}

// chunks returns up to n chunks from message number seq on. They may come from
// any replica of the stream. One that knows of none may lag behind: then the
// leader is asked.
func (b *bucket) chunks(ctx context.Context, id string, seq uint64, n int) ([]chunk, error) {
	a, err := b.direct(ctx, id, seq, n)
	_, denied := errors.AsType[*deniedError](err)
	switch {
	case err == nil && len(a) > 0:
		return a, nil
	case err == nil, denied, errors.Is(err, natsgo.ErrNoResponders):
	default:
		return nil, err
	}
	var m storedMessage
	err = b.askJSON(ctx, b.api("STREAM.MSG.GET"), getRequest{Seq: seq, NextFor: b.chunkPrefix() + id}, &m)
	if isCode(err, codeNoMessage) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return []chunk{{seq: m.Message.Seq, data: m.Message.Data, pending: -1}}, nil
}

// direct asks for chunks with one request (ADR-31). It returns none if there is
// none, and one if the server does not know of batches.
func (b *bucket) direct(ctx context.Context, id string, seq uint64, n int) ([]chunk, error) {
	req, err := json.Marshal(getRequest{Seq: seq, NextFor: b.chunkPrefix() + id, Batch: n, MaxBytes: readBytes})
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	t, err := b.talk(ctx, apiPrefix+"DIRECT.GET."+b.stream(), n+1)
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := t.send(req); err != nil {
		return nil, err
	}
	a := make([]chunk, 0, n)
	for len(a) < n {
		msg, err := t.next()
		if err != nil {
			return nil, err
		}
		if status := msg.Header.Get(statusHeader); status == statusEnd || status == statusNotFound {
			break
		} else if status != "" {
			return nil, fmt.Errorf("read messages: %s %s", status, msg.Header.Get("Description"))
		}
		got, err := readChunk(msg)
		if err != nil {
			return nil, err
		}
		a = append(a, got)
		if got.pending <= 0 {
			break // the last one, or a server that sends one at a time
		}
	}
	return a, nil
}

func readChunk(msg *natsgo.Msg) (chunk, error) {
	seq, err := strconv.ParseUint(msg.Header.Get(sequenceHeader), 10, 64)
	if err != nil {
		return chunk{}, fmt.Errorf("read number of a message: %w", err)
	}
	pending, err := strconv.ParseInt(msg.Header.Get(pendingHeader), 10, 64)
	if err != nil {
		pending = -1
	}
	return chunk{seq: seq, data: msg.Data, pending: pending}, nil
}

// probe returns the number of the first chunk's message from that on, and which
// of total chunks it is; total if there is none. seq is 0 if the server cannot
// tell.
func (b *bucket) probe(ctx context.Context, id string, from uint64, total int64) (seq uint64, index int64, err error) {
	a, err := b.direct(ctx, id, from, 1)
	_, denied := errors.AsType[*deniedError](err)
	switch {
	case denied, errors.Is(err, natsgo.ErrNoResponders):
		return 0, 0, nil
	case err != nil:
		return 0, 0, err
	case len(a) == 0:
		return from, total, nil // all come before
	case a[0].pending < 0:
		return 0, 0, nil
	}
	return a[0].seq, total - 1 - a[0].pending, nil
}
