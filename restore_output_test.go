package litestream_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc64"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pierrec/lz4/v4"
	"github.com/superfly/ltx"
	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/pagesum"
)

func TestCheckRestoreOutput(t *testing.T) {
	for _, tt := range []struct {
		name   string
		make   map[string]string // files by suffix of the output path; "/" makes a folder
		normal string            // part of the error; none if empty
		forced string
	}{
		{name: "nothing there"},
		{name: "database", make: map[string]string{"": "x"}, normal: "x.db (restore to another path, or replace it with -force)"},
		{name: "empty file", make: map[string]string{"": ""}},
		{name: "folder", make: map[string]string{"/": ""}, normal: "is a directory", forced: "is a directory"},
		{name: "wal", make: map[string]string{"-wal": ""}, normal: "x.db-wal was left by SQLite"},
		{name: "shm", make: map[string]string{"-shm": ""}, normal: "x.db-shm was left by SQLite"},
		{name: "journal beside an empty file", make: map[string]string{"": "", "-journal": "x"}, normal: "x.db-journal was left by SQLite"},
		{name: "temporary file of a killed restore", make: map[string]string{".tmp": "x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			for suffix, content := range tt.make {
				if suffix == "/" {
					if err := os.Mkdir(path, 0o755); err != nil {
						t.Fatal(err)
					}
				} else if err := os.WriteFile(path+suffix, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for force, want := range map[bool]string{false: tt.normal, true: tt.forced} {
				err := litestream.CheckRestoreOutput(path, force)
				if want == "" {
					if err != nil {
						t.Errorf("force=%t: %v", force, err)
					}
				} else if !errors.Is(err, litestream.ErrOutputExists) || !strings.Contains(err.Error(), want) {
					t.Errorf("force=%t: err=%v, want ErrOutputExists with %q", force, err, want)
				}
			}
		})
	}
}

func TestRestore_Force(t *testing.T) {
	client, s := damagedReplica(t, false)
	opt := testOptions(t)
	dir := filepath.Dir(opt.OutputPath)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	old := []string{"restored.db", "restored.db-journal", "restored.db-shm", "restored.db-wal"}
	for _, name := range old {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := litestream.Restore(t.Context(), client, opt); !errors.Is(err, litestream.ErrOutputExists) {
		t.Errorf("err=%v, want ErrOutputExists", err)
	}
	opt.Force = true

	// What is replaced stays until its successor is complete.
	k := fileKey{9, 1, 2}
	client.files[k][60] ^= 1
	if _, err := litestream.Restore(t.Context(), client, opt); err == nil {
		t.Error("damaged file: no error")
	}
	if got := folderNames(t, dir); !cmp.Equal(got, old) {
		t.Errorf("files after a failure=%q, want %q", got, old)
	}
	client.files[k][60] ^= 1
	if _, err := litestream.Restore(t.Context(), client, opt); err != nil {
		t.Fatal(err)
	}
	wantImage(t, opt.OutputPath, s.images[s.txid])
	if got, want := folderNames(t, dir), []string{"restored.db"}; !cmp.Equal(got, want) {
		t.Errorf("files=%q, want %q", got, want)
	}
}

func TestRestore_ModeFollowsUmask(t *testing.T) {
	umask := syscall.Umask(0o027)
	defer syscall.Umask(umask)
	client, _ := damagedReplica(t, false)
	opt := testOptions(t)
	if _, err := litestream.Restore(t.Context(), client, opt); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(opt.OutputPath)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), os.FileMode(0o640); got != want {
		t.Errorf("mode=%s, want %s", got, want)
	}
}

func TestRestore_DiskFull(t *testing.T) {
	client, _ := damagedReplica(t, false)
	plan, err := litestream.CalcRestorePlan(t.Context(), client, 0, time.Time{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	err = litestream.ApplyPlan(t.Context(), client, plan, full)
	if !errors.Is(err, litestream.ErrDiskFull) || !strings.HasPrefix(err.Error(), "write restored database: ") {
		t.Errorf("err=%v, want ErrDiskFull", err)
	}
}

func TestRestore_RefusesLinkedTemporary(t *testing.T) {
	client, _ := damagedReplica(t, false)
	opt := testOptions(t)
	if err := os.MkdirAll(filepath.Dir(opt.OutputPath), 0o755); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, opt.OutputPath+".tmp"); err != nil {
		t.Fatal(err)
	}
	if _, err := litestream.Restore(t.Context(), client, opt); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("err=%v, want ELOOP", err)
	}
	wantImage(t, victim, []byte("data"))
}

func TestRestore_TakesOverKilledRestore(t *testing.T) {
	client, s := damagedReplica(t, false)
	opt := testOptions(t)
	if err := os.MkdirAll(filepath.Dir(opt.OutputPath), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(opt.OutputPath + ".tmp")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte("garbage"), 1<<18)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := litestream.Restore(t.Context(), client, opt); err == nil || !strings.Contains(err.Error(), "another restore to") {
		t.Errorf("err=%v, want another restore", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if _, err := litestream.Restore(t.Context(), client, opt); err != nil {
		t.Fatal(err)
	}
	wantImage(t, opt.OutputPath, s.images[s.txid])
}

// rawFile encodes pages as they are, whatever they are.
func rawFile(t *testing.T, hdr ltx.Header, pages map[uint32][]byte, post ltx.Checksum) []byte {
	t.Helper()
	var buf bytes.Buffer
	enc, err := ltx.NewEncoder(&buf)
	if err != nil {
		t.Fatal(err)
	}
	hdr.Version = ltx.Version
	if err := enc.EncodeHeader(hdr); err != nil {
		t.Fatal(err)
	}
	for pgno := uint32(1); pgno <= hdr.Commit; pgno++ {
		if page := pages[pgno]; page != nil {
			if err := enc.EncodePage(ltx.PageHeader{Pgno: pgno}, page); err != nil {
				t.Fatal(err)
			}
		}
	}
	enc.SetPostApplyChecksum(post)
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestRestore_RefusesBadStates(t *testing.T) {
	page := make([]byte, 512)
	copy(page, "SQLite format 3\x00")
	no := ltx.HeaderFlagNoChecksum
	sum := ltx.ChecksumPage(1, page)
	for _, tt := range []struct {
		name string
		raw  [][]byte
		err  error
		want string
	}{
		{name: "empty database", err: litestream.ErrEmptyDatabase, want: "no pages", raw: [][]byte{rawFile(t, ltx.Header{PageSize: 512, MinTXID: 1, MaxTXID: 1}, nil, ltx.ChecksumFlag)}},
		{name: "no database", err: litestream.ErrNotDatabase, want: "page 1", raw: [][]byte{rawFile(t, ltx.Header{Flags: no, PageSize: 512, Commit: 1, MinTXID: 1, MaxTXID: 1}, map[uint32][]byte{1: make([]byte, 512)}, 0)}},
		{name: "page missing after growth", want: "page 3 of 4 is in no file", raw: [][]byte{
			rawFile(t, ltx.Header{Flags: no, PageSize: 512, Commit: 2, MinTXID: 1, MaxTXID: 1}, map[uint32][]byte{1: page, 2: page}, 0),
			rawFile(t, ltx.Header{Flags: no, PageSize: 512, Commit: 4, MinTXID: 2, MaxTXID: 2}, map[uint32][]byte{4: page}, 0),
		}},
		{name: "page size changes", want: "page size 512, the newest file has 1024", raw: [][]byte{
			rawFile(t, ltx.Header{Flags: no, PageSize: 512, Commit: 1, MinTXID: 1, MaxTXID: 1}, map[uint32][]byte{1: page}, 0),
			rawFile(t, ltx.Header{Flags: no, PageSize: 1024, Commit: 2, MinTXID: 2, MaxTXID: 2}, map[uint32][]byte{2: make([]byte, 1024)}, 0),
		}},
		{name: "database checksum", want: "restored database has checksum", raw: [][]byte{
			rawFile(t, ltx.Header{PageSize: 512, Commit: 1, MinTXID: 1, MaxTXID: 1}, map[uint32][]byte{1: page}, sum),
			rawFile(t, ltx.Header{PageSize: 512, Commit: 2, MinTXID: 2, MaxTXID: 2, PreApplyChecksum: sum}, map[uint32][]byte{2: page}, sum),
		}},
		{name: "another history", want: "expects a database of checksum", raw: [][]byte{
			rawFile(t, ltx.Header{PageSize: 512, Commit: 1, MinTXID: 1, MaxTXID: 1}, map[uint32][]byte{1: page}, sum),
			rawFile(t, ltx.Header{PageSize: 512, Commit: 2, MinTXID: 2, MaxTXID: 2, PreApplyChecksum: sum ^ 1}, map[uint32][]byte{2: page},
				ltx.ChecksumFlag|(sum^ltx.ChecksumPage(2, page))),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := newMemReplica()
			for i, b := range tt.raw {
				if _, err := client.WriteLTXFile(t.Context(), 0, ltx.TXID(i+1), ltx.TXID(i+1), bytes.NewReader(b)); err != nil {
					t.Fatal(err)
				}
			}
			opt := testOptions(t)
			_, err := litestream.Restore(t.Context(), client, opt)
			var le *litestream.LTXError
			if !errors.As(err, &le) || !strings.Contains(err.Error(), tt.want) || (tt.err != nil && !errors.Is(err, tt.err)) {
				t.Errorf("err=%v, want an LTXError with %q", err, tt.want)
			}
			wantNothingLeft(t, opt)
		})
	}
}

func TestRestore_IntegrityCheck(t *testing.T) {
	client := newMemReplica()
	s := newSource(t, client, 1024, false)
	s.exec("PRAGMA journal_mode=wal") // the flag stays in the header
	s.fill(2)
	s.exec("PRAGMA wal_checkpoint(truncate)")
	s.capture()
	for _, mode := range []litestream.IntegrityCheckMode{litestream.IntegrityCheckQuick, litestream.IntegrityCheckFull} {
		opt := testOptions(t)
		opt.OutputPath = filepath.Join(filepath.Dir(opt.OutputPath), "odd?name#100%.db")
		opt.IntegrityCheck = mode
		if _, err := litestream.Restore(t.Context(), client, opt); err != nil {
			t.Fatal(err)
		}
		if got, want := folderNames(t, filepath.Dir(opt.OutputPath)), []string{filepath.Base(opt.OutputPath)}; !cmp.Equal(got, want) {
			t.Errorf("files=%q, want %q", got, want)
		}
	}

	image := slices.Clone(s.images[s.txid])
	for i := 3 * 1024; i < 8*1024; i++ {
		image[i] ^= 0x55
	}
	s.txid++
	s.images[s.txid] = image
	s.write(0, s.txid, s.txid)
	for _, mode := range []string{"none", "quick", "full"} {
		opt := testOptions(t)
		var err error
		if opt.IntegrityCheck, err = litestream.ParseIntegrityCheckMode(mode); err != nil {
			t.Fatal(err)
		}
		_, err = litestream.Restore(t.Context(), client, opt)
		if mode == "none" {
			if err != nil {
				t.Errorf("unchecked: %v", err)
			}
			continue
		}
		if !errors.Is(err, litestream.ErrIntegrity) {
			t.Errorf("%s: err=%v, want ErrIntegrity", mode, err)
		}
		wantNothingLeft(t, opt)
	}
	if _, err := litestream.ParseIntegrityCheckMode("deep"); err == nil {
		t.Error("unknown mode: no error")
	}
}

func TestRestore_Progress(t *testing.T) {
	client, _ := damagedReplica(t, false)
	opt := testOptions(t)
	var mu sync.Mutex
	var got []litestream.RestoreProgress
	opt.Progress = func(p litestream.RestoreProgress) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, p)
	}
	res, err := litestream.Restore(t.Context(), client, opt)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, info := range res.Plan {
		total += info.Size
	}
	want := litestream.RestoreProgress{Phase: litestream.RestoreDone, BytesDone: total, BytesTotal: total, Files: len(res.Plan)}
	if len(got) == 0 || got[len(got)-1] != want {
		t.Errorf("progress=%v, want it to end with %v", got, want)
	}
}

// frameFile encodes a file from finished frames, which the library cannot.
// frame returns a page's flags, the bytes between page number and page as the
// file's checksum covers them, its payload, and the page.
func frameFile(t *testing.T, hdr ltx.Header, frame func(pgno uint32) (flags uint16, length, payload, page []byte)) []byte {
	t.Helper()
	hdr.Version = ltx.Version
	b, err := hdr.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	table := crc64.MakeTable(crc64.ISO)
	crc := crc64.Update(0, table, b)
	var index, last []byte
	var lastCRC uint64
	for pgno := uint32(1); pgno <= hdr.Commit; pgno++ {
		if pgno == hdr.LockPgno() {
			continue
		}
		offset := len(b)
		flags, length, payload, page := frame(pgno)
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(b, pgno), flags)
		b = append(b, length...)
		crc = crc64.Update(crc, table, b[offset:])
		if last == nil || &page[0] != &last[0] { // a page that repeats costs nothing
			last, lastCRC = page, crc64.Checksum(page, table)
		}
		crc = litestream.JoinCRC(crc, lastCRC, int64(len(page)))
		b = append(b, payload...)
		for _, v := range []uint64{uint64(pgno), uint64(offset), uint64(len(b) - offset)} {
			index = binary.AppendUvarint(index, v)
		}
	}
	index = append(index, 0)
	end := append(make([]byte, ltx.PageHeaderSize), index...)
	end = binary.BigEndian.AppendUint64(end, uint64(len(index)))
	end = binary.BigEndian.AppendUint64(end, 0) // post-apply checksum
	crc = crc64.Update(crc, table, end)
	return binary.BigEndian.AppendUint64(append(b, end...), crc|1<<63)
}

// TestRestore_LockPage restores a database on both sides of the page that
// SQLite never uses. Its pages repeat, so that the test itself is quick.
func TestRestore_LockPage(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 1 GiB")
	}
	const pageSize = 65536
	lock := ltx.LockPgno(pageSize)
	commit := lock + 2
	common, marked := make([]byte, pageSize), map[uint32][]byte{}
	copy(common, "SQLite format 3\x00")
	for _, pgno := range []uint32{1, lock - 1, lock + 1, lock + 2} {
		marked[pgno] = bytes.Repeat([]byte{byte(pgno)}, pageSize)
		copy(marked[pgno], "SQLite format 3\x00")
	}
	compress := func(page []byte) (length, payload []byte) {
		payload = make([]byte, lz4.CompressBlockBound(pageSize))
		n, err := lz4.CompressBlock(page, payload, nil)
		if err != nil {
			t.Fatal(err)
		}
		return binary.BigEndian.AppendUint32(nil, uint32(n)), payload[:n]
	}
	commonLength, commonPayload := compress(common)
	b := frameFile(t, ltx.Header{
		Flags: ltx.HeaderFlagNoChecksum, PageSize: pageSize, Commit: commit, MinTXID: 1, MaxTXID: 1,
	}, func(pgno uint32) (flags uint16, length, payload, page []byte) {
		if page = marked[pgno]; page != nil {
			length, payload = compress(page)
			return ltx.PageHeaderFlagSize, length, payload, page
		}
		return ltx.PageHeaderFlagSize, commonLength, commonPayload, common
	})

	client := newMemReplica()
	if _, err := client.WriteLTXFile(t.Context(), 9, 1, 1, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	opt := testOptions(t)
	opt.LedgerPath = filepath.Join(t.TempDir(), "ledger")
	if _, err := litestream.Restore(t.Context(), client, opt); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(opt.OutputPath)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := pagesum.Open(opt.LedgerPath)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, pageSize)
	for pgno := lock - 2; pgno <= commit; pgno++ {
		if _, err := f.ReadAt(got, int64(pgno-1)*pageSize); err != nil {
			t.Fatal(err)
		}
		want := marked[pgno]
		switch pgno {
		case lock:
			want = make([]byte, pageSize)
		case lock - 2:
			want = common
		}
		if !bytes.Equal(got, want) {
			t.Errorf("page %d differs", pgno)
		}
		sum, err := l.Sum(pgno)
		if err != nil {
			t.Fatal(err)
		}
		if pgno != lock && sum != ltx.ChecksumPage(pgno, want) {
			t.Errorf("page %d: the ledger's checksum is wrong", pgno)
		}
	}
	if info, err := f.Stat(); err != nil || info.Size() != int64(commit)*pageSize {
		t.Errorf("size=%d, err=%v, want %d pages", info.Size(), err, commit)
	}
}

// legacyFile encodes a file as library versions before 0.5 did: a page is an
// LZ4 frame without a length in front.
func legacyFile(t *testing.T, hdr ltx.Header, image []byte) []byte {
	t.Helper()
	zw := lz4.NewWriter(nil)
	if err := zw.Apply(lz4.BlockSizeOption(lz4.Block64Kb)); err != nil {
		t.Fatal(err)
	}
	b := frameFile(t, hdr, func(pgno uint32) (flags uint16, length, payload, page []byte) {
		page = image[int(pgno-1)*int(hdr.PageSize):][:hdr.PageSize]
		var frame bytes.Buffer
		zw.Reset(&frame)
		if _, err := zw.Write(page); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		return 0, nil, frame.Bytes(), page
	})
	if err := ltx.NewDecoder(bytes.NewReader(b)).Verify(); err != nil {
		t.Fatalf("the library refuses the legacy file: %v", err)
	}
	return b
}

func TestRestore_LegacyFrames(t *testing.T) {
	client, s := damagedReplica(t, false)
	image := s.images[2]
	k := fileKey{9, 1, 2}
	good := legacyFile(t, ltx.Header{
		Flags: ltx.HeaderFlagNoChecksum, PageSize: 1024, Commit: uint32(len(image) / 1024), MinTXID: 1, MaxTXID: 2,
	}, image)
	client.files[k] = good
	opt := testOptions(t)
	if _, err := litestream.Restore(t.Context(), client, opt); err != nil {
		t.Fatal(err)
	}
	wantImage(t, opt.OutputPath, s.images[s.txid])

	for i := range 40 {
		offset := int(math.Mod(float64(i)*0.618, 1) * float64(len(good)))
		client.files[k] = bytes.Clone(good)
		client.files[k][offset] ^= 4
		wantRefused(t, client, k, s.images[s.txid], "legacy file")
		client.files[k] = good[:offset]
		wantRefused(t, client, k, s.images[s.txid], "cut legacy file")
	}
}
