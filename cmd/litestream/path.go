package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// expandPath strips a sqlite:// or sqlite3:// prefix, expands a leading ~ to
// the user's home directory and makes the path absolute.
func expandPath(s string) (string, error) {
	s = strings.TrimPrefix(s, "sqlite://")
	s = strings.TrimPrefix(s, "sqlite3://")
	if s == "~" || strings.HasPrefix(s, "~"+string(os.PathSeparator)) {
		home, err := homeDir()
		if err != nil {
			return "", fmt.Errorf("expand %s: %w", s, err)
		}
		s = filepath.Join(home, s[1:])
	}
	abs, err := filepath.Abs(s)
	if err != nil {
		return "", fmt.Errorf("expand %s: %w", s, err)
	}
	return abs, nil
}

// homeDir returns $HOME or, where that is unset, what the user database says.
func homeDir() (string, error) {
	if home := os.Getenv("HOME"); home != "" {
		return home, nil
	}
	u, err := user.Current()
	if err != nil {
		return "", err
	}
	return u.HomeDir, nil
}
