package abs

import (
	"context"
	"crypto/md5" //nolint:gosec // the checksum that the service keeps
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"io/fs"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// The SDK's own UploadStream is not used: it holds every block in memory, also
// of a file, and computes no checksum of the whole.

const contentType = "application/octet-stream"

// blockWorkers is the number of blocks of one file in flight.
const blockWorkers = 4

// crcTable is of the checksum that the service compares with what it received.
var crcTable = crc64.MakeTable(0x9A6C9329AC4BC9B5)

// WriteLTXFile stores a file, replacing one of the same name. What can be read
// at any place (a file) is sent from there; of what cannot, one block is held
// in memory.
func (c *ReplicaClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, false)
}

// WriteLTXFileExclusive stores a file unless one of that name exists
// (If-None-Match). Of any number of writers exactly one succeeds.
func (c *ReplicaClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, true)
}

func (c *ReplicaClient) write(ctx context.Context, info *ltx.FileInfo, r io.Reader, exclusive bool) (*ltx.FileInfo, error) {
	key := c.root().File(info.Level, info.MinTXID, info.MaxTXID)
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	src, hdr, err := blob.NewSource(r)
	if err != nil {
		return nil, s.fail("put", key, err)
	}
	info.CreatedAt = time.UnixMilli(hdr.Timestamp).UTC()
	timestamp := info.CreatedAt.Format(time.RFC3339Nano)

	began := time.Now()
	u := upload{session: s, key: key, exclusive: exclusive, metadata: map[string]*string{MetadataTimestampKey: &timestamp}}
	info.Size, err = u.send(ctx, src)
	if err != nil {
		s.observe("PUT", 0, began, err)
		return nil, s.wrap("put", key, err)
	}
	s.observe("PUT", info.Size, began, nil)
	return info, nil
}

// upload is one blob on its way.
type upload struct {
	*session
	key       string
	exclusive bool
	metadata  map[string]*string
}

// conditions returns what keeps an exclusive upload from replacing a blob.
func (u *upload) conditions() *azblob.AccessConditions {
	if !u.exclusive {
		return nil
	}
	etag := azcore.ETagAny
	return &azblob.AccessConditions{ModifiedAccessConditions: &azblob.ModifiedAccessConditions{IfNoneMatch: &etag}}
}

// headers returns what the service keeps beside the content. With the checksum
// of the whole a reader can tell that it was read right.
func headers(sum []byte) *azblob.HTTPHeaders {
	ct := contentType
	return &azblob.HTTPHeaders{BlobContentType: &ct, BlobContentMD5: sum}
}

// accessTier is that of every blob, as Litestream v0.5 sets it.
func accessTier() *azblob.AccessTier {
	tier := azblob.AccessTierHot
	return &tier
}

// send stores the source as one blob and returns its size.
func (u *upload) send(ctx context.Context, src blob.Source) (int64, error) {
	if src.Section != nil {
		if src.Section.Size() < u.BlockSize {
			return src.Section.Size(), u.put(ctx, src.Section)
		}
		return src.Section.Size(), u.sendSection(ctx, src.Section)
	}
	return u.sendStream(ctx, src.Stream)
}

// put stores a blob with a single request. The service compares the MD5 and
// keeps it; it takes no other checksum beside it.
func (u *upload) put(ctx context.Context, section *io.SectionReader) error {
	sum := md5.New() //nolint:gosec // against accidents
	if err := readInto(sum, section); err != nil {
		return err
	}
	_, err := u.blob(u.key).Upload(ctx, body(section), &blockblob.UploadOptions{
		Metadata:                u.metadata,
		Tier:                    accessTier(),
		HTTPHeaders:             headers(nil),
		AccessConditions:        u.conditions(),
		TransactionalValidation: azblob.TransferValidationTypeMD5(sum.Sum(nil)),
	})
	return err
}

// sendSection stores what can be read at any place in blocks, several at a time.
func (u *upload) sendSection(ctx context.Context, section *io.SectionReader) error {
	size := max(u.BlockSize, (section.Size()+maxBlocks-1)/maxBlocks)
	n := int((section.Size() + size - 1) / size)
	ids := newBlockIDs()
	err := blob.Each(ctx, n, blockWorkers, func(ctx context.Context, i int) error {
		off := int64(i) * size
		return u.stage(ctx, ids.id(i), io.NewSectionReader(section, off, min(size, section.Size()-off)))
	}, func(error) bool { return true })
	if err != nil {
		return err
	}
	sum := md5.New() //nolint:gosec // against accidents
	if err := readInto(sum, section); err != nil {
		return err
	}
	return u.commit(ctx, ids.first(n), sum)
}

// sendStream stores what can be read once, block by block, and returns the size.
func (u *upload) sendStream(ctx context.Context, r io.Reader) (size int64, err error) {
	var (
		buf = make([]byte, 0, min(u.BlockSize, 64<<10))
		sum = md5.New() //nolint:gosec // against accidents
		ids = newBlockIDs()
	)
	for n := 0; ; n++ {
		// The first block tells by its length whether there is another one, so
		// that a small stream is a single request.
		if buf, err = readBlock(r, buf, u.blockSize(n)); err != nil {
			return 0, fmt.Errorf("read file: %w", err)
		}
		block := io.NewSectionReader(readerAt(buf), 0, int64(len(buf)))
		size += block.Size()
		if n == 0 && block.Size() < u.BlockSize {
			return size, u.put(ctx, block)
		}
		if block.Size() == 0 {
			return size, u.commit(ctx, ids.first(n), sum)
		}
		_, _ = sum.Write(buf) // a hash never fails
		if n == maxBlocks {
			return 0, fmt.Errorf("blob has more than %d blocks", maxBlocks)
		}
		if err := u.stage(ctx, ids.id(n), block); err != nil {
			return 0, err
		}
	}
}

// growEvery is the number of blocks after which those of a stream grow by
// another block size: 8 MiB lead to 20 TB instead of 400 GB.
const growEvery = 500

func (u *upload) blockSize(n int) int64 { return u.BlockSize * int64(1+n/growEvery) }

// readBlock fills buf with up to size bytes, and grows it no more than needed.
func readBlock(r io.Reader, buf []byte, size int64) ([]byte, error) {
	buf = buf[:0]
	for int64(len(buf)) < size {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(max(2*int64(cap(buf)), 64<<10), size))
			copy(grown, buf)
			buf = grown
		}
		n, err := r.Read(buf[len(buf):min(int64(cap(buf)), size)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		} else if err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// stage sends one block, which is nothing that anybody can read. The service
// drops those that are not committed within a week.
func (u *upload) stage(ctx context.Context, id string, block *io.SectionReader) error {
	crc := crc64.New(crcTable)
	if err := readInto(crc, block); err != nil {
		return err
	}
	_, err := u.blob(u.key).StageBlock(ctx, id, body(block), &blockblob.StageBlockOptions{
		TransactionalValidation: azblob.TransferValidationTypeCRC64(crc.Sum64()),
	})
	return err
}

// commit makes the blob of its blocks.
func (u *upload) commit(ctx context.Context, ids []string, sum hash.Hash) error {
	_, err := u.blob(u.key).CommitBlockList(ctx, ids, &blockblob.CommitBlockListOptions{
		Metadata:         u.metadata,
		Tier:             accessTier(),
		HTTPHeaders:      headers(sum.Sum(nil)),
		AccessConditions: u.conditions(),
	})
	if u.exclusive && errorCode(err) == codeInvalidBlockList {
		// Whoever stores a blob drops the blocks that others have staged for
		// it. This one came second.
		if _, headErr := u.blob(u.key).GetProperties(ctx, nil); headErr == nil {
			return &litestream.ReplicaError{
				Type: ReplicaClientType, Op: "put", Bucket: u.Bucket, Key: u.key, Code: codeInvalidBlockList,
				Err: fmt.Errorf("%w: %w", fs.ErrExist, simplify(err)),
			}
		}
	}
	return err
}

// blockIDs names the blocks of one upload. Two uploads of one blob must not
// share names, or they would overwrite each other's blocks.
type blockIDs [16]byte

func newBlockIDs() (ids blockIDs) {
	_, _ = rand.Read(ids[:]) // it never fails
	return ids
}

func (ids blockIDs) id(i int) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(ids[:], uint32(i)))
}

func (ids blockIDs) first(n int) []string {
	a := make([]string, n)
	for i := range a {
		a[i] = ids.id(i)
	}
	return a
}

// readerAt are bytes that can be read at any place.
type readerAt []byte

// ReadAt copies from an offset.
func (b readerAt) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// body returns the section for a request, which rewinds it to send it again.
func body(section *io.SectionReader) io.ReadSeekCloser {
	return streaming.NopCloser(io.NewSectionReader(section, 0, section.Size()))
}

func readInto(w io.Writer, section *io.SectionReader) error {
	if _, err := io.Copy(w, io.NewSectionReader(section, 0, section.Size())); err != nil {
		return fmt.Errorf("read file: %w", err)
	}
	return nil
}
