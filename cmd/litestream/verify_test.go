package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// runVerifyJSON runs verify -json.
func runVerifyJSON(t *testing.T, wantCode int, args ...string) (report verifyReport, got result) {
	t.Helper()
	got = runCommand(t, append([]string{"verify", "-json"}, args...)...)
	if got.code != wantCode {
		t.Fatalf("status %d, want %d: %+v", got.code, wantCode, got)
	}
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
		t.Fatalf("%v in %q", err, got.stdout)
	}
	return report, got
}

// ltxFiles returns the files below a replica.
func ltxFiles(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ltx") {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("files=%v, %v", files, err)
	}
	return files
}

func TestVerify(t *testing.T) {
	dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
	for _, level := range []string{"list", "checksum", "read", "restore"} {
		report, _ := runVerifyJSON(t, 0, "-config", dir+"/c.yml", "-all", "-level", level)
		if report.Databases != len(paths) || report.States["ok"] != len(paths) || report.Level != level {
			t.Errorf("%s: %+v", level, report)
		}
		for _, row := range report.Rows {
			if read := level != "list"; row.Good != row.TXID || row.TXID == "" || read != (row.FilesRead > 0) || !slices.Contains(paths, row.Database) {
				t.Errorf("%s: %+v", level, row)
			}
		}
	}
	if left, err := filepath.Glob(dir + "/state/verify-*"); err != nil || len(left) > 0 {
		t.Errorf("scratch directories %v left, %v", left, err)
	}
	got := runCommand(t, "verify", "-config", dir+"/c.yml", paths[1])
	if want := paths[1] + ": ok up to txid 0000000000000001 of "; got.code != 0 || !strings.HasPrefix(got.stdout, want) {
		t.Errorf("%+v, want %q", got, want)
	}
	if report, _ := runVerifyJSON(t, 0, "-config", dir+"/c.yml", "-sample", "20%"); report.Databases != 3 {
		t.Errorf("sample: %+v", report)
	}
}

// The backup of another database, whole: only what this host knows tells.
func TestVerify_Stranger(t *testing.T) {
	dir, _ := lostFleet(t, "{{project}}/{{tenant}}")
	own, other := ltxFiles(t, dir+"/replica/p%202/t11")[0], ltxFiles(t, dir+"/replica/p%202/t08")[0]
	stranger, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, stranger, 0o600); err != nil {
		t.Fatal(err)
	}
	runVerifyJSON(t, 0, "-config", dir+"/c.yml", "-all", "-level", "checksum")
	if report, _ := runVerifyJSON(t, 1, "-config", dir+"/c.yml", "-all", "-level", "read"); report.States["diverged"] != 1 {
		t.Errorf("%+v", report)
	}
}

func TestVerify_Damaged(t *testing.T) {
	dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
	replica := dir + "/replica/p%201/t01"
	file := ltxFiles(t, replica)[0]
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(data)
	bad[120] ^= 4
	if err := os.WriteFile(file, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	runVerifyJSON(t, 0, "-config", dir+"/c.yml", "-all")
	report, got := runVerifyJSON(t, 1, "-config", dir+"/c.yml", "-all", "-level", "checksum")
	if report.States["corrupt"] != 1 || report.States["ok"] != len(paths)-1 || !strings.Contains(got.stderr, "1 of 13 replicas are not ok: 1 corrupt, 12 ok") {
		t.Errorf("%+v", got)
	}
	got = runCommand(t, "verify", "-config", dir+"/c.yml", "-all", "-level", "checksum")
	if got.code != 1 || !strings.Contains(got.stdout, "/p 1/tenants/t01.db: corrupt: 0000000000000001-0000000000000001.ltx (level 0): ") ||
		!strings.Contains(got.stdout, "no restore point is known to be good; while the database is there, `litestream replicate -once -force-snapshot`") {
		t.Errorf("%+v", got)
	}
	got = runCommand(t, "verify", "-level", "checksum", "file://"+replica)
	if got.code != 1 || !strings.HasPrefix(got.stdout, "file://"+replica+": corrupt: ") {
		t.Errorf("%+v", got)
	}
}

// A loss: the registry knows what was there.
func TestVerify_Lost(t *testing.T) {
	dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
	if err := os.RemoveAll(dir + "/replica/p%201/t01"); err != nil {
		t.Fatal(err)
	}
	report, _ := runVerifyJSON(t, 1, "-config", dir+"/c.yml", "-all", "-grace", "1ns")
	if report.States["missing-lost"] != 1 {
		t.Errorf("%+v", report)
	}
	report, _ = runVerifyJSON(t, 2, "-config", dir+"/c.yml", "-all", "-grace", "1h")
	if report.States["missing-delayed"] != 1 {
		t.Errorf("%+v", report)
	}

	// The catalog knows, and then nobody does.
	if err := os.RemoveAll(dir + "/state"); err != nil {
		t.Fatal(err)
	}
	if report, _ = runVerifyJSON(t, 2, "-config", dir+"/c.yml", "-all", "-grace", "1h"); report.States["missing-delayed"] != 1 || report.Source != "catalog" {
		t.Errorf("by the catalog: %+v", report)
	}
	if err := os.Remove(dir + "/replica/!litestream/catalogs"); err != nil {
		t.Fatal(err)
	}
	if report, _ = runVerifyJSON(t, 0, "-config", dir+"/c.yml", "-all"); report.Databases != len(paths)-1 {
		t.Errorf("%+v", report)
	}
	report, _ = runVerifyJSON(t, 1, "-config", dir+"/c.yml", paths[2])
	if report.States["missing-lost"] != 1 || !strings.Contains(report.Rows[0].Summary, "there is no backup") {
		t.Errorf("%+v", report)
	}
}

func TestVerify_Arguments(t *testing.T) {
	testFolder(t)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "database path or replica URL required"},
		{[]string{"a", "b"}, "too many arguments"},
		{[]string{"-all", "-sample", "1%"}, "cannot specify -sample with -all"},
		{[]string{"-all", "db"}, "cannot specify db with -all or -sample"},
		{[]string{"-level", "deep", "db"}, "want list, checksum, read or restore"},
		{[]string{"-sample", "0%"}, "must be a percentage such as 1%"},
		{[]string{"-sample", "5"}, "must be a percentage such as 1%"},
		{[]string{"-grace", "0s", "-all"}, "-grace must be longer than 0s"},
		{[]string{"-parallelism", "0", "-all"}, "-parallelism must be at least 1"},
	} {
		got := runCommand(t, append([]string{"verify"}, tt.args...)...)
		if got.code != 1 || !strings.Contains(got.stderr, tt.want) {
			t.Errorf("%q: %+v, want %q", tt.args, got, tt.want)
		}
	}
}
