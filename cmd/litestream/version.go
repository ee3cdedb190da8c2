package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker (make build).
var version string

var versionHelp = help{
	about: "version prints the version of this program.",
	forms: []string{"version [arguments]"},
	flags: [][2]string{{"-verbose", "Print how it was built, too."}},
}

// currentVersion returns the linked version, else the module's.
func currentVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "(development build)"
}

func (a *app) runVersion(_ context.Context, args []string) error {
	fs := a.newFlagSet("litestream-version", &versionHelp)
	verbose := fs.Bool("verbose", false, "print build details")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if !*verbose {
		_, err := fmt.Fprintln(a.stdout, currentVersion())
		return err
	}
	lines := [][2]string{{"Version:", currentVersion()}, {"Go Version:", runtime.Version()}}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				lines = append(lines, [2]string{"Git Commit:", s.Value})
			case "vcs.time":
				lines = append(lines, [2]string{"Commit Time:", s.Value})
			}
		}
	}
	lines = append(lines, [2]string{"OS/Arch:", runtime.GOOS + "/" + runtime.GOARCH})
	for _, l := range lines {
		if _, err := fmt.Fprintf(a.stdout, "%-12s %s\n", l[0], l[1]); err != nil {
			return err
		}
	}
	return nil
}
