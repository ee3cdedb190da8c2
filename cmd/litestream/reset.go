package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/benbjohnson/litestream"
)

var resetHelp = help{
	about: "reset removes what is known locally about the replication of a database. The database and its replica stay\nas they are; the next sync captures the whole database again.",
	forms: []string{"reset [arguments] DB_PATH"},
	flags: [][2]string{
		{"-config PATH", "Configuration file, needed if the database has a meta-path of its own.\nWithout it no configuration is read."},
		expandEnvFlag,
		{"-dry-run", "List the files that would be removed and remove nothing."},
	},
	examples: []string{"reset /path/to/db", "reset -dry-run -config /etc/litestream.yml /path/to/db"},
}

func (a *app) runReset(_ context.Context, args []string) error {
	var conf configFlags
	flags := a.newFlagSet("litestream-reset", &resetHelp)
	conf.register(flags)
	dryRun := flags.Bool("dry-run", false, "list only")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() == 0:
		return &tryError{errors.New("database path required"), "litestream reset /path/to/db"}
	case flags.NArg() > 1:
		return errTooManyArguments
	}
	path, err := expandPath(flags.Arg(0))
	if err != nil {
		return err
	}
	metaPath := defaultMetaPath(path)
	if conf.path != "" {
		cfg, err := conf.read(a)
		if err != nil {
			return err
		}
		if db := cfg.db(path); db != nil {
			metaPath = db.MetaPath
		}
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("database does not exist: %s", path)
	} else if err != nil {
		return err
	}
	if _, err := os.Stat(metaPath); errors.Is(err, fs.ErrNotExist) {
		printf(a.stdout, "No local state to reset for %s\nMeta directory does not exist: %s\n", path, metaPath)
		return nil
	} else if err != nil {
		return err
	}
	if *dryRun {
		return a.previewReset(path, metaPath)
	}
	ltxDir := filepath.Join(metaPath, "ltx")
	printf(a.stdout, "Resetting local Litestream state for: %s\nRemoving: %s\n", path, ltxDir)
	// The ledger goes first: alone it would stand for files that are gone.
	if err := os.RemoveAll(litestream.LedgerPath(metaPath)); err != nil {
		return err
	}
	if err := os.RemoveAll(ltxDir); err != nil {
		return err
	}
	printf(a.stdout, "Reset complete. Next replication sync will create a fresh snapshot.\n")
	return nil
}

// previewReset lists what a reset would remove.
func (a *app) previewReset(path, metaPath string) error {
	ltxDir := filepath.Join(metaPath, "ltx")
	printf(a.stdout, "Dry run: local Litestream state would be reset for: %s\nWould remove: %s\n", path, ltxDir)
	var files []string
	err := filepath.WalkDir(metaPath, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != metaPath && filepath.Dir(p) == metaPath && p != ltxDir:
			return fs.SkipDir
		case !d.IsDir() && (filepath.Dir(p) != metaPath || p == litestream.LedgerPath(metaPath)):
			files = append(files, p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(files) == 0 {
		printf(a.stdout, "No local LTX files would be removed.\n")
		return nil
	}
	printf(a.stdout, "Files that would be removed:\n")
	for _, f := range files {
		printf(a.stdout, "  %s\n", f)
	}
	printf(a.stdout, "No files were removed.\n")
	return nil
}
