package gs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

const contentType = "application/octet-stream"

// WriteLTXFile stores a file, replacing one of the same name. What can be read
// at any place (a file) is sent from there; of what cannot, ChunkSize bytes are
// held in memory.
func (c *ReplicaClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, false)
}

// WriteLTXFileExclusive stores a file unless one of that name exists
// (ifGenerationMatch=0). Of any number of writers exactly one succeeds.
func (c *ReplicaClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, true)
}

func (c *ReplicaClient) write(ctx context.Context, info *ltx.FileInfo, r io.Reader, exclusive bool) (*ltx.FileInfo, error) {
	key := c.root().File(info.Level, info.MinTXID, info.MaxTXID)
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	src, hdr, err := blob.NewSource(r)
	if err != nil {
		return nil, s.fail("put", key, err)
	}
	info.CreatedAt = time.UnixMilli(hdr.Timestamp).UTC()

	began := time.Now()
	u := upload{
		session: s, key: key, exclusive: exclusive,
		metadata: map[string]string{MetadataTimestampKey: info.CreatedAt.Format(time.RFC3339Nano)},
	}
	info.Size, err = u.send(ctx, src)
	if err != nil {
		s.observe("PUT", 0, began, err)
		return nil, s.wrap("put", key, err)
	}
	s.observe("PUT", info.Size, began, nil)
	return info, nil
}

// upload is one object on its way.
type upload struct {
	*session
	key       string
	exclusive bool
	metadata  map[string]string
}

// send stores the source as one object and returns its size.
func (u *upload) send(ctx context.Context, src blob.Source) (int64, error) {
	if src.Section != nil {
		if src.Section.Size() < u.ChunkSize {
			return src.Section.Size(), u.put(ctx, src.Section)
		}
		return src.Section.Size(), u.sendSection(ctx, src.Section)
	}
	var first bytes.Buffer
	n, err := io.CopyN(&first, src.Stream, u.ChunkSize)
	if errors.Is(err, io.EOF) {
		return n, u.put(ctx, io.NewSectionReader(bytes.NewReader(first.Bytes()), 0, n))
	} else if err != nil {
		return 0, fmt.Errorf("read file: %w", err)
	}
	return u.sendStream(ctx, first.Bytes(), src.Stream)
}

// put stores an object with a single request, which holds its metadata, its
// checksum and its content.
func (u *upload) put(ctx context.Context, section *io.SectionReader) error {
	sum, err := checksum(section)
	if err != nil {
		return err
	}
	resource, err := u.resource(&sum)
	if err != nil {
		return err
	}
	boundary := rand.Text() // what an application stores cannot hold it
	head := fmt.Sprintf("--%s\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n%s\r\n--%s\r\nContent-Type: %s\r\n\r\n",
		boundary, resource, boundary, contentType)
	tail := "\r\n--" + boundary + "--\r\n"
	r := &request{
		method: http.MethodPost,
		url:    u.insertURL("multipart"),
		header: http.Header{"Content-Type": {"multipart/related; boundary=" + boundary}},
		size:   int64(len(head)) + section.Size() + int64(len(tail)),
		body: func() io.Reader {
			return io.MultiReader(bytes.NewReader([]byte(head)), io.NewSectionReader(section, 0, section.Size()), bytes.NewReader([]byte(tail)))
		},
	}
	var obj object
	if err := u.conn.call(ctx, r, &obj); err != nil {
		return err
	}
	return obj.check(section.Size(), sum)
}

// insertURL returns the URL that makes the object.
func (u *upload) insertURL(uploadType string) string {
	query := url.Values{"uploadType": {uploadType}, "fields": {"name,size,crc32c,generation"}}
	if u.exclusive {
		query.Set("ifGenerationMatch", "0")
	}
	return u.conn.base + "/upload/storage/v1/b/" + url.PathEscape(u.Bucket) + "/o?" + query.Encode()
}

// resource returns the JSON that describes the object. The service refuses
// content that does not have the checksum.
func (u *upload) resource(sum *uint32) ([]byte, error) {
	doc := struct {
		Name        string            `json:"name"`
		ContentType string            `json:"contentType"`
		CRC32C      string            `json:"crc32c,omitempty"`
		Metadata    map[string]string `json:"metadata,omitempty"`
	}{Name: u.key, ContentType: contentType, Metadata: u.metadata}
	if sum != nil {
		doc.CRC32C = encodeChecksum(*sum)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode object: %w", err)
	}
	return b, nil
}

// check compares what the service stored with what was sent. A proxy that
// answers 200 by itself names no object.
func (obj *object) check(size int64, sum uint32) error {
	switch {
	case obj.Name == "":
		return errors.New("server's answer names no object")
	case obj.Size != size:
		return fmt.Errorf("server stored %s bytes of %d", strconv.FormatInt(obj.Size, 10), size)
	case obj.CRC32C != "" && obj.CRC32C != encodeChecksum(sum):
		return fmt.Errorf("server stored content with checksum %s, sent was %s", obj.CRC32C, encodeChecksum(sum))
	}
	return nil
}

// checksum reads a section for its checksum.
func checksum(section *io.SectionReader) (uint32, error) {
	h := crc32.New(crcTable)
	if _, err := io.Copy(h, io.NewSectionReader(section, 0, section.Size())); err != nil {
		return 0, fmt.Errorf("read file: %w", err)
	}
	return h.Sum32(), nil
}

func encodeChecksum(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}
