// Command litestream replicates SQLite databases to object storage and
// restores them. It parses flags and the configuration file and prints; what
// it does beyond that is in package litestream.
package main

import (
	"fmt"
	"os"
)

func main() {
	cfg, err := readConfigFile(configPath(""), true)
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
	cfg.logWarnings(newLogger(os.Stderr, cfg.Logging))
}
