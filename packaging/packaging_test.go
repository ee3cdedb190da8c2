// Package packaging checks the unit file, the packages and the image: that
// every file they name exists, and with the system's own tools what those can
// check.
package packaging

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"
)

const root = ".." // of the repository

// program is what make package builds.
const program = "dist/package/litestream"

// nfpmConfig is what is used of nfpm's configuration.
type nfpmConfig struct {
	Name        string   `yaml:"name"`
	Arch        string   `yaml:"arch"`
	Platform    string   `yaml:"platform"`
	Version     string   `yaml:"version"`
	Section     string   `yaml:"section"`
	Priority    string   `yaml:"priority"`
	Maintainer  string   `yaml:"maintainer"`
	Description string   `yaml:"description"`
	Homepage    string   `yaml:"homepage"`
	License     string   `yaml:"license"`
	Recommends  []string `yaml:"recommends"`
	Contents    []struct {
		Source      string `yaml:"src"`
		Destination string `yaml:"dst"`
		Type        string `yaml:"type"`
		FileInfo    struct {
			Mode os.FileMode `yaml:"mode"`
		} `yaml:"file_info"`
	} `yaml:"contents"`
}

func readNFPM(t *testing.T) *nfpmConfig {
	t.Helper()
	data, err := os.ReadFile("nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg := new(nfpmConfig)
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// installed lays the files of the package below a folder, with a stand-in for
// the program, and returns the folder.
func (c *nfpmConfig) installed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range c.Contents {
		data := []byte("#!/bin/sh\n")
		if f.Source != program { // made by make package
			var err error
			if data, err = os.ReadFile(filepath.Join(root, f.Source)); err != nil {
				t.Fatal(err)
			}
		}
		dst := filepath.Join(dir, f.Destination)
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dst, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dst, f.FileInfo.Mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tool returns a program of the system, or skips the test.
func tool(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return p
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The paths are those that Litestream's own packages have.
func TestPackage_Files(t *testing.T) {
	got := map[string]string{}
	for _, f := range readNFPM(t).Contents {
		got[f.Destination] = fmt.Sprintf("%s %s %o", f.Source, f.Type, f.FileInfo.Mode)
	}
	for dst, want := range map[string]string{
		"/usr/bin/litestream":                        program + "  755",
		"/etc/litestream.yml":                        "packaging/litestream.yml config|noreplace 640",
		"/usr/lib/systemd/system/litestream.service": "packaging/litestream.service  644",
		"/usr/share/doc/litestream/copyright":        "LICENSE  644",
	} {
		if got[dst] != want {
			t.Errorf("%s is %q, want %q", dst, got[dst], want)
		}
	}
}

// TestPackage_Deb makes a Debian package of the same list and looks at it and
// at what it installs.
func TestPackage_Deb(t *testing.T) {
	dpkg := tool(t, "dpkg-deb")
	cfg := readNFPM(t)
	dir := cfg.installed(t)
	var conffiles string
	var want []string
	for _, f := range cfg.Contents {
		want = append(want, fmt.Sprintf("-%s .%s", permissions(f.FileInfo.Mode), f.Destination))
		if strings.HasPrefix(f.Type, "config") {
			conffiles += f.Destination + "\n"
		}
	}
	control := fmt.Sprintf("Package: %s\nVersion: 1.2.3\nArchitecture: amd64\nSection: %s\nPriority: %s\nMaintainer: %s\nHomepage: %s\nRecommends: %s\nDescription: %s\n",
		cfg.Name, cfg.Section, cfg.Priority, cfg.Maintainer, cfg.Homepage, strings.Join(cfg.Recommends, ", "),
		strings.ReplaceAll(strings.TrimSpace(cfg.Description), "\n", "\n "))
	for name, text := range map[string]string{"control": control, "conffiles": conffiles} {
		if err := os.MkdirAll(filepath.Join(dir, "DEBIAN"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "DEBIAN", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	deb := filepath.Join(t.TempDir(), "litestream.deb")
	run(t, dpkg, "--root-owner-group", "--build", dir, deb)
	if got := strings.TrimSpace(run(t, dpkg, "--field", deb, "Package")); got != "litestream" {
		t.Errorf("package %q", got)
	}
	var got []string
	for line := range strings.Lines(run(t, dpkg, "--contents", deb)) {
		f := strings.Fields(line)
		if strings.HasPrefix(f[0], "-") {
			if f[1] != "root/root" {
				t.Errorf("%s belongs to %s", f[len(f)-1], f[1])
			}
			got = append(got, f[0]+" "+f[len(f)-1])
		}
	}
	sortStrings := cmp.Transformer("set", func(a []string) map[string]bool {
		m := map[string]bool{}
		for _, s := range a {
			m[s] = true
		}
		return m
	})
	if diff := cmp.Diff(want, got, sortStrings); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// TestPackage_NFPM has nfpm itself make the package, with a stand-in for the
// program, and looks at what dpkg-deb finds in it.
func TestPackage_NFPM(t *testing.T) {
	dpkg := tool(t, "dpkg-deb")
	nfpm := filepath.Join(os.Getenv("LITESTREAM_TEST_CACHE"), "bin", "nfpm")
	if _, err := os.Stat(nfpm); err != nil {
		nfpm = tool(t, "nfpm") // make package installs it
	}
	cfg, dir := readNFPM(t), t.TempDir()
	for _, f := range cfg.Contents {
		data := []byte("#!/bin/sh\n")
		if f.Source != program {
			var err error
			if data, err = os.ReadFile(filepath.Join(root, f.Source)); err != nil {
				t.Fatal(err)
			}
		}
		src := filepath.Join(dir, f.Source)
		if err := os.MkdirAll(filepath.Dir(src), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(src, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yml, err := filepath.Abs("nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(dir, "litestream.deb")
	cmd := exec.CommandContext(t.Context(), nfpm, "package", "-f", yml, "-p", "deb", "-t", deb)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "VERSION=1.2.3", "ARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nfpm: %v\n%s", err, out)
	}
	for field, want := range map[string]string{
		"Package": "litestream", "Version": "1.2.3", "Architecture": "amd64", "Depends": "", "Recommends": "ca-certificates",
	} {
		if got := strings.TrimSpace(run(t, dpkg, "--field", deb, field)); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	if got := run(t, dpkg, "--info", deb, "conffiles"); got != "/etc/litestream.yml\n" {
		t.Errorf("configuration files: %q", got)
	}
	contents := run(t, dpkg, "--contents", deb)
	for _, f := range cfg.Contents {
		line := "-" + permissions(f.FileInfo.Mode) + " root/root"
		if !slices.ContainsFunc(strings.Split(contents, "\n"), func(l string) bool {
			return strings.HasPrefix(l, line) && strings.HasSuffix(l, " ."+f.Destination)
		}) {
			t.Errorf("no %s with %s in the package:\n%s", f.Destination, line, contents)
		}
	}
}

// permissions writes a mode as ls does.
func permissions(mode os.FileMode) string { return strings.TrimPrefix(mode.Perm().String(), "-") }

// TestUnit lets systemd check the unit where the package puts it.
func TestUnit(t *testing.T) {
	analyze := tool(t, "systemd-analyze")
	dir := readNFPM(t).installed(t)
	units := filepath.Join(dir, "usr/lib/systemd/system")
	for _, name := range []string{"sysinit.target", "basic.target", "shutdown.target", "multi-user.target", "network-online.target"} {
		if err := os.WriteFile(filepath.Join(units, name), []byte("[Unit]\nDescription="+name+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bin/kill"} { // of the system that it is installed on
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out := run(t, analyze, "verify", "--root="+dir, "--man=no", "--recursive-errors=one", "litestream.service")
	if strings.Contains(out, "litestream.service") {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	bad := filepath.Join(units, "litestream.service")
	if err := os.WriteFile(bad, []byte("[Service]\nType=notify\nExecStart=/usr/bin/nothing\nWatchDog=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--root="+dir, "--man=no", "litestream.service").CombinedOutput(); err == nil {
		t.Errorf("a broken unit passes, so that the check above shows nothing: %s", out)
	}
}

// The shutdown of litestream fits into what systemd gives it, and the unit is
// for a program that notifies.
func TestUnit_Settings(t *testing.T) {
	data, err := os.ReadFile("litestream.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Type=notify", "WatchdogSec=3min", "ExecStart=/usr/bin/litestream replicate", "Restart=always", "TimeoutStopSec=45s",
		"TimeoutStartSec=infinity", "KillMode=mixed", "StateDirectory=litestream", "LimitNOFILE=65536", "WantedBy=multi-user.target",
	} {
		if !strings.Contains(string(data), "\n"+want+"\n") {
			t.Errorf("the unit lacks %s", want)
		}
	}
	for _, harm := range []string{"ProtectSystem=strict", "ProtectHome=", "PrivateTmp=", "DynamicUser=", "PrivateUsers=", "MemoryDenyWriteExecute="} {
		if strings.Contains(string(data), "\n"+harm) {
			t.Errorf("%s keeps databases out of reach, or breaks programs of exec", harm)
		}
	}
}

// TestDockerfile looks at what the image is made of.
func TestDockerfile(t *testing.T) {
	data, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), "\\\n", " ")
	var user, entry string
	stages := map[string]bool{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		switch f[0] {
		case "FROM":
			user = "" // each stage begins as root
			if len(f) == 4 && f[2] == "AS" {
				stages[f[3]] = true
			}
			if strings.HasSuffix(f[1], ":latest") || !strings.Contains(f[1], ":") {
				t.Errorf("base image %s has no fixed version", f[1])
			}
		case "COPY":
			checkCopy(t, f[1:], stages)
		case "USER":
			user = f[1]
		case "ENTRYPOINT":
			entry = strings.Join(f[1:], " ")
		case "RUN", "WORKDIR", "ARG", "CMD":
		default:
			t.Errorf("unknown instruction %s", f[0])
		}
	}
	if user != "65532:65532" {
		t.Errorf("the image runs as %q, want 65532:65532", user)
	}
	if want := `["/usr/local/bin/litestream"]`; entry != want {
		t.Errorf("entry point %s, want %s", entry, want)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	_, version, _ := strings.Cut(string(mod), "\ngo ")
	version, _, _ = strings.Cut(version, ".0\n")
	if want := "FROM golang:" + version + "-"; !strings.Contains(text, want) {
		t.Errorf("the image is not built with the Go version of go.mod: want %s", want)
	}
}

// checkCopy checks that what is copied exists and is not ignored.
func checkCopy(t *testing.T, args []string, stages map[string]bool) {
	t.Helper()
	if stage, ok := strings.CutPrefix(args[0], "--from="); ok {
		if !stages[stage] {
			t.Errorf("COPY from %s, which is no stage", stage)
		}
		return
	}
	ignored, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range args[:len(args)-1] {
		if _, err := os.Stat(filepath.Join(root, src)); err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(ignored)) {
			if ok, err := path.Match(strings.TrimSpace(line), src); ok || err != nil {
				t.Errorf("%s is in .dockerignore (%v)", src, err)
			}
		}
	}
}
