package nats

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// What an object store is made of (ADR-20): a stream in which each chunk of an
// object is a message on a subject of the object's own, and one message on the
// subject of the name tells of the newest object of that name. The requests
// are those of the JetStream API that the leader of the stream answers: a
// listing or an object that a replica of it does not know of yet would look
// like a lost one.
const (
	objectPrefix = "$O."
	apiPrefix    = "$JS.API."

	rollupHeader       = "Nats-Rollup"                         // what is stored replaces what the subject had
	rollupSubject      = "sub"                                 //
	expectHeader       = "Nats-Expected-Last-Subject-Sequence" // or it is refused
	sequenceHeader     = "Nats-Sequence"
	pendingHeader      = "Nats-Num-Pending"
	statusHeader       = "Status"
	statusEnd          = "204"
	statusNotFound     = "404"
	statusNoResponders = "503"
)

// maxSubject bounds the subjects that are made from a key, in bytes: a server
// drops the connection of whoever sends a longer line than 4096.
const maxSubject = 3000

// errMissing is an object that is not there.
var errMissing = errors.New("object not found")

// bucket is one object store, over one connection.
type bucket struct {
	*link
	name string
}

// object is what a bucket keeps beside the content, in the form of other clients
// (ObjectInfo of ADR-20).
type object struct {
	Name    string              `json:"name"`
	Headers map[string][]string `json:"headers,omitempty"`
	Options *objectOptions      `json:"options,omitempty"`
	Bucket  string              `json:"bucket"`
	NUID    string              `json:"nuid"` // the end of the subject of the chunks
	Size    int64               `json:"size"`
	ModTime time.Time           `json:"mtime"` // the server's time of the message counts
	Chunks  int                 `json:"chunks"`
	Digest  string              `json:"digest,omitempty"`
	Deleted bool                `json:"deleted,omitempty"`

	seq    uint64    // of the message
	stored time.Time // by the server's clock
}

type objectOptions struct {
	MaxChunkSize int `json:"max_chunk_size,omitempty"`
}

// timestamp returns the time of the LTX header, as it was stored.
func (o *object) timestamp() string {
	if a := o.Headers[TimestampHeader]; len(a) > 0 {
		return a[0]
	}
	return ""
}

func (b *bucket) stream() string            { return "OBJ_" + b.name }
func (b *bucket) api(request string) string { return apiPrefix + request + "." + b.stream() }
func (b *bucket) metaPrefix() string        { return objectPrefix + b.name + ".M." }
func (b *bucket) metaSubject(k string) string {
	return b.metaPrefix() + base64.URLEncoding.EncodeToString([]byte(k))
}
func (b *bucket) chunkPrefix() string { return objectPrefix + b.name + ".C." }

// checkKey refuses a key whose subjects would be too long.
func (b *bucket) checkKey(key string) error {
	if n := max(len(b.metaSubject(key)), len(b.chunkPrefix())+len(tokens(key))+64); n > maxSubject {
		return fmt.Errorf("name of the object is too long: subject of %d bytes", n)
	}
	return nil
}

// tokens returns a key as tokens of a subject, one for each element.
func tokens(key string) string {
	var s strings.Builder
	for i := range len(key) {
		switch c := key[i]; {
		case c == '/':
			s.WriteByte('.')
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			s.WriteByte(c)
		default:
			fmt.Fprintf(&s, "%%%02X", c)
		}
	}
	return s.String()
}

// newNUID returns a new end of a subject for the chunks of an object: its key,
// the time, and something unique. Those of other clients have no time and no
// key.
func newNUID(key string, now time.Time) string {
	return tokens(key) + "." + strconv.FormatInt(now.Unix(), 16) + "-" + nuid.Next()
}

// parseNUID is the inverse of newNUID. ok is false for those of others.
func parseNUID(id string) (key string, begun time.Time, ok bool) {
	dot := strings.LastIndexByte(id, '.')
	if dot < 0 {
		return "", time.Time{}, false
	}
	unix, _, ok := strings.Cut(id[dot+1:], "-")
	sec, err := strconv.ParseInt(unix, 16, 64)
	if !ok || err != nil {
		return "", time.Time{}, false
	}
	var s strings.Builder
	for rest := id[:dot]; rest != ""; {
		switch c := rest[0]; {
		case c == '.':
			s.WriteByte('/')
		case c == '%' && len(rest) > 2:
			v, err := strconv.ParseUint(rest[1:3], 16, 8)
			if err != nil {
				return "", time.Time{}, false
			}
			s.WriteByte(byte(v))
			rest = rest[2:]
		default:
			s.WriteByte(c)
		}
		rest = rest[1:]
	}
	return s.String(), time.Unix(sec, 0), true
}

// storedMessage is a message of the stream as the API returns it.
type storedMessage struct {
	Message struct {
		Seq  uint64    `json:"seq"`
		Data []byte    `json:"data"`
		Time time.Time `json:"time"`
	} `json:"message"`
}

type getRequest struct {
	Seq      uint64 `json:"seq,omitempty"`
	LastFor  string `json:"last_by_subj,omitempty"`
	NextFor  string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
	MaxBytes int    `json:"max_bytes,omitempty"`
}

func (m *storedMessage) object() (*object, error) {
	var o object
	if err := json.Unmarshal(m.Message.Data, &o); err != nil {
		return nil, fmt.Errorf("decode object: %w", err)
	}
	o.seq, o.stored = m.Message.Seq, m.Message.Time.UTC()
	return &o, nil
}

// get returns the newest object of a name, which may be a deleted one.
func (b *bucket) get(ctx context.Context, key string) (*object, error) {
	if err := b.checkKey(key); err != nil {
		return nil, err
	}
	var m storedMessage
	err := b.askJSON(ctx, b.api("STREAM.MSG.GET"), getRequest{LastFor: b.metaSubject(key)}, &m)
	if isCode(err, codeNoMessage) {
		return nil, errMissing
	} else if err != nil {
		return nil, err
	}
	return m.object()
}

// live is get for an object that is not deleted.
func (b *bucket) live(ctx context.Context, key string) (*object, error) {
	o, err := b.get(ctx, key)
	if err == nil && o.Deleted {
		return nil, errMissing
	}
	return o, err
}

// getAll returns the newest objects of some names, deleted ones too, with some
// requests under way at a time. A name without an object is left out.
func (b *bucket) getAll(ctx context.Context, keys []string) ([]*object, error) {
	const window = 64
	if len(keys) == 0 {
		return nil, nil
	}
	t, err := b.talk(ctx, b.api("STREAM.MSG.GET"), window)
	if err != nil {
		return nil, err
	}
	defer t.close()
	objects := make([]*object, 0, len(keys))
	for sent, answered := 0, 0; answered < len(keys); answered++ {
		for ; sent < len(keys) && sent-answered < window; sent++ {
			req, err := json.Marshal(getRequest{LastFor: b.metaSubject(keys[sent])})
			if err == nil {
				err = t.send(req)
			}
			if err != nil {
				return nil, err
			}
		}
		msg, err := t.next()
		if err != nil {
			return nil, err
		}
		var m storedMessage
		err = readAnswer(msg.Data, &m)
		if isCode(err, codeNoMessage) {
			continue // deleted meanwhile
		}
		var o *object
		if err == nil {
			o, err = m.object()
		}
		if err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// put makes an object known if the message before on its subject is number
// expect, 0 for none. If it is another one the error has a code of isConflict.
func (b *bucket) put(ctx context.Context, o *object, expect uint64) error {
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode object: %w", err)
	}
	msg, err := b.ask(ctx, &natsgo.Msg{
		Subject: b.metaSubject(o.Name), Data: data,
		Header: natsgo.Header{rollupHeader: {rollupSubject}, expectHeader: {strconv.FormatUint(expect, 10)}},
	})
	if err != nil {
		return err
	}
	return readAnswer(msg.Data, nil)
}

type purgeRequest struct {
	Filter string `json:"filter"`
	Before uint64 `json:"seq,omitempty"` // what is older than it goes
}

// purge removes the messages on a subject: all, or those older than number
// before if that is not 0.
func (b *bucket) purge(ctx context.Context, subject string, before uint64) error {
	return b.askJSON(ctx, b.api("STREAM.PURGE"), purgeRequest{Filter: subject, Before: before}, nil)
}

// removal is an object on its way out, which may take more than one connection.
type removal struct {
	key string
	old *object // nil: not looked up yet
}

// remove deletes an object: first what tells of it, then its chunks. Litestream
// v0.5 leaves a mark in place of what it deleted, and every listing reads all
// marks. Here nothing is left.
func (b *bucket) remove(ctx context.Context, r *removal) error {
	if r.old == nil {
		o, err := b.get(ctx, r.key)
		if errors.Is(err, errMissing) {
			return nil
		} else if err != nil {
			return err
		}
		r.old = o
	}
	// One that was stored meanwhile stays.
	if err := b.purge(ctx, b.metaSubject(r.key), r.old.seq+1); err != nil {
		return err
	}
	if r.old.Deleted || r.old.NUID == "" {
		return nil
	}
	return b.purge(ctx, b.chunkPrefix()+r.old.NUID, 0)
}

type infoRequest struct {
	Offset int    `json:"offset,omitempty"`
	Filter string `json:"subjects_filter"`
}

type infoAnswer struct {
	Total int `json:"total"`
	State struct {
		Subjects map[string]int `json:"subjects"`
	} `json:"state"`
}

// pageOverlap is how much one page of a listing takes in of the page before, in
// names: so many may be deleted between the two without hiding another one.
const pageOverlap = 1000

// subjects returns all subjects below a filter that have messages, sorted and
// without their prefix.
func (b *bucket) subjects(ctx context.Context, prefix, filter string) ([]string, error) {
	found := make(map[string]struct{})
	for offset := 0; ; {
		var a infoAnswer
		if err := b.askJSON(ctx, b.api("STREAM.INFO"), infoRequest{Offset: offset, Filter: filter}, &a); err != nil {
			return nil, err
		}
		for s := range a.State.Subjects {
			found[strings.TrimPrefix(s, prefix)] = struct{}{}
		}
		n := len(a.State.Subjects)
		if offset+n >= a.Total || n <= pageOverlap {
			break
		}
		offset += n - pageOverlap
	}
	names := make([]string, 0, len(found))
	for s := range found {
		names = append(names, s)
	}
	slices.Sort(names)
	return names, nil
}

// keys returns the names of all objects of the bucket, of deleted ones too.
func (b *bucket) keys(ctx context.Context) ([]string, error) {
	names, err := b.subjects(ctx, b.metaPrefix(), b.metaPrefix()+">")
	if err != nil {
		return nil, err
	}
	keys := names[:0]
	for _, name := range names {
		if key, err := base64.URLEncoding.DecodeString(name); err == nil {
			keys = append(keys, string(key))
		}
	}
	return keys, nil
}
