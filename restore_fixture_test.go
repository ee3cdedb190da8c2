package litestream_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// fileKey names an LTX file of a memReplica.
type fileKey struct {
	level    int
	min, max ltx.TXID
}

// memReplica is a replica in memory that tests can damage and disturb.
type memReplica struct {
	mu    sync.Mutex
	files map[fileKey][]byte
	times map[fileKey]time.Time
	lists int
	opens int

	// onList, if set, may leave files out of a listing.
	onList func(info *ltx.FileInfo) (seen bool)

	// onOpen, if set, may replace the answer of OpenLTXFile.
	onOpen func(k fileKey, offset, size int64, r io.ReadCloser) (io.ReadCloser, error)
}

func newMemReplica() *memReplica {
	return &memReplica{files: map[fileKey][]byte{}, times: map[fileKey]time.Time{}}
}

func (c *memReplica) Type() string               { return "mem" }
func (c *memReplica) Init(context.Context) error { return nil }
func (c *memReplica) SetLogger(*slog.Logger)     {}

func (c *memReplica) LTXFiles(_ context.Context, level int, _ ltx.TXID, _ bool) (ltx.FileIterator, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists++
	var a []*ltx.FileInfo
	for k, b := range c.files {
		info := &ltx.FileInfo{Level: level, MinTXID: k.min, MaxTXID: k.max, Size: int64(len(b)), CreatedAt: c.times[k]}
		if k.level == level && (c.onList == nil || c.onList(info)) {
			a = append(a, info)
		}
	}
	return ltx.NewFileInfoSliceIterator(a), nil
}

func (c *memReplica) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k := fileKey{level, minTXID, maxTXID}
	c.mu.Lock()
	c.opens++
	b, ok := c.files[k]
	c.mu.Unlock()
	var rc io.ReadCloser
	err := &litestream.ReplicaError{Type: "mem", Op: "get", Key: ltx.FormatFilename(minTXID, maxTXID), Err: os.ErrNotExist}
	if ok {
		b = b[min(offset, int64(len(b))):]
		if size > 0 {
			b = b[:min(size, int64(len(b)))]
		}
		rc = io.NopCloser(bytes.NewReader(b))
	}
	if c.onOpen != nil {
		return c.onOpen(k, offset, size, rc)
	}
	if !ok {
		return nil, err
	}
	return rc, nil
}

func (c *memReplica) WriteLTXFile(_ context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var hdr ltx.Header
	if err := hdr.UnmarshalBinary(b); err != nil {
		return nil, err
	}
	k := fileKey{level, minTXID, maxTXID}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[k], c.times[k] = b, time.UnixMilli(hdr.Timestamp).UTC()
	return &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID, Size: int64(len(b)), CreatedAt: c.times[k]}, nil
}

func (c *memReplica) DeleteLTXFiles(_ context.Context, a []*ltx.FileInfo) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, info := range a {
		delete(c.files, fileKey{info.Level, info.MinTXID, info.MaxTXID})
	}
	return nil
}

func (c *memReplica) DeleteAll(context.Context) error {
	clear(c.files)
	return nil
}

// source is a real SQLite database whose states are captured as LTX files.
type source struct {
	tb       testing.TB
	db       *sql.DB
	path     string
	client   litestream.ReplicaClient
	pageSize int
	checksum bool
	writer   uint64 // whose number the files carry
	whole    bool   // they hold all pages, whatever changed
	txid     ltx.TXID
	images   map[ltx.TXID][]byte // the database at each position
	start    time.Time
}

func newSource(tb testing.TB, client litestream.ReplicaClient, pageSize int, checksum bool) *source {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "source.db")
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() { db.Close() })
	s := &source{
		tb: tb, db: db, path: path, client: client, pageSize: pageSize, checksum: checksum,
		images: map[ltx.TXID][]byte{}, start: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	s.exec(fmt.Sprintf("PRAGMA page_size=%d", pageSize))
	s.exec("PRAGMA synchronous=off")
	return s
}

func (s *source) exec(query string, args ...any) {
	s.tb.Helper()
	if _, err := s.db.Exec(query, args...); err != nil {
		s.tb.Fatalf("%s: %v", query, err)
	}
}

// timeOf is when a position was captured.
func (s *source) timeOf(txid ltx.TXID) time.Time {
	return s.start.Add(time.Duration(txid) * time.Second)
}

func (s *source) page(image []byte, pgno uint32) []byte {
	if int(pgno)*s.pageSize > len(image) {
		return nil
	}
	return image[int(pgno-1)*s.pageSize:][:s.pageSize]
}

// checksumOf is the database checksum of an image.
func (s *source) checksumOf(image []byte) ltx.Checksum {
	sum, err := ltx.ChecksumReader(bytes.NewReader(image), s.pageSize)
	if err != nil {
		s.tb.Fatal(err)
	}
	return sum
}

// capture stores what changed as the next level-0 file.
func (s *source) capture() ltx.TXID {
	s.tb.Helper()
	image, err := os.ReadFile(s.path)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.txid++
	s.images[s.txid] = image
	s.write(0, s.txid, s.txid)
	return s.txid
}

// write stores the file that leads from min-1 to max on a level.
func (s *source) write(level int, minTXID, maxTXID ltx.TXID) {
	s.tb.Helper()
	b := s.encode(minTXID, maxTXID)
	if _, err := s.client.WriteLTXFile(s.tb.Context(), level, minTXID, maxTXID, bytes.NewReader(b)); err != nil {
		s.tb.Fatal(err)
	}
}

// changed reports whether a page was another one at any position of a range. One
// that changed back is in a merged file, which may be applied from the middle of
// its range on.
func (s *source) changed(pgno uint32, minTXID, maxTXID ltx.TXID) bool {
	for txid := minTXID; txid <= maxTXID; txid++ {
		if !bytes.Equal(s.page(s.images[txid-1], pgno), s.page(s.images[txid], pgno)) {
			return true
		}
	}
	return false
}

func (s *source) encode(minTXID, maxTXID ltx.TXID) []byte {
	s.tb.Helper()
	before, after := s.images[minTXID-1], s.images[maxTXID]
	var buf bytes.Buffer
	enc, err := ltx.NewEncoder(&buf)
	if err != nil {
		s.tb.Fatal(err)
	}
	hdr := ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: uint32(s.pageSize), Commit: uint32(len(after) / s.pageSize),
		MinTXID: minTXID, MaxTXID: maxTXID, Timestamp: s.timeOf(maxTXID).UnixMilli(),
		NodeID: s.writer,
	}
	if s.checksum && (minTXID == 1 || !s.whole) {
		hdr.Flags = 0
		if minTXID > 1 {
			hdr.PreApplyChecksum = s.checksumOf(before)
		}
		enc.SetPostApplyChecksum(s.checksumOf(after))
	}
	if err := enc.EncodeHeader(hdr); err != nil {
		s.tb.Fatal(err)
	}
	for pgno := uint32(1); pgno <= hdr.Commit; pgno++ {
		page := s.page(after, pgno)
		if pgno == hdr.LockPgno() || !s.whole && !s.changed(pgno, minTXID, maxTXID) {
			continue
		}
		if err := enc.EncodePage(ltx.PageHeader{Pgno: pgno}, page); err != nil {
			s.tb.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		s.tb.Fatal(err)
	}
	return buf.Bytes()
}

// fill makes a database that grows, shrinks and changes in n captures.
func (s *source) fill(n int) {
	s.tb.Helper()
	s.exec("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v BLOB)")
	s.exec("CREATE INDEX IF NOT EXISTS t_v ON t (substr(v, 1, 8))")
	for i := range n {
		s.fillKind(i)
	}
}

// fillKind makes one capture of the i-th kind.
func (s *source) fillKind(i int) {
	s.tb.Helper()
	rows := min(max(20, 40*s.pageSize/1024), 800)
	switch i % 5 {
	case 0, 1:
		s.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < ?) INSERT INTO t (v) SELECT randomblob(200) || zeroblob(300) FROM n", rows)
	case 2:
		s.exec("UPDATE t SET v = randomblob(400) WHERE id % 7 = 3")
	case 3:
		s.exec("DELETE FROM t WHERE id % 3 = 1")
	case 4:
		s.exec("VACUUM")
	}
	s.capture()
}

// testOptions returns options that write below the test's folder and do not
// wait long.
func testOptions(tb testing.TB) litestream.RestoreOptions {
	tb.Helper()
	opt := litestream.NewRestoreOptions()
	opt.OutputPath = filepath.Join(tb.TempDir(), "out", "restored.db")
	opt.SetKnobs(litestream.RestoreKnobs{
		ChunkBytes:  4 << 10,
		RetryDelays: []time.Duration{1, 2, 3},
		Stall:       10 * time.Second,
		Replans:     []time.Duration{1, 2, 3},
	})
	return opt
}

// wantNothingLeft checks that a failed restore left no file.
func wantNothingLeft(tb testing.TB, opt litestream.RestoreOptions) {
	tb.Helper()
	names := folderNames(tb, filepath.Dir(opt.OutputPath))
	if len(names) != 0 {
		tb.Errorf("files left by a failed restore: %q", names)
	}
}

func folderNames(tb testing.TB, dir string) (names []string) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		tb.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

// wantImage checks a restored database byte for byte.
func wantImage(tb testing.TB, path string, want []byte) {
	tb.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if len(got) != len(want) {
		tb.Fatalf("restored %d bytes, want %d", len(got), len(want))
	}
	if !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		tb.Fatalf("restored database differs at byte %d", i)
	}
}
