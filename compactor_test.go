package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// compactorFixture is a replica of a small database with its compactor.
type compactorFixture struct {
	t       *testing.T
	db      fixtureDB
	replica *fixtureReplica
	c       *litestream.Compactor
	now     time.Time
}

func newCompactorFixture(t *testing.T) *compactorFixture {
	t.Helper()
	fx := &compactorFixture{t: t, now: time.Date(2026, 11, 22, 12, 0, 1, 0, time.UTC)}
	fx.replica = newFixtureReplica(t, func() time.Time { return fx.now })
	fx.reopen()
	return fx
}

// reopen stands for a new process.
func (fx *compactorFixture) reopen() {
	fx.c = litestream.NewCompactor(fx.replica, nil)
	fx.c.Now = func() time.Time { return fx.now }
	fx.c.StagingDir = fx.t.TempDir()
}

// write commits n times and uploads each transaction.
func (fx *compactorFixture) write(n int, checksums bool) {
	for range n {
		txid := fx.db.txid() + 1
		fx.db.commit(3+int(txid)%4, 1+int(txid)%3)
		fx.now = fx.now.Add(time.Second)
		fx.c.NoteL0(fx.db.upload(fx.t, fx.replica, 0, fx.db.ltx(fx.t, txid, txid, fx.now, checksums)))
	}
}

func (fx *compactorFixture) snapshot() {
	pos := fx.db.txid()
	data := fx.db.ltx(fx.t, 1, pos, fx.now, true)
	if _, err := fx.c.WriteSnapshot(fx.t.Context(), pos, bytes.NewReader(data)); err != nil {
		fx.t.Fatal(err)
	}
}

func (fx *compactorFixture) mustCompact(level int) *replicaFile {
	fx.t.Helper()
	info, err := fx.c.Compact(fx.t.Context(), level)
	if err != nil {
		fx.t.Fatalf("Compact(%d): %v", level, err)
	}
	return fx.replica.files[fixtureKey(level, info.MinTXID, info.MaxTXID)]
}

func (fx *compactorFixture) wantLTXError(err error, level int, minTXID, maxTXID ltx.TXID, cause error) {
	fx.t.Helper()
	var le *litestream.LTXError
	if !errors.As(err, &le) || le.Level != level || le.MinTXID != minTXID || le.MaxTXID != maxTXID {
		fx.t.Errorf("err=%v, want one that names %d-%d of level %d", err, minTXID, maxTXID, level)
	}
	if cause != nil && !errors.Is(err, cause) {
		fx.t.Errorf("err=%v, want %v", err, cause)
	}
}

func TestCompactor_Compact(t *testing.T) {
	tests := []struct {
		name      string
		checksums []bool // of each transaction
		flags     uint32
	}{
		{"WithoutChecksums", []bool{false, false, false, false}, ltx.HeaderFlagNoChecksum},
		{"AllWithChecksums", []bool{true, true, true, true}, 0},
		{"Mixed", []bool{true, false, true, true}, ltx.HeaderFlagNoChecksum},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fx := newCompactorFixture(t)
			for _, sums := range tt.checksums {
				fx.write(1, sums)
			}
			got := fx.mustCompact(1)
			last := fx.replica.files[fixtureKey(0, 4, 4)]
			want := ltx.Header{
				Version: ltx.Version, Flags: tt.flags, PageSize: fixturePageSize, Commit: last.hdr.Commit,
				MinTXID: 1, MaxTXID: 4, Timestamp: last.hdr.Timestamp,
			}
			if diff := cmp.Diff(want, got.hdr); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			if tt.flags == 0 && got.post != fixtureChecksum(fx.db.at(4)) {
				t.Errorf("post-apply checksum %s, want %s", got.post, fixtureChecksum(fx.db.at(4)))
			}
			if diff := cmp.Diff(fx.db.at(4), restoreChain([]*replicaFile{got})); diff != "" {
				t.Errorf("content (-want +got):\n%s", diff)
			}
			if _, err := fx.c.Compact(t.Context(), 1); !errors.Is(err, litestream.ErrNoCompaction) {
				t.Errorf("second compaction: %v, want ErrNoCompaction", err)
			}
			if left, err := os.ReadDir(fx.c.StagingDir); err != nil || len(left) > 0 {
				t.Errorf("staging folder: %v, %v, want it empty", left, err)
			}
		})
	}
}

// A compaction of later transactions carries the checksum before its first.
func TestCompactor_ChecksumsOfLaterRange(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.write(2, true)
	fx.mustCompact(1)
	fx.write(3, true)
	got := fx.mustCompact(1)
	if got.hdr.PreApplyChecksum != fixtureChecksum(fx.db.at(2)) || got.post != fixtureChecksum(fx.db.at(5)) {
		t.Errorf("checksums %s to %s, want those of 2 and 5", got.hdr.PreApplyChecksum, got.post)
	}
}

func TestCompactor_BrokenChecksumChain(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.write(3, true)
	var other fixtureDB
	other.commit(4)
	other.commit(5, 1)
	fx.c.NoteL0(fx.db.upload(t, fx.replica, 0, other.ltx(t, 2, 2, fx.now, true)))
	fx.mustCompact(1)
	if got := fx.replica.files[fixtureKey(1, 1, 3)]; got == nil || !got.hdr.NoChecksum() {
		t.Errorf("level 1=%v, want 1-3 without checksums", fx.replica.names(1))
	}
}

func TestCompactor_Limits(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.c.MaxInputs = 4
	fx.write(10, false)
	for i := 0; fx.c.Due(1); i++ {
		if i == 3 {
			t.Fatal("still due after three compactions")
		}
		fx.mustCompact(1)
	}
	if diff := cmp.Diff([]string{"1-4", "5-8", "9-10"}, fx.replica.names(1)); diff != "" {
		t.Errorf("level 1 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(fx.db.at(10), restoreChain(fx.replica.plan(fx.replica.listing(), 10))); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
}

func TestCompactor_DueFollowsBoundariesAcrossRestarts(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.c.Levels = litestream.DefaultCompactionLevels()[:2]
	if !fx.c.Due(1) || fx.c.Due(0) || fx.c.Due(2) {
		t.Fatal("want level 1 due before its first listing, level 0 and one not configured never")
	}
	fx.write(2, false)
	fx.mustCompact(1)
	fx.write(1, false)
	if fx.c.Due(1) {
		t.Error("due again before the next boundary")
	}
	fx.now = fx.now.Add(35 * time.Second)
	if !fx.c.Due(1) {
		t.Error("not due behind the boundary")
	}
	fx.mustCompact(1)
	fx.reopen()
	fx.write(1, false)
	if _, err := fx.c.Compact(t.Context(), 1); err != nil {
		t.Errorf("explicit compaction: %v", err)
	}
}

// What a database costs once it was listed: nothing while it rests, and no
// listing when it changes.
func TestCompactor_Requests(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.write(5, false)
	fx.snapshot()
	fx.mustCompact(1)
	if _, err := fx.c.EnforceL0Retention(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := fx.c.EnforceSnapshotRetention(t.Context()); err != nil {
		t.Fatal(err)
	}
	fx.replica.requests()

	for range 100 {
		fx.now = fx.now.Add(time.Second)
		_ = fx.c.Due(1)
		due, err := fx.c.SnapshotDue(t.Context(), fx.db.txid(), time.Hour)
		if err != nil || due {
			t.Fatalf("snapshot due=%v, err=%v", due, err)
		}
		if n, err := fx.c.EnforceL0Retention(t.Context()); n > 0 || err != nil {
			t.Fatalf("deleted %d, %v", n, err)
		}
		if n, err := fx.c.EnforceSnapshotRetention(t.Context()); n > 0 || err != nil {
			t.Fatalf("deleted %d, %v", n, err)
		}
	}
	if n := fx.replica.requests(); n != 0 {
		t.Errorf("%d requests for a resting database, want 0", n)
	}

	fx.write(3, false)
	fx.replica.requests()
	fx.mustCompact(1)
	if fx.replica.lists != 0 || fx.replica.gets != 3 || fx.replica.puts != 1 {
		t.Errorf("%d lists, %d gets, %d puts, want 0, 3 and 1", fx.replica.lists, fx.replica.gets, fx.replica.puts)
	}
}

func TestCompactor_LocalCopies(t *testing.T) {
	tests := []struct {
		name  string
		local func(data []byte) (io.ReadCloser, error)
		gets  int
	}{
		{"Preferred", func(b []byte) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, 0},
		{"Missing", func([]byte) (io.ReadCloser, error) { return nil, fs.ErrNotExist }, 5},
		{"BitFlip", func(b []byte) (io.ReadCloser, error) {
			b = slices.Clone(b)
			b[len(b)-20] ^= 1
			return io.NopCloser(bytes.NewReader(b)), nil
		}, 5},
		{"Truncated", func(b []byte) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b[:len(b)/2])), nil }, 5},
		{"Empty", func([]byte) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }, 5},
		{"ReadFails", func(b []byte) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(b[:50]), errReader{errors.New("input/output error")})), nil
		}, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fx := newCompactorFixture(t)
			fx.write(5, false)
			fx.c.LocalFile = func(level int, minTXID, maxTXID ltx.TXID) (io.ReadCloser, error) {
				return tt.local(fx.replica.files[fixtureKey(level, minTXID, maxTXID)].data)
			}
			got := fx.mustCompact(1)
			if diff := cmp.Diff(fx.db.at(5), restoreChain([]*replicaFile{got})); diff != "" {
				t.Errorf("content (-want +got):\n%s", diff)
			}
			if fx.replica.gets != tt.gets {
				t.Errorf("%d files read from the replica, want %d", fx.replica.gets, tt.gets)
			}
		})
	}
}

// errReader fails at once.
type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestCompactor_Gap(t *testing.T) {
	// Level 1 ends at 2; of 3 to 8, the transactions 4 and 5 are missing.
	setup := func(t *testing.T) *compactorFixture {
		t.Helper()
		fx := newCompactorFixture(t)
		fx.write(2, false)
		fx.mustCompact(1)
		fx.write(6, false)
		delete(fx.replica.files, fixtureKey(0, 4, 4))
		delete(fx.replica.files, fixtureKey(0, 5, 5))
		fx.reopen()
		fx.mustCompact(1)
		return fx
	}
	t.Run("Named", func(t *testing.T) {
		fx := setup(t)
		_, err := fx.c.Compact(t.Context(), 1)
		fx.wantLTXError(err, 0, 4, 5, litestream.ErrNonContiguous)
	})
	t.Run("BridgedFromAnotherLevel", func(t *testing.T) {
		fx := setup(t)
		fx.db.upload(t, fx.replica, 3, fx.db.ltx(t, 3, 6, fx.now, false))
		fx.mustCompact(1)
		if diff := cmp.Diff([]string{"1-2", "3-3", "4-8"}, fx.replica.names(1)); diff != "" {
			t.Errorf("level 1 (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(fx.db.at(8), restoreChain(fx.replica.plan(fx.replica.listing(), 8))); diff != "" {
			t.Errorf("content (-want +got):\n%s", diff)
		}
	})
	t.Run("CoveredBySnapshot", func(t *testing.T) {
		fx := setup(t)
		fx.snapshot()
		fx.mustCompact(1)
		if diff := cmp.Diff([]string{"1-2", "3-3", "6-8"}, fx.replica.names(1)); diff != "" {
			t.Errorf("level 1 (-want +got):\n%s", diff)
		}
	})
	t.Run("SnapshotBeforeItDoesNotHelp", func(t *testing.T) {
		fx := setup(t)
		fx.c.NoteSnapshot(fx.db.upload(t, fx.replica, 9, fx.db.ltx(t, 1, 3, fx.now, true)))
		_, err := fx.c.Compact(t.Context(), 1)
		fx.wantLTXError(err, 0, 4, 5, litestream.ErrNonContiguous)
	})
}

func TestCompactor_DamagedReplicaFile(t *testing.T) {
	setup := func(t *testing.T) *compactorFixture {
		t.Helper()
		fx := newCompactorFixture(t)
		fx.write(6, false)
		data := slices.Clone(fx.replica.files[fixtureKey(0, 4, 4)].data)
		data[len(data)-20] ^= 1
		fx.replica.put(0, 4, 4, data)
		if got := fx.mustCompact(1); got.hdr.MaxTXID != 3 {
			t.Fatalf("compacted to %d, want the files before the damaged one", got.hdr.MaxTXID)
		}
		return fx
	}
	t.Run("Named", func(t *testing.T) {
		fx := setup(t)
		for range 2 {
			_, err := fx.c.Compact(t.Context(), 1)
			fx.wantLTXError(err, 0, 4, 4, nil)
		}
	})
	t.Run("SteppedOverBehindSnapshot", func(t *testing.T) {
		fx := setup(t)
		fx.c.NoteSnapshot(fx.db.upload(t, fx.replica, 9, fx.db.ltx(t, 1, 5, fx.now, true)))
		fx.mustCompact(1)
		if diff := cmp.Diff([]string{"1-3", "6-6"}, fx.replica.names(1)); diff != "" {
			t.Errorf("level 1 (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(fx.db.at(6), restoreChain(fx.replica.plan(fx.replica.listing(), 6))); diff != "" {
			t.Errorf("content (-want +got):\n%s", diff)
		}
	})
}

// cutReplica breaks the connection in the middle of every file.
type cutReplica struct {
	*fixtureReplica
	err error // nil: the stream just ends
}

func (r cutReplica) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, _ int64) (io.ReadCloser, error) {
	rc, err := r.fixtureReplica.OpenLTXFile(ctx, level, minTXID, maxTXID, offset, 150)
	if err != nil || r.err == nil {
		return rc, err
	}
	return io.NopCloser(io.MultiReader(rc, errReader{r.err})), nil
}

// A connection that breaks must not make a whole file look damaged.
func TestCompactor_BrokenConnection(t *testing.T) {
	for name, cause := range map[string]error{"Reset": errors.New("connection reset"), "EarlyEOF": nil} {
		t.Run(name, func(t *testing.T) {
			fx := newCompactorFixture(t)
			fx.write(3, false)
			fx.snapshot()
			c := litestream.NewCompactor(cutReplica{fx.replica, cause}, nil)
			c.StagingDir = t.TempDir()
			_, err := c.Compact(t.Context(), 1)
			var le *litestream.LTXError
			if err == nil || errors.As(err, &le) {
				t.Errorf("err=%v, want a plain read error", err)
			}
			if got := fx.replica.names(1); len(got) > 0 {
				t.Errorf("level 1=%v, want none", got)
			}
		})
	}
}

func TestCompactor_UploadFails(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.write(3, false)
	fx.replica.failPut = errors.New("504")
	if _, err := fx.c.Compact(t.Context(), 1); !errors.Is(err, fx.replica.failPut) {
		t.Fatalf("err=%v, want the upload's", err)
	}
	fx.replica.failPut = nil
	if !fx.c.Due(1) {
		t.Error("not due after a failed upload")
	}
	fx.mustCompact(1)
}

// Somebody else compacted and deleted: one more look at the replica finds it.
func TestCompactor_ReplicaChangedByOthers(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.write(3, false)
	if due := fx.c.Due(1); !due {
		t.Fatal("not due")
	}
	fx.mustCompact(1)
	fx.write(3, false)
	fx.db.upload(t, fx.replica, 1, fx.db.ltx(t, 4, 5, fx.now, false))
	delete(fx.replica.files, fixtureKey(0, 4, 4))
	fx.mustCompact(1)
	if diff := cmp.Diff([]string{"1-3", "4-5", "6-6"}, fx.replica.names(1)); diff != "" {
		t.Errorf("level 1 (-want +got):\n%s", diff)
	}
}

// A listing may miss a file that had just come and have a newer one.
func TestCompactor_FalseGap(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.write(2, false)
	fx.mustCompact(1)
	fx.write(4, false)
	fx.reopen()
	fx.replica.unseen = fixtureKey(0, 3, 3)
	fx.mustCompact(1)
	if diff := cmp.Diff([]string{"1-2", "3-6"}, fx.replica.names(1)); diff != "" {
		t.Errorf("level 1 (-want +got):\n%s", diff)
	}
}

// The first file of a database is its whole content; a snapshot of the same
// range makes copies of it on every level unnecessary.
func TestCompactor_FirstFileIsNotSentAgain(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.write(1, false)
	fx.snapshot()
	if _, err := fx.c.Compact(t.Context(), 1); !errors.Is(err, litestream.ErrNoCompaction) {
		t.Fatalf("err=%v, want ErrNoCompaction", err)
	}
	if fx.c.Due(1) {
		t.Error("due with nothing to do")
	}
	fx.write(2, false)
	fx.mustCompact(1)
	fx.mustCompact(2)
	for level := 1; level <= 2; level++ {
		if diff := cmp.Diff([]string{"2-3"}, fx.replica.names(level)); diff != "" {
			t.Errorf("level %d (-want +got):\n%s", level, diff)
		}
	}
	if diff := cmp.Diff(fx.db.at(3), restoreChain(fx.replica.plan(fx.replica.listing(), 3))); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
}

// encodePages writes a file with exactly the given pages.
func encodePages(t *testing.T, hdr ltx.Header, pgnos ...uint32) []byte {
	t.Helper()
	var buf bytes.Buffer
	enc, err := ltx.NewEncoder(&buf)
	if err != nil {
		t.Fatal(err)
	}
	hdr.Version, hdr.Flags, hdr.Timestamp = ltx.Version, ltx.HeaderFlagNoChecksum, 1
	if err := enc.EncodeHeader(hdr); err != nil {
		t.Fatal(err)
	}
	page := make([]byte, hdr.PageSize)
	for _, pgno := range pgnos {
		page[7] = byte(hdr.MaxTXID)*16 + byte(pgno)
		if err := enc.EncodePage(ltx.PageHeader{Pgno: pgno}, page); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestCompactor_ShrinkAndGrow(t *testing.T) {
	type file struct {
		commit uint32
		pages  []uint32
	}
	tests := []struct {
		name  string
		files []file // of the transactions 2, 3, …
		want  []uint32
		bad   ltx.TXID
	}{
		{"PageAboveCommitDropped", []file{{6, []uint32{2, 5, 6}}, {3, []uint32{1}}}, []uint32{1, 2}, 0},
		{"GrownAgain", []file{{6, []uint32{5, 6}}, {3, []uint32{1}}, {5, []uint32{4, 5}}}, []uint32{1, 4, 5}, 0},
		{"GrownInSteps", []file{{2, []uint32{1}}, {3, []uint32{3}}, {4, []uint32{4}}}, []uint32{1, 3, 4}, 0},
		{"StalePageIsNotTaken", []file{{6, []uint32{4, 5, 6}}, {3, []uint32{1}}, {5, []uint32{5}}}, nil, 4},
		{"PageOfGrowthMissing", []file{{3, []uint32{1}}, {5, []uint32{4}}, {5, []uint32{1}}}, nil, 3},
		{"LastPageMissing", []file{{3, []uint32{1}}, {4, []uint32{4}}, {5, []uint32{1}}}, nil, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fx := newCompactorFixture(t)
			for i, f := range tt.files {
				txid := ltx.TXID(i + 2)
				hdr := ltx.Header{PageSize: 512, Commit: f.commit, MinTXID: txid, MaxTXID: txid}
				fx.db.upload(t, fx.replica, 0, encodePages(t, hdr, f.pages...))
			}
			if tt.bad > 0 {
				// What comes before the bad file is merged, so that a stale
				// page never gets beyond it.
				fx.mustCompact(1)
				if got := fx.replica.names(1)[0]; got != fmt.Sprintf("2-%d", tt.bad-1) {
					t.Errorf("merged %s, want the files before %d", got, tt.bad)
				}
				return
			}
			got := fx.mustCompact(1)
			var pages []uint32
			for pgno := range got.pages {
				pages = append(pages, pgno)
			}
			slices.Sort(pages)
			if diff := cmp.Diff(tt.want, pages); diff != "" {
				t.Errorf("pages (-want +got):\n%s", diff)
			}
		})
	}
}

// A file that changes the page size holds every page and begins a new run.
func TestCompactor_PageSizeChanges(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.write(2, false)
	for txid := ltx.TXID(3); txid <= 4; txid++ {
		hdr := ltx.Header{PageSize: 1024, Commit: 2, MinTXID: txid, MaxTXID: txid}
		fx.c.NoteL0(fx.db.upload(t, fx.replica, 0, encodePages(t, hdr, 1, 2)))
	}
	fx.mustCompact(1)
	if !fx.c.Due(1) {
		t.Error("not due though files were left over")
	}
	fx.mustCompact(1)
	if diff := cmp.Diff([]string{"1-2", "3-4"}, fx.replica.names(1)); diff != "" {
		t.Errorf("level 1 (-want +got):\n%s", diff)
	}
}

func TestCompactor_BadCalls(t *testing.T) {
	fx := newCompactorFixture(t)
	for _, level := range []int{-1, 0, 4, 9} {
		if _, err := fx.c.Compact(t.Context(), level); err == nil {
			t.Errorf("Compact(%d) succeeded", level)
		}
	}
	fx.write(2, false)
	fx.c.StagingDir = fx.c.StagingDir + "/missing"
	if _, err := fx.c.Compact(t.Context(), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing staging folder: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fx.c.StagingDir = t.TempDir()
	if _, err := fx.c.Compact(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled compaction: %v", err)
	}
}

func TestCompactor_VerifyLevel(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.write(5, false)
	delete(fx.replica.files, fixtureKey(0, 3, 3))
	problems, err := fx.c.VerifyLevel(t.Context(), 0)
	if err != nil || len(problems) != 1 || problems[0].Kind != litestream.LevelGap {
		t.Fatalf("problems=%v, err=%v, want one gap", problems, err)
	}
	want := "gap at level 0 between 0000000000000002-0000000000000002.ltx and 0000000000000004-0000000000000004.ltx"
	if got := problems[0].String(); got != want {
		t.Errorf("String=%q, want %q", got, want)
	}
	if _, err := fx.c.VerifyLevel(t.Context(), litestream.SnapshotLevel); err == nil {
		t.Error("snapshots were verified")
	}
}
