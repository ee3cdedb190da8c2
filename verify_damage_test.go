package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// replicaShape is which files a replica holds; they are captured by a source.
type replicaShape struct {
	commits int
	files   []fileKey
}

// randomShape returns the files of a replica that compaction and retention
// could have left: level 0 begins somewhere, the levels above hold the rest,
// and the newest snapshot has something behind it.
func randomShape(rng *rand.Rand) replicaShape {
	s := replicaShape{commits: 9 + rng.IntN(6)}
	n := ltx.TXID(s.commits)
	var ends []ltx.TXID // of level 1
	for at := ltx.TXID(0); at+1 < n; {
		next := min(at+1+ltx.TXID(rng.IntN(4)), n-1)
		s.files = append(s.files, fileKey{1, at + 1, next})
		ends = append(ends, next)
		at = next
	}
	for i := 1; i < len(ends); i += 2 {
		from := ltx.TXID(1)
		if i > 1 {
			from = ends[i-2] + 1
		}
		s.files = append(s.files, fileKey{2, from, ends[i]})
	}
	oldest := ends[rng.IntN(len(ends)-1)] // of level 0
	for txid := oldest + 1; txid <= n; txid++ {
		s.files = append(s.files, fileKey{0, txid, txid})
	}
	for _, end := range ends[:len(ends)-1] {
		if rng.IntN(3) == 0 {
			s.files = append(s.files, fileKey{litestream.SnapshotLevel, 1, end})
		}
	}
	return s
}

// verifyFixture is a replica in a folder or on a server, with the source that it
// is of and one of another database with the same files.
type verifyFixture struct {
	t          *testing.T
	rng        *rand.Rand
	shape      replicaShape
	src, other *source
	dir        string            // of the copy that is damaged
	server     *serverReplica    // nil: it lies in dir
	touched    map[fileKey]bool  // in it
	files      map[string][]byte // as they were written, by path
	others     map[string][]byte
	now        time.Time
	stale      ltx.TXID // of the catalog; 0: it is not
}

func newVerifyFixture(t *testing.T, rng *rand.Rand, checksums bool) *verifyFixture {
	t.Helper()
	return newVerifyFixtureAt(t, rng, checksums, nil)
}

func newVerifyFixtureAt(t *testing.T, rng *rand.Rand, checksums bool, server *serverReplica) *verifyFixture {
	t.Helper()
	f := &verifyFixture{t: t, rng: rng, shape: randomShape(rng), server: server}
	f.src, f.files = f.capture(checksums)
	f.other, f.others = f.capture(checksums)
	f.now = f.src.timeOf(f.src.txid).Add(time.Minute)
	f.dir, f.touched = memoryDir(t), map[fileKey]bool{}
	for _, k := range f.shape.files {
		f.touched[k] = true
	}
	f.reset()
	return f
}

// memoryDir returns a folder in memory where there is one: thousands of small
// files are made and synced.
func memoryDir(t *testing.T) string {
	t.Helper()
	if st, err := os.Stat("/dev/shm"); err != nil || !st.IsDir() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "litestream-verify-") //nolint:usetesting // see above
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// capture makes a database and the replica's files of it.
func (f *verifyFixture) capture(checksums bool) (*source, map[string][]byte) {
	f.t.Helper()
	s := newSource(f.t, newMemReplica(), 512, checksums)
	s.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
	for i := range f.shape.commits {
		switch f.rng.IntN(4) {
		case 0, 1:
			s.exec("INSERT INTO t (v) VALUES (randomblob(?)), (randomblob(99))", 300+f.rng.IntN(2000))
		case 2:
			s.exec("UPDATE t SET v = randomblob(600) WHERE id % 3 = ?", i%3)
		case 3:
			s.exec("DELETE FROM t WHERE id % 4 = 1")
			s.exec("VACUUM")
		}
		s.exec("INSERT INTO t (v) VALUES (randomblob(200))")
		s.capture()
	}
	files := map[string][]byte{}
	for _, k := range f.shape.files {
		files[f.path(k)] = s.encode(k.min, k.max)
	}
	return s, files
}

func (f *verifyFixture) path(k fileKey) string {
	return filepath.Join("ltx", strconv.Itoa(k.level), ltx.FormatFilename(k.min, k.max))
}

// reset writes the replica as it was.
func (f *verifyFixture) reset() {
	f.t.Helper()
	f.stale = 0
	for k := range f.touched {
		f.put(k, f.files[f.path(k)])
	}
	clear(f.touched)
}

func (f *verifyFixture) put(k fileKey, data []byte) {
	f.t.Helper()
	f.touched[k] = true
	if f.server != nil {
		f.server.put(k, data)
		return
	}
	path := filepath.Join(f.dir, f.path(k))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Chtimes(path, f.src.timeOf(k.max), f.src.timeOf(k.max)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *verifyFixture) remove(k fileKey) {
	f.t.Helper()
	f.touched[k] = true
	if f.server != nil {
		f.server.remove(k)
		return
	}
	if err := os.Remove(filepath.Join(f.dir, f.path(k))); err != nil {
		f.t.Fatal(err)
	}
}

func (f *verifyFixture) pick() fileKey { return f.shape.files[f.rng.IntN(len(f.shape.files))] }

func (f *verifyFixture) get(k fileKey) ([]byte, error) {
	if f.server != nil {
		return f.server.client.ReadObject(f.t.Context(), f.server.name(k))
	}
	return os.ReadFile(filepath.Join(f.dir, f.path(k)))
}

func (f *verifyFixture) client() litestream.ReplicaClient {
	if f.server != nil {
		return f.server.client
	}
	return file.NewReplicaClient(f.dir)
}

// points returns which of the ends of files of level 0 and 1 are restorable with
// some of the files, by a search of its own.
func points(files []fileKey) map[ltx.TXID]bool {
	reach := map[ltx.TXID]bool{0: true}
	for changed := true; changed; {
		changed = false
		for _, k := range files {
			for from := range reach {
				if k.min <= from+1 && k.max > from && !reach[k.max] && (from > 0 || k.min == 1) {
					reach[k.max], changed = true, true
				}
			}
		}
	}
	return reach
}

// loses reports whether a restore point is lost without some files, other than
// the oldest of levels 0 and 1: those could have been deleted by retention.
func (f *verifyFixture) loses(gone func(fileKey) bool) bool {
	left := slices.DeleteFunc(slices.Clone(f.shape.files), gone)
	after := points(left)
	var lowest [litestream.SnapshotLevel + 1]ltx.TXID
	for _, k := range left {
		if lowest[k.level] == 0 || k.max < lowest[k.level] {
			lowest[k.level] = k.max
		}
	}
	return slices.ContainsFunc(f.shape.files, func(k fileKey) bool {
		seen := k.level <= 1 && lowest[k.level] > 0 && k.max >= lowest[k.level]
		return !after[k.max] && (seen || k.max == f.src.txid)
	})
}

// sums are the page checksums of the newest position, as a ledger has them.
func (f *verifyFixture) sums() *litestream.VerifySums {
	image := f.src.images[f.src.txid]
	return &litestream.VerifySums{
		TXID: f.src.txid, PageN: uint32(len(image) / f.src.pageSize),
		Each: func(fn func(pgno uint32, sum ltx.Checksum)) error {
			for pgno := uint32(1); int(pgno) <= len(image)/f.src.pageSize; pgno++ {
				fn(pgno, ltx.ChecksumPage(pgno, f.src.page(image, pgno)))
			}
			return nil
		},
	}
}

// verify runs Verify as the owner of the state directory would.
func (f *verifyFixture) verify(level litestream.VerifyLevel) litestream.VerifyResult {
	f.t.Helper()
	res, err := litestream.Verify(f.t.Context(), f.client(), f.options(level))
	if err != nil {
		f.t.Fatal(err)
	}
	return res
}

func (f *verifyFixture) options(level litestream.VerifyLevel) litestream.VerifyOptions {
	opt := litestream.VerifyOptions{
		Level: level, Now: func() time.Time { return f.now }, Grace: 10 * time.Second,
		Promise:     &litestream.VerifyPromise{Levels: litestream.DefaultCompactionLevels(), SnapshotRetention: 24 * time.Hour, L0Retention: 5 * time.Minute},
		ScratchPath: filepath.Join(f.dir, "scratch.db"),
		Expect: func(context.Context) ([]litestream.VerifyExpectation, error) {
			newest, at := f.src.txid, f.src.timeOf(f.src.txid)
			a := []litestream.VerifyExpectation{{Source: "registry", TXID: newest, At: at, Sums: f.sums()}}
			if f.stale > 0 {
				newest = f.stale
			}
			return append(a, litestream.VerifyExpectation{Source: "catalog", TXID: newest, At: at, Through: f.now}), nil
		},
	}
	opt.SetKnobs(1, litestream.RestoreKnobs{ChunkBytes: 1 << 20, RetryDelays: []time.Duration{1}, Stall: time.Minute})
	return opt
}

// damageKind is one way to damage a replica.
type damageKind struct {
	name   string
	level  litestream.VerifyLevel // the lowest that promises to find it
	states []litestream.VerifyState
	// apply damages the copy; false: at this place it would be no damage.
	apply func(f *verifyFixture) bool
}

var damageKinds = []damageKind{
	{"BitFlip", litestream.VerifyChecksum, []litestream.VerifyState{litestream.VerifyCorrupt}, func(f *verifyFixture) bool {
		k := f.pick()
		good := f.files[f.path(k)]
		bad := bytes.Clone(good)
		bad[f.rng.IntN(len(bad))] ^= 1 << f.rng.IntN(8)
		f.put(k, bad)
		// Compressed, some bytes can be another and mean the same.
		return !bytes.Equal(pagesOf(good), pagesOf(bad))
	}},
	{"MissingFile", litestream.VerifyList, []litestream.VerifyState{litestream.VerifyMissingLost}, func(f *verifyFixture) bool {
		k := f.pick()
		f.remove(k)
		return f.loses(func(o fileKey) bool { return o == k })
	}},
	{"Truncated", litestream.VerifyChecksum, []litestream.VerifyState{litestream.VerifyCorrupt}, func(f *verifyFixture) bool {
		k := f.pick()
		good := f.files[f.path(k)]
		f.put(k, good[:f.rng.IntN(len(good))])
		return true
	}},
	{"Emptied", litestream.VerifyList, []litestream.VerifyState{litestream.VerifyCorrupt, litestream.VerifyMissingLost}, func(f *verifyFixture) bool {
		f.put(f.pick(), nil)
		return true
	}},
	{"Swapped", litestream.VerifyChecksum, []litestream.VerifyState{litestream.VerifyCorrupt}, func(f *verifyFixture) bool {
		a, b := f.pick(), f.pick()
		f.put(a, f.files[f.path(b)])
		f.put(b, f.files[f.path(a)])
		return a.min != b.min || a.max != b.max
	}},
	{"Replayed", litestream.VerifyRead, []litestream.VerifyState{litestream.VerifyCorrupt, litestream.VerifyDiverged}, func(f *verifyFixture) bool {
		k := f.pick()
		f.put(k, f.others[f.path(k)])
		return true
	}},
	{"PageDropped", litestream.VerifyRead, []litestream.VerifyState{litestream.VerifyCorrupt}, func(f *verifyFixture) bool {
		k := f.pick()
		if k.level == 0 || k.min == 1 { // a file from TXID 1 has no hole: that is seen without reading others
			return false
		}
		bad, ok := withoutPage(f.t, f.files[f.path(k)], f.rng)
		if !ok {
			return false
		}
		f.put(k, bad)
		return true
	}},
	{"StaleCatalog", litestream.VerifyList, []litestream.VerifyState{litestream.VerifyDiverged}, func(f *verifyFixture) bool {
		f.stale = 1 + ltx.TXID(f.rng.Uint64N(uint64(f.src.txid-1)))
		return true
	}},
	{"DeletedPrefix", litestream.VerifyList, []litestream.VerifyState{litestream.VerifyMissingLost}, func(f *verifyFixture) bool {
		gone := func(fileKey) bool { return true }
		switch f.rng.IntN(3) {
		case 0: // the oldest files
			upTo := 1 + ltx.TXID(f.rng.Uint64N(uint64(f.src.txid)))
			gone = func(k fileKey) bool { return k.min <= upTo }
		case 1: // a level
			level := f.pick().level
			gone = func(k fileKey) bool { return k.level == level }
		}
		for _, k := range f.shape.files {
			if gone(k) {
				f.remove(k)
			}
		}
		return f.loses(gone)
	}},
}

// pagesOf returns all that an LTX file holds, or nil if it cannot be read.
func pagesOf(data []byte) []byte {
	dec := ltx.NewDecoder(bytes.NewReader(data))
	var out bytes.Buffer
	if dec.DecodeHeader() != nil {
		return nil
	}
	fmt.Fprintf(&out, "%+v", dec.Header())
	page := make([]byte, dec.Header().PageSize)
	for {
		var hdr ltx.PageHeader
		err := dec.DecodePage(&hdr, page)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil
		}
		fmt.Fprint(&out, hdr.Pgno)
		out.Write(page)
	}
	if dec.Close() != nil {
		return nil
	}
	fmt.Fprintf(&out, "%+v", dec.Trailer())
	return out.Bytes()
}

// withoutPage writes a file again without one of its pages, as a compaction
// that loses one would.
func withoutPage(t *testing.T, data []byte, rng *rand.Rand) ([]byte, bool) {
	t.Helper()
	dec := ltx.NewDecoder(bytes.NewReader(data))
	if err := dec.DecodeHeader(); err != nil {
		t.Fatal(err)
	}
	hdr := dec.Header()
	type page struct {
		hdr  ltx.PageHeader
		data []byte
	}
	var pages []page
	for {
		p := page{data: make([]byte, hdr.PageSize)}
		err := dec.DecodePage(&p.hdr, p.data)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, p)
	}
	if err := dec.Close(); err != nil {
		t.Fatal(err)
	}
	if len(pages) < 2 {
		return nil, false
	}
	drop := rng.IntN(len(pages))
	var buf bytes.Buffer
	enc, err := ltx.NewEncoder(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if err := enc.EncodeHeader(hdr); err != nil {
		t.Fatal(err)
	}
	for i, p := range pages {
		if i != drop {
			if err := enc.EncodePage(ltx.PageHeader{Pgno: p.hdr.Pgno}, p.data); err != nil {
				t.Fatal(err)
			}
		}
	}
	enc.SetPostApplyChecksum(dec.Trailer().PostApplyChecksum)
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), true
}

// TestVerify_Damage applies each kind of damage at random places. The lowest
// level that promises to find it finds it every time, and a restore refuses or
// is right: it never makes a wrong database. The newest good point is one.
func TestVerify_Damage(t *testing.T) {
	t.Parallel()
	times := 100
	if testing.Short() {
		times = 10
	}
	for _, kind := range damageKinds {
		t.Run(kind.name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			var f *verifyFixture
			for i := range times {
				if i%20 == 0 {
					f = newVerifyFixture(t, rng, true)
				}
				for f.reset(); !kind.apply(f); f.reset() {
				}
				if damageFound(f, kind) {
					neverWrong(f, litestream.VerifyResult{})
				}
				if t.Failed() {
					t.Fatalf("at %d of %+v", i, f.shape)
				}
			}
		})
	}
}

// damageFound checks what Verify makes of a damaged replica, and that the good
// point that it names is one.
func damageFound(f *verifyFixture, kind damageKind) bool {
	f.t.Helper()
	res := f.verify(kind.level)
	if !slices.Contains(kind.states, res.State) {
		f.t.Errorf("state=%s, want one of %v: %s", res.State, kind.states, res.Summary())
		return false
	}
	if res.Findings[0].Object == "" || !strings.Contains(res.Summary(), "good") {
		f.t.Errorf("summary=%q, want the object and the newest good point", res.Summary())
	}
	neverWrong(f, res)
	return true
}

// neverWrong restores the newest position, or the newest good point if there is
// a result.
func neverWrong(f *verifyFixture, res litestream.VerifyResult) {
	f.t.Helper()
	opt := testOptions(f.t)
	opt.OutputPath = filepath.Join(f.dir, "out", "restored.db")
	client := f.client()
	if res.State != "" {
		if opt.TXID = res.Good; opt.TXID == 0 {
			return
		}
		kept := map[fileKey][]byte{}
		for _, name := range res.Avoid {
			var k fileKey
			var minText, maxText string
			if _, err := fmt.Sscanf(strings.ReplaceAll(name, "-", " "), "%16s %16s.ltx (level %d)", &minText, &maxText, &k.level); err != nil {
				f.t.Fatalf("%q: %v", name, err)
			}
			var err error
			if k.min, err = ltx.ParseTXID(minText); err != nil {
				f.t.Fatal(err)
			}
			if k.max, err = ltx.ParseTXID(maxText); err != nil {
				f.t.Fatal(err)
			}
			if kept[k], err = f.get(k); err != nil {
				f.t.Fatal(err)
			}
			f.remove(k)
		}
		defer func() {
			for k, data := range kept {
				f.put(k, data)
			}
		}()
	}
	got, err := litestream.Restore(f.t.Context(), client, opt)
	if res.State != "" && err != nil {
		f.t.Errorf("restore of the newest good point: %v\n%s", err, res.Summary())
	}
	if err == nil {
		wantImage(f.t, opt.OutputPath, f.src.images[got.TXID])
	} else if _, serr := os.Stat(opt.OutputPath); !os.IsNotExist(serr) {
		f.t.Errorf("a refused restore left %s: %v", opt.OutputPath, serr)
	}
	if err := os.RemoveAll(filepath.Dir(opt.OutputPath)); err != nil {
		f.t.Fatal(err)
	}
}

// TestVerify_Healthy finds nothing wrong with replicas that nobody damaged.
func TestVerify_Healthy(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range 20 {
		f := newVerifyFixture(t, rng, i%2 == 0)
		for level := litestream.VerifyList; level <= litestream.VerifyRestore; level++ {
			res := f.verify(level)
			if res.State != litestream.VerifyOK || res.Good != f.src.txid || res.TXID != f.src.txid {
				t.Fatalf("%s: %+v of %+v", level, res, f.shape)
			}
			if want := len(f.shape.files); level > litestream.VerifyList && res.FilesRead != want {
				t.Errorf("%s: read %d files, want %d", level, res.FilesRead, want)
			}
			opt := f.options(level)
			opt.Promise, opt.Expect, opt.NewestOnly = nil, nil, true
			if res, err := litestream.Verify(t.Context(), f.client(), opt); err != nil || res.State != litestream.VerifyOK {
				t.Errorf("%s of the newest position: %+v, %v", level, res, err)
			}
		}
	}
}
