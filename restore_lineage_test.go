package litestream_test

import (
	"bytes"
	"database/sql"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

const (
	writerA = 0xa1
	writerB = 0xb2
)

// fork returns another writer's database, which is a copy of s as it is.
func (s *source) fork(writer uint64) *source {
	s.tb.Helper()
	f := *s
	f.writer, f.images, f.path = writer, maps.Clone(s.images), filepath.Join(s.tb.TempDir(), "fork.db")
	image, err := os.ReadFile(s.path)
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := os.WriteFile(f.path, image, 0o600); err != nil {
		s.tb.Fatal(err)
	}
	if f.db, err = sql.Open("sqlite3", f.path); err != nil {
		s.tb.Fatal(err)
	}
	f.db.SetMaxOpenConns(1)
	s.tb.Cleanup(func() { f.db.Close() })
	f.exec("PRAGMA synchronous=off")
	return &f
}

// step changes some rows and captures that.
func (s *source) step() ltx.TXID {
	s.tb.Helper()
	s.exec("UPDATE t SET v = randomblob(400) WHERE id = (SELECT id FROM t ORDER BY random() LIMIT 1)")
	s.exec("INSERT INTO t (v) VALUES (randomblob(3000))")
	return s.capture()
}

// takeOver goes on behind a position with the whole database.
func (s *source) takeOver(behind ltx.TXID) {
	s.tb.Helper()
	s.txid, s.whole = behind, true
	s.step()
	s.whole = false
}

// twoWriters returns two writers that have txid 1 and 2 in common.
func twoWriters(t *testing.T, checksum bool) (client *memReplica, a, b *source) {
	t.Helper()
	client = newMemReplica()
	a = newSource(t, client, 1024, checksum)
	a.writer = writerA
	a.fill(2)
	return client, a, a.fork(writerB)
}

// restoreOf restores and returns what was logged as a warning.
func restoreOf(t *testing.T, client litestream.ReplicaClient, opt litestream.RestoreOptions) (res litestream.RestoreResult, image []byte, warnings []string, err error) {
	t.Helper()
	var log bytes.Buffer
	opt.OutputPath = filepath.Join(t.TempDir(), "db")
	opt.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if res, err = litestream.Restore(t.Context(), client, opt); err == nil {
		if image, err = os.ReadFile(opt.OutputPath); err != nil {
			t.Fatal(err)
		}
	}
	warnings = strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n")
	if log.Len() == 0 {
		warnings = nil
	}
	return res, image, warnings, err
}

// Where the files of two writers lie on a replica, what is restored is the
// newest state of one of them, and which is said. What one of them was
// given by the other is no reason for that.
func TestRestore_Lineage(t *testing.T) {
	for _, tt := range []struct {
		name    string
		files   func(client *memReplica, a, b *source)
		txid    ltx.TXID // asked for
		want    func(a, b *source) []byte
		reaches ltx.TXID
		shared  bool     // what is wanted follows what the other writer wrote
		says    []string // in the warning; none: there is none
	}{
		{
			name: "Overwritten",
			files: func(_ *memReplica, a, b *source) {
				a.step()
				b.step() // in its place
				a.step()
			},
			want: func(_, b *source) []byte { return b.images[3] }, reaches: 3, shared: true,
			says: []string{"writer 00000000000000b2 wrote, up to txid 0000000000000003", "writer 00000000000000a1 wrote, txid 0000000000000004 to 0000000000000004"},
		},
		{
			name: "BothDiverged",
			files: func(_ *memReplica, a, b *source) {
				b.step()
				a.step()
				a.step()
				b.step()
				a.step()
			},
			want: func(a, _ *source) []byte { return a.images[3] }, reaches: 3,
			says: []string{"writer 00000000000000a1 wrote, up to txid 0000000000000003", "writer 00000000000000b2 wrote, txid 0000000000000004 to 0000000000000004"},
		},
		{
			name: "AroundByALevel",
			files: func(_ *memReplica, a, b *source) {
				a.step()
				a.step()
				a.write(2, 1, 3)
				b.step()
				b.step()
				b.write(1, 3, 4) // reaches farther than the file of level 2
				a.step()         // follows what b overwrote
				a.write(0, 4, 4)
			},
			want: func(a, _ *source) []byte { return a.images[5] }, reaches: 5,
			says: []string{"writer 00000000000000a1 wrote, up to txid 0000000000000005", "writer 00000000000000b2"},
		},
		{
			name: "Takeover",
			files: func(_ *memReplica, a, b *source) {
				a.step()
				b.takeOver(3)
				b.step()
			},
			want: func(_, b *source) []byte { return b.images[5] }, reaches: 5,
		},
		{
			name: "LateFile", // of one that slept while its place was merged and deleted
			files: func(_ *memReplica, a, b *source) {
				b.takeOver(2)
				b.step()
				b.step()
				b.whole = true // as what the first of them is merged into
				b.write(1, 3, 5)
				a.step()
			},
			want: func(_, b *source) []byte { return b.images[5] }, reaches: 5,
		},
		{
			name: "LateFileItself",
			files: func(_ *memReplica, a, b *source) {
				b.takeOver(2)
				b.step()
				a.step()
			},
			txid: 3, want: func(a, _ *source) []byte { return a.images[3] }, reaches: 3,
		},
		{
			name: "LateFileBetween",
			files: func(_ *memReplica, a, b *source) {
				b.takeOver(2)
				b.step()
				a.step()
			},
			txid: 4,
		},
	} {
		for _, checksum := range []bool{true, false} {
			t.Run(tt.name+map[bool]string{true: "/Checksums", false: "/NoChecksums"}[checksum], func(t *testing.T) {
				client, a, b := twoWriters(t, checksum)
				tt.files(client, a, b)
				opt := testOptions(t)
				opt.TXID = tt.txid
				res, image, warnings, err := restoreOf(t, client, opt)
				if tt.want == nil {
					var le *litestream.LTXError
					if !errors.As(err, &le) || le.Hint == "" {
						t.Errorf("restored %s, err=%v, want an LTXError with a hint\n%s", res.TXID, err, warnings)
					}
					return
				}
				if !checksum && tt.shared && err == nil && bytes.Equal(image, a.images[2]) && len(warnings) == 1 {
					return // nothing but the number tells that what b put behind a copy of a's fits
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Log(warnings)
				if want := tt.want(a, b); !bytes.Equal(image, want) || res.TXID != tt.reaches {
					t.Errorf("restored %s, %d bytes, want %s, %d bytes", res.TXID, len(image), tt.reaches, len(want))
				}
				if len(warnings) != min(1, len(tt.says)) {
					t.Fatalf("warnings %q", warnings)
				}
				for _, want := range tt.says {
					if !strings.Contains(warnings[0], want) {
						t.Errorf("warning %q does not say %q", warnings[0], want)
					}
				}
			})
		}
	}
}

// Files of one writer that do not fit are damage, about which people decide.
func TestRestore_LineageOfOne(t *testing.T) {
	client, a, b := twoWriters(t, true)
	b.writer = a.writer
	a.step()
	b.step()
	a.step()
	_, _, warnings, err := restoreOf(t, client, testOptions(t))
	var le *litestream.LTXError
	if !errors.As(err, &le) || len(warnings) > 0 {
		t.Errorf("err=%v, want an LTXError; warnings %q", err, warnings)
	}
}

// Whatever two writers put over and beside each other's files: what is restored
// is the state of one of them.
func TestRestore_LineageRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	restored, picked, refused := 0, 0, 0
	for n := range 60 {
		client, a, b := twoWriters(t, n%2 == 0)
		both := []*source{a, b}
		for range 3 + rnd.IntN(12) {
			s := both[rnd.IntN(2)]
			switch rnd.IntN(8) {
			default:
				s.step()
			case 0:
				s.takeOver(max(a.txid, b.txid))
			case 1:
				from := 1 + ltx.TXID(rnd.IntN(int(s.txid)))
				if s.images[from] != nil && (from == 1 || s.images[from-1] != nil) {
					s.write(1+rnd.IntN(2), from, s.txid)
				}
			case 2:
				s.write(9, 1, s.txid)
			}
		}
		res, image, warnings, err := restoreOf(t, client, testOptions(t))
		if err != nil {
			refused++
			continue
		}
		if restored++; len(warnings) > 0 {
			picked++
		}
		if !bytes.Equal(image, a.images[res.TXID]) && !bytes.Equal(image, b.images[res.TXID]) {
			t.Errorf("run %d: what is restored at %s is neither writer's: %q, plan %v", n, res.TXID, warnings, res.Plan)
		}
	}
	t.Logf("%d restored, %d of them around the other's files, %d refused", restored, picked, refused)
}

// Compaction merges the files of two writers only where the later one went on
// from what the other one left, or with the whole database.
func TestCompactor_Lineage(t *testing.T) {
	for _, checksum := range []bool{true, false} {
		client, a, b := twoWriters(t, checksum)
		a.step()
		b.takeOver(3)
		b.step()
		a.step() // in the place of the first
		a.step() // and of the second
		b.takeOver(5)
		b.step()
		c := litestream.NewCompactor(client, nil)
		info, err := c.Compact(t.Context(), 1)
		if err != nil || info.MaxTXID != 7 {
			t.Fatalf("checksums %v: merged %+v, %v", checksum, info, err)
		}
		k := fileKey{1, 1, 7}
		var hdr ltx.Header
		if err := hdr.UnmarshalBinary(client.files[k]); err != nil || hdr.NodeID != writerB {
			t.Errorf("merged file is of writer %x, %v", hdr.NodeID, err)
		}

		b.step()
		a.images[8], a.txid = a.images[5], 8 // as if it had slept
		a.step()
		c = litestream.NewCompactor(client, nil)
		if info, err := c.Compact(t.Context(), 1); err != nil || info.MinTXID != 8 || info.MaxTXID != 8 {
			t.Errorf("checksums %v: merged %+v, %v; want the writers told apart", checksum, info, err)
		}
	}
}

// A restore of all and a verification tell of two writers as well.
func TestLineage_FleetAndVerify(t *testing.T) {
	t.Parallel()
	client, a, b := twoWriters(t, true)
	a.step()
	b.step()
	a.step()
	root := t.TempDir()
	sum, rows := runFleetRestore(t.Context(), t, litestream.FleetRestoreOptions{
		Root: root, Source: "mem", Parallelism: 1,
		Entries: fleetSeq([]*litestream.FleetRestoreEntry{{Path: "/data/db", Replica: "db", TXID: 4}}),
		Open:    func(*litestream.FleetRestoreEntry) (litestream.ReplicaClient, error) { return client, nil },
	})
	row := rows["/data/db"]
	if sum.Restored != 1 || sum.Behind != 1 || row == nil || !strings.Contains(row.Warning, "left out is what writer 00000000000000a1 wrote") {
		t.Errorf("%+v, %+v", sum, row)
	}
	wantImage(t, filepath.Join(root, "data/db"), b.images[3])

	res, err := litestream.Verify(t.Context(), client, litestream.VerifyOptions{Level: litestream.VerifyRead})
	if err != nil || res.State != litestream.VerifyDiverged {
		t.Errorf("verify: %s %+v, %v, want diverged", res.State, res.Findings, err)
	}
}
