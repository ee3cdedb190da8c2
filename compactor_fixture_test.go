package litestream_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

const fixturePageSize = 512

// errCrash is what a crashReplica answers from the chosen call on.
var errCrash = errors.New("crash")

// replicaFile is one object. Its content is decoded once, when it is written.
type replicaFile struct {
	info  ltx.FileInfo
	data  []byte
	hdr   ltx.Header
	post  ltx.Checksum
	pages map[uint32]uint64
}

// fixtureReplica keeps objects in memory, counts requests and can fail.
type fixtureReplica struct {
	tb  testing.TB
	now func() time.Time

	// uploadTime makes listings show when a file was uploaded, as S3 does;
	// otherwise they show the header's timestamp, as the file backend does.
	uploadTime bool

	mu             sync.Mutex
	files          map[string]*replicaFile
	lists, gets    int
	puts, delCalls int
	deletesLeft    int // deletions until the crash; negative is never
	failPut        error
	unseen         string // file that the next listing of its level leaves out
}

func newFixtureReplica(tb testing.TB, now func() time.Time) *fixtureReplica {
	tb.Helper()
	return &fixtureReplica{tb: tb, now: now, files: map[string]*replicaFile{}, deletesLeft: -1}
}

func fixtureKey(level int, minTXID, maxTXID ltx.TXID) string {
	return fmt.Sprintf("%d/%s", level, ltx.FormatFilename(minTXID, maxTXID))
}

func (r *fixtureReplica) Type() string                    { return "mem" }
func (r *fixtureReplica) Init(context.Context) error      { return nil }
func (r *fixtureReplica) SetLogger(*slog.Logger)          {}
func (r *fixtureReplica) DeleteAll(context.Context) error { clear(r.files); return nil }

func (r *fixtureReplica) LTXFiles(_ context.Context, level int, seek ltx.TXID, _ bool) (ltx.FileIterator, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists++
	var a []*ltx.FileInfo
	for key, f := range r.files {
		if f.info.Level == level && f.info.MinTXID >= seek {
			if key == r.unseen {
				r.unseen = ""
				continue
			}
			info := f.info
			a = append(a, &info)
		}
	}
	return ltx.NewFileInfoSliceIterator(a), nil
}

func (r *fixtureReplica) OpenLTXFile(_ context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gets++
	f := r.files[fixtureKey(level, minTXID, maxTXID)]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	data := f.data[offset:]
	if size > 0 {
		data = data[:size]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (r *fixtureReplica) WriteLTXFile(_ context.Context, level int, minTXID, maxTXID ltx.TXID, body io.Reader) (*ltx.FileInfo, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.puts++
	if r.failPut != nil {
		return nil, r.failPut
	}
	f := decodeFixture(r.tb, data)
	if f.hdr.MinTXID != minTXID || f.hdr.MaxTXID != maxTXID {
		r.tb.Fatalf("header %d-%d written as %d-%d", f.hdr.MinTXID, f.hdr.MaxTXID, minTXID, maxTXID)
	}
	f.info = ltx.FileInfo{
		Level: level, MinTXID: minTXID, MaxTXID: maxTXID, Size: int64(len(data)),
		CreatedAt: time.UnixMilli(f.hdr.Timestamp).UTC(),
	}
	info := f.info
	if r.uploadTime {
		f.info.CreatedAt = r.now()
	}
	r.files[fixtureKey(level, minTXID, maxTXID)] = f
	return &info, nil
}

func (r *fixtureReplica) DeleteLTXFiles(_ context.Context, a []*ltx.FileInfo) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delCalls++
	for _, info := range a {
		if r.deletesLeft == 0 {
			return errCrash
		}
		r.deletesLeft--
		delete(r.files, fixtureKey(info.Level, info.MinTXID, info.MaxTXID))
	}
	return nil
}

// requests returns how many requests were made since the last call.
func (r *fixtureReplica) requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.lists + r.gets + r.puts + r.delCalls
	r.lists, r.gets, r.puts, r.delCalls = 0, 0, 0, 0
	return n
}

// names returns the objects of a level as "min-max", in order.
func (r *fixtureReplica) names(level int) []string {
	infos := []*ltx.FileInfo{}
	for _, f := range r.files {
		if f.info.Level == level {
			infos = append(infos, &f.info)
		}
	}
	itr := ltx.NewFileInfoSliceIterator(infos)
	names := []string{}
	for itr.Next() {
		names = append(names, fmt.Sprintf("%d-%d", itr.Item().MinTXID, itr.Item().MaxTXID))
	}
	return names
}

// listing is every level of the replica.
type listing [litestream.SnapshotLevel + 1][]*ltx.FileInfo

func (r *fixtureReplica) listing() (levels listing) {
	for _, f := range r.files {
		levels[f.info.Level] = append(levels[f.info.Level], &f.info)
	}
	for _, infos := range levels {
		ltx.NewFileInfoSliceIterator(infos) // sorts in place
	}
	return levels
}

// plan returns the files that a restore to txid reads; nil if none leads there.
func (r *fixtureReplica) plan(levels listing, txid ltx.TXID) (chain []*replicaFile) {
	infos, err := litestream.PlanRestore(levels, txid, time.Time{})
	if err != nil {
		return nil
	}
	for _, info := range infos {
		chain = append(chain, r.files[fixtureKey(info.Level, info.MinTXID, info.MaxTXID)])
	}
	return chain
}

// restoreChain applies files and returns the pages, by what was written into
// them.
func restoreChain(chain []*replicaFile) []uint64 {
	var db []uint64
	for _, f := range chain {
		n := int(f.hdr.Commit)
		for len(db) < n {
			db = append(db, 0)
		}
		db = db[:n]
		for pgno, v := range f.pages {
			db[pgno-1] = v
		}
	}
	return db
}

func decodeFixture(tb testing.TB, data []byte) *replicaFile {
	tb.Helper()
	dec := ltx.NewDecoder(bytes.NewReader(data))
	if err := dec.DecodeHeader(); err != nil {
		tb.Fatalf("decode header: %v", err)
	}
	f := &replicaFile{data: data, hdr: dec.Header(), pages: map[uint32]uint64{}}
	page := make([]byte, f.hdr.PageSize)
	for {
		var h ltx.PageHeader
		if err := dec.DecodePage(&h, page); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			tb.Fatalf("decode page: %v", err)
		}
		f.pages[h.Pgno] = binary.BigEndian.Uint64(page)
	}
	if err := dec.Close(); err != nil {
		tb.Fatalf("close decoder: %v", err)
	}
	f.post = dec.Trailer().PostApplyChecksum
	return f
}

// fixtureDB is a database of numbers, one per page, with its whole history.
type fixtureDB struct {
	history [][]uint64 // by TXID
	next    uint64
}

func (db *fixtureDB) txid() ltx.TXID { return ltx.TXID(len(db.history)) }

func (db *fixtureDB) at(txid ltx.TXID) []uint64 {
	if txid == 0 {
		return nil
	}
	return db.history[txid-1]
}

// commit writes some pages and resizes the database to size pages.
func (db *fixtureDB) commit(size int, pgnos ...int) {
	now := slices.Clone(db.at(db.txid()))
	for len(now) < size {
		pgnos = append(pgnos, len(now)+1)
		now = append(now, 0)
	}
	now = now[:size]
	for _, pgno := range pgnos {
		if pgno <= size {
			db.next++
			now[pgno-1] = db.next
		}
	}
	db.history = append(db.history, now)
}

// randomCommit changes, grows or shrinks the database.
func (db *fixtureDB) randomCommit(rng *rand.Rand) {
	size := max(len(db.at(db.txid())), 1)
	switch rng.IntN(6) {
	case 0:
		size += rng.IntN(5)
	case 1:
		size -= rng.IntN(size)
	}
	var pgnos []int
	for range 1 + rng.IntN(3) {
		pgnos = append(pgnos, 1+rng.IntN(size))
	}
	db.commit(min(size, 20), pgnos...)
}

func fixturePage(v uint64) []byte {
	page := make([]byte, fixturePageSize)
	binary.BigEndian.PutUint64(page, v)
	return page
}

func fixtureChecksum(pages []uint64) ltx.Checksum {
	var sum ltx.Checksum
	for i, v := range pages {
		sum ^= ltx.ChecksumPage(uint32(i+1), fixturePage(v))
	}
	return sum | ltx.ChecksumFlag
}

// ltx encodes the range first to last; a range from 1 holds every page.
func (db *fixtureDB) ltx(tb testing.TB, first, last ltx.TXID, at time.Time, checksums bool) []byte {
	tb.Helper()
	var buf bytes.Buffer
	enc, err := ltx.NewEncoder(&buf)
	if err != nil {
		tb.Fatal(err)
	}
	before, after := db.at(first-1), db.at(last)
	hdr := ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: fixturePageSize,
		Commit: uint32(len(after)), MinTXID: first, MaxTXID: last, Timestamp: at.UnixMilli(),
		WALOffset: 32, WALSize: 536, WALSalt1: 1, WALSalt2: 2,
	}
	if checksums {
		hdr.Flags = 0
		if first > 1 {
			hdr.PreApplyChecksum = fixtureChecksum(before)
		}
	}
	if err := enc.EncodeHeader(hdr); err != nil {
		tb.Fatal(err)
	}
	for i, v := range after {
		if first > 1 && i < len(before) && before[i] == v {
			continue
		}
		if err := enc.EncodePage(ltx.PageHeader{Pgno: uint32(i + 1)}, fixturePage(v)); err != nil {
			tb.Fatal(err)
		}
	}
	if checksums {
		enc.SetPostApplyChecksum(fixtureChecksum(after))
	}
	if err := enc.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// upload puts a file on the replica and returns what was stored.
func (db *fixtureDB) upload(tb testing.TB, r litestream.ReplicaClient, level int, data []byte) *ltx.FileInfo {
	tb.Helper()
	hdr, _, err := ltx.DecodeHeader(bytes.NewReader(data))
	if err != nil {
		tb.Fatal(err)
	}
	info, err := r.WriteLTXFile(tb.Context(), level, hdr.MinTXID, hdr.MaxTXID, bytes.NewReader(data))
	if err != nil {
		tb.Fatal(err)
	}
	return info
}

// put replaces an object by bytes that need not be an LTX file.
func (r *fixtureReplica) put(level int, minTXID, maxTXID ltx.TXID, data []byte) {
	f := *r.files[fixtureKey(level, minTXID, maxTXID)]
	f.data, f.info.Size = data, int64(len(data))
	r.files[fixtureKey(level, minTXID, maxTXID)] = &f
}
