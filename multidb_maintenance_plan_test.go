package litestream

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"
)

const planPath = "/data/t1.db"

func planSettings() maintenanceSettings {
	return maintenanceSettings{
		Levels: DefaultCompactionLevels(), SnapshotInterval: 24 * time.Hour, SnapshotRetention: 24 * time.Hour,
		L0Retention: 5 * time.Minute, Grace: 10 * time.Minute, RetentionEnabled: true,
	}
}

// planFiles is a large database at position 10 whose levels are up to date.
func planFiles() tenantFiles {
	at := stampOf(retentionNow)
	return tenantFiles{
		known: true, first: true, pos: 10, base: tenantBase{txid: 10, size: 8 << 20, at: at},
		snapshots: 1, oldestAt: at, done: 10, doneAt: at, mark: 10, markAt: at, oldest: 10,
	}
}

func TestTenantFiles_Due(t *testing.T) {
	const m, h = time.Minute, time.Hour
	now := stampOf(retentionNow)
	boundary := func(interval time.Duration) time.Duration {
		lvl := CompactionLevel{Interval: interval}
		return lvl.nextAt(retentionNow, phase(planPath, interval)).Sub(retentionNow)
	}
	tests := []struct {
		name   string
		change func(f *tenantFiles, s *maintenanceSettings)
		want   time.Duration // from retentionNow on; -1 is never
	}{
		{"Zero", func(f *tenantFiles, _ *maintenanceSettings) { *f = tenantFiles{} }, -1},
		{"FirstBackup", func(f *tenantFiles, _ *maintenanceSettings) {
			*f = tenantFiles{}
			f.noteUpload(&ltx.FileInfo{MinTXID: 1, MaxTXID: 1, Size: 100}, retentionNow)
		}, -1},
		{"UploadToUnknown", func(f *tenantFiles, _ *maintenanceSettings) {
			*f = tenantFiles{}
			f.noteUpload(&ltx.FileInfo{MinTXID: 7, MaxTXID: 7, Size: 100}, retentionNow)
		}, boundary(30 * time.Second)},
		{"FirstFileExpires", func(*tenantFiles, *maintenanceSettings) {}, 24*h + 10*m},
		{"FirstFileStaysWithLevel0", func(_ *tenantFiles, s *maintenanceSettings) { s.L0Retention = 0 }, -1},
		{"OnlyBase", func(f *tenantFiles, _ *maintenanceSettings) { f.first = false }, -1},
		{"RetentionDisabled", func(_ *tenantFiles, s *maintenanceSettings) { s.RetentionEnabled = false }, -1},
		{"SnapshotsStay", func(_ *tenantFiles, s *maintenanceSettings) { s.SnapshotRetention = 0 }, -1},
		{"SmallBasesWaitForEachOther", func(f *tenantFiles, _ *maintenanceSettings) {
			f.base.size, f.snapshots, f.oldestAt = 1000, 3, now-3600*20
		}, 24*h + 10*m},
		{"SmallBasesWaitTwiceAtMost", func(f *tenantFiles, _ *maintenanceSettings) {
			f.base.size, f.snapshots, f.oldestAt = 1000, 3, now-3600*30
		}, 18*h + 20*m},
		{"LargeBasesDoNotWait", func(f *tenantFiles, _ *maintenanceSettings) {
			f.snapshots, f.oldestAt = 3, now-3600*20
		}, 4*h + 10*m},
		{"Pending", func(f *tenantFiles, _ *maintenanceSettings) {
			f.pos, f.pendingSince, f.newSince = 11, now, now
		}, boundary(30 * time.Second)},
		{"PendingWithoutLevels", func(f *tenantFiles, s *maintenanceSettings) {
			f.first, f.pos, f.pendingSince, f.newSince = false, 11, now, now
			s.Levels = DefaultCompactionLevels()[:1]
		}, boundary(24 * h)},
		{"Stuck", func(f *tenantFiles, s *maintenanceSettings) {
			f.first, f.gone, f.stuck, f.oldest = false, true, true, 11
			f.pos, f.pendingSince, f.newSince, f.levels[1] = 12, now, now, tenantLevel{9, now}
		}, -1},
		{"SnapshotOfTheDay", func(f *tenantFiles, _ *maintenanceSettings) {
			f.first, f.pos, f.done, f.newSince = false, 11, 11, now
		}, boundary(24 * h)},
		{"NoSnapshotOfDeleted", func(f *tenantFiles, _ *maintenanceSettings) {
			f.first, f.gone, f.pos, f.done, f.oldest, f.newSince = false, true, 11, 11, 11, now
		}, -1},
		{"NothingRestorable", func(f *tenantFiles, _ *maintenanceSettings) { f.base.txid = 0 }, 0},
		{"FewFilesDoNotClimb", func(f *tenantFiles, s *maintenanceSettings) {
			f.first, f.levels[1] = false, tenantLevel{minClimbFiles - 1, now}
		}, -1},
		{"Climb", func(f *tenantFiles, s *maintenanceSettings) {
			f.first, f.levels[1] = false, tenantLevel{minClimbFiles, now}
		}, boundary(5 * m)},
		{"ClimbIntoLevelThatIsNotConfigured", func(f *tenantFiles, s *maintenanceSettings) {
			f.first, f.levels[3] = false, tenantLevel{100, now}
		}, -1},
		{"FewL0FilesWaitForTheBase", func(f *tenantFiles, _ *maintenanceSettings) { f.oldest = 5 }, 24*h + 10*m},
		{"FewL0FilesAlone", func(f *tenantFiles, _ *maintenanceSettings) { f.first, f.oldest = false, 5 }, 15 * m},
		{"ManyL0Files", func(f *tenantFiles, _ *maintenanceSettings) {
			f.pos, f.done, f.base.txid, f.mark, f.oldest = 110, 110, 110, 110, 5
		}, 15 * m},
		{"LargeL0Files", func(f *tenantFiles, _ *maintenanceSettings) { f.oldest, f.oldBytes = 5, 2<<20 }, 15 * m},
		{"L0FilesWaitTwiceAtMost", func(f *tenantFiles, _ *maintenanceSettings) {
			f.oldest, f.oldBytes, f.mark, f.markAt = 5, 2<<20, 6, now-20*60
		}, 10 * m},
		{"Rest", func(f *tenantFiles, _ *maintenanceSettings) { f.rest = now + 48*3600 }, 48 * h},
		{"Fruitless", func(f *tenantFiles, _ *maintenanceSettings) { f.fruitless = maxFruitless + 1 }, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, s := planFiles(), planSettings()
			tt.change(&f, &s)
			due := f.due(s, planPath)
			if got := due.Sub(retentionNow); due.IsZero() != (tt.want < 0) || tt.want >= 0 && got != tt.want {
				t.Errorf("due %v (%s from now), want %s", due, got, tt.want)
			}
		})
	}
}

func TestTenantFiles_Plan(t *testing.T) {
	now, past := stampOf(retentionNow), stampOf(retentionNow.Add(-100*time.Hour))
	tests := []struct {
		name   string
		change func(f *tenantFiles)
		want   maintenancePlan
	}{
		{"Nothing", func(*tenantFiles) {}, maintenancePlan{}},
		{"Unknown", func(f *tenantFiles) { *f = tenantFiles{pos: 9, pendingSince: past} }, maintenancePlan{list: true}},
		{"Compact", func(f *tenantFiles) { f.pos, f.pendingSince, f.newSince = 12, past, now }, maintenancePlan{compact: []int{1}}},
		{"CompactAndClimb", func(f *tenantFiles) {
			f.pos, f.pendingSince, f.newSince = 12, past, now
			f.levels[1], f.levels[2] = tenantLevel{9, past}, tenantLevel{8, past}
		}, maintenancePlan{compact: []int{1, 2, 3}}},
		{"BytesOutweigh", func(f *tenantFiles) {
			f.pos, f.pendingSince, f.newSince, f.sinceBytes, f.pendingBytes = 12, past, now, 5<<20, 3<<20
		}, maintenancePlan{snapshot: true}},
		{"ObjectsOutweigh", func(f *tenantFiles) {
			f.pos, f.pendingSince, f.newSince, f.sinceFiles = 12, past, now, 511
		}, maintenancePlan{snapshot: true}},
		{"NearlyOutweigh", func(f *tenantFiles) {
			f.pos, f.pendingSince, f.newSince, f.sinceFiles = 12, past, now, 510
		}, maintenancePlan{compact: []int{1}}},
		{"DeletedCannotSnapshot", func(f *tenantFiles) {
			f.gone, f.pos, f.pendingSince, f.newSince, f.sinceFiles = true, 12, past, now, 5000
		}, maintenancePlan{compact: []int{1}}},
		{"SnapshotOfTheDayTakesThePlace", func(f *tenantFiles) {
			f.pos, f.pendingSince, f.newSince, f.levels[1] = 12, past, past, tenantLevel{9, past}
		}, maintenancePlan{snapshot: true}},
		{"Retain", func(f *tenantFiles) { f.base.at, f.oldestAt = past, past }, maintenancePlan{retain: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := planFiles()
			tt.change(&f)
			got := f.plan(planSettings(), planPath, retentionNow)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(maintenancePlan{})); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTenantFiles_NoteListing(t *testing.T) {
	const h = time.Hour
	at := func(age time.Duration) stamp { return stampOf(retentionNow.Add(-age)) }
	sized := func(f *ltx.FileInfo, size int64) *ltx.FileInfo { f.Size = size; return f }
	tests := []struct {
		name string
		f    tenantFiles
		tree []*ltx.FileInfo
		want tenantFiles
	}{
		{"Empty", tenantFiles{}, nil, tenantFiles{known: true, doneAt: at(0), markAt: at(0)}},
		{"First", tenantFiles{}, []*ltx.FileInfo{sized(ageFile(0, 1, 1, h), 50)}, tenantFiles{
			known: true, pos: 1, base: tenantBase{1, 50, at(h)}, first: true,
			done: 1, doneAt: at(0), mark: 1, markAt: at(0),
		}},
		{"Levels", tenantFiles{done: 9, doneAt: at(2 * h), mark: 4, markAt: at(8 * h), stuck: true}, []*ltx.FileInfo{
			ageFile(0, 1, 1, 90*h), sized(ageFile(0, 9, 9, 3*h), 5), sized(ageFile(0, 10, 10, h), 7),
			sized(ageFile(1, 5, 6, 5*h), 10), sized(ageFile(1, 7, 9, 3*h), 10),
			sized(ageFile(2, 5, 6, 4*h), 15), sized(ageFile(9, 1, 3, 8*h), 99), sized(ageFile(9, 1, 4, 7*h), 100),
		}, tenantFiles{
			known: true, stuck: true, pos: 10, base: tenantBase{4, 100, at(7 * h)}, first: true, newSince: at(5 * h),
			snapshots: 2, oldestAt: at(8 * h), secondAt: at(7 * h), done: 9, doneAt: at(2 * h), mark: 9, markAt: at(2 * h),
			pendingSince: at(h), pendingBytes: 7, oldest: 9, oldBytes: 5,
			levels:     [MaxCompactionLevel + 1]tenantLevel{1: {1, at(3 * h)}, 2: {1, at(4 * h)}},
			sinceFiles: 3, sinceBytes: 35,
		}},
		{"Gap", tenantFiles{}, []*ltx.FileInfo{ageFile(0, 1, 1, h), ageFile(0, 3, 3, h)}, tenantFiles{
			known: true, pos: 3, base: tenantBase{0, 0, at(h)}, first: true, newSince: at(h),
			done: 1, doneAt: at(0), mark: 1, markAt: at(0), pendingSince: at(h), oldest: 3,
		}},
		{"UploadedMeanwhile", tenantFiles{pos: 8, pendingBytes: 30}, []*ltx.FileInfo{ageFile(9, 1, 5, h)}, tenantFiles{
			known: true, pos: 8, base: tenantBase{5, 0, at(h)}, newSince: at(0), snapshots: 1, oldestAt: at(h),
			done: 5, doneAt: at(0), mark: 5, markAt: at(0), pendingSince: at(0), pendingBytes: 30, oldest: 6,
		}},
		{"TimeToCome", tenantFiles{}, []*ltx.FileInfo{ageFile(9, 1, 5, -h)}, tenantFiles{
			known: true, pos: 5, base: tenantBase{5, 0, at(0)}, snapshots: 1, oldestAt: at(0),
			done: 5, doneAt: at(0), mark: 5, markAt: at(0),
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.f
			got.noteListing(tt.tree, 5, retentionNow)
			if got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestTenantFiles_Encoding(t *testing.T) {
	large := planFiles()
	large.pos, large.base.txid, large.done, large.mark, large.oldest = 1<<40, 1<<40-5, 1<<40-3, 1<<39, 1<<40-100
	large.base.size, large.pendingBytes, large.oldBytes, large.sinceBytes = 1<<40, 1<<40, 1<<40, 1<<41
	large.gone, large.stuck, large.sinceFiles, large.snapshots = true, true, 100000, 100000
	for i := range large.levels[1:] {
		large.levels[i+1] = tenantLevel{100000, large.base.at + 1000000}
	}
	huge := large
	huge.pos, huge.done = math.MaxInt64, 1
	huge.base.txid, huge.mark, huge.oldest, huge.base.at = 1, 1, 1, math.MaxInt64
	huge.newSince, huge.oldestAt, huge.rest = 1, 1, 1
	for i := range huge.levels[1:] {
		huge.levels[i+1] = tenantLevel{math.MaxInt64, 1}
	}
	unknown := tenantFiles{pendingSince: 1}
	for _, tt := range []struct {
		name    string
		f, want tenantFiles
	}{
		{"Zero", tenantFiles{}, tenantFiles{}},
		{"Typical", planFiles(), planFiles()},
		{"Large", large, large},
		{"TooLong", huge, unknown},
		{"Unknown", unknown, unknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data, err := tt.f.MarshalBinary()
			if err != nil || len(data) > maxTenantFilesSize {
				t.Fatalf("%d bytes, err=%v", len(data), err)
			}
			t.Logf("%d bytes", len(data))
			var got tenantFiles
			if err := got.UnmarshalBinary(data); err != nil || got != tt.want {
				t.Errorf("err=%v\ngot  %+v\nwant %+v", err, got, tt.want)
			}
		})
	}
}

func FuzzTenantFiles(f *testing.F) {
	data, err := planFiles().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:len(data)-crc32.Size])
	f.Add([]byte{tenantFilesVersion})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var bad, got, again tenantFiles
		if err := bad.UnmarshalBinary(data); err != nil {
			if !errors.Is(err, errTenantFiles) || bad.due(planSettings(), planPath).After(time.Now()) {
				t.Fatalf("err=%v: %+v", err, bad)
			}
		}
		data = binary.BigEndian.AppendUint32(data, crc32.ChecksumIEEE(data))
		if got.UnmarshalBinary(data) != nil {
			return
		}
		got.plan(planSettings(), planPath, retentionNow)
		data, err := got.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalBinary(data); err != nil || again != got && again != (tenantFiles{pendingSince: 1}) {
			t.Fatalf("err=%v\ngot  %+v\nwant %+v", err, again, got)
		}
	})
}

func TestDeletedDue(t *testing.T) {
	if got := deletedDue(retentionNow, 0); !got.IsZero() {
		t.Errorf("due at %s though replicas are kept for ever", got)
	}
	if got := deletedDue(time.Time{}, time.Hour); !got.IsZero() {
		t.Errorf("due at %s though the database is there", got)
	}
	if got, want := deletedDue(retentionNow, time.Hour), retentionNow.Add(time.Hour); !got.Equal(want) {
		t.Errorf("due at %s, want %s", got, want)
	}
}
