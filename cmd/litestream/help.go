package main

import (
	"flag"
	"io"
	"strings"
)

// help is the text that a command prints for -h and after a wrong flag.
type help struct {
	about    string
	forms    []string
	flags    [][2]string // flag with its argument; meaning
	notes    string
	examples []string
}

// Flags that several commands have.
var (
	configFlag    = [2]string{"-config PATH", "Configuration file. Without it: $LITESTREAM_CONFIG, else\n" + defaultConfigPath() + "."}
	expandEnvFlag = [2]string{"-no-expand-env", "Read the configuration file as it is, without replacing $NAME."}
	jsonFlag      = [2]string{"-json", "Print JSON instead of a table."}
)

func (h *help) print(w io.Writer) {
	printf(w, "%s\n\nUsage:\n", h.about)
	for _, form := range h.forms {
		printf(w, "\n\tlitestream %s\n", form)
	}
	printf(w, "\nArguments:\n")
	for _, f := range h.flags {
		printf(w, "\n\t%s\n\t    %s\n", f[0], strings.ReplaceAll(f[1], "\n", "\n\t    "))
	}
	if h.notes != "" {
		printf(w, "\n%s\n", h.notes)
	}
	if len(h.examples) > 0 {
		printf(w, "\nExamples:\n\n")
		for _, e := range h.examples {
			printf(w, "\t$ litestream %s\n", e)
		}
	}
	printf(w, "\n")
}

// printUsage prints the list of commands.
func (a *app) printUsage() {
	printf(a.stdout, "litestream replicates SQLite databases continuously and restores them.\n\n"+
		"Usage:\n\n\tlitestream <command> [arguments]\n\nThe commands are:\n\n")
	for _, c := range commands() {
		printf(a.stdout, "\t%-13s %s\n", c.name, c.summary)
	}
	printf(a.stdout, "\n\"litestream <command> -h\" describes a command.\n\n")
}

// newFlagSet returns flags that answer an error as upstream does: the error on
// stderr, the command's help on stdout.
func (a *app) newFlagSet(name string, h *help) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(a.stderr)
	fs.Usage = func() { h.print(a.stdout) }
	return fs
}

// configFlags are the two flags of every command that reads a configuration.
type configFlags struct {
	path        string
	noExpandEnv bool
}

func (f *configFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.path, "config", "", "config path")
	fs.BoolVar(&f.noExpandEnv, "no-expand-env", false, "do not expand environment variables")
}

// read loads the configuration and logs its warnings on stderr.
func (f *configFlags) read(a *app) (*Config, error) {
	cfg, err := readConfigFile(configPath(f.path), !f.noExpandEnv)
	if err != nil {
		return nil, err
	}
	cfg.logWarnings(newLogger(a.stderr, cfg.Logging))
	return cfg, nil
}
