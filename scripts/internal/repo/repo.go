// Package repo knows where the parts of the repository lie. It reads go.work,
// so a module that is added there is found without a change here.
package repo

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ErrNotFound is returned by Find when no folder from dir upwards holds a go.work.
var ErrNotFound = errors.New("no go.work here or above: run this from a checkout of the repository")

// Find returns the repository's folder, the first one from dir upwards that
// holds a go.work.
func Find(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", ErrNotFound
		}
		dir = up
	}
}

// Root returns the repository that scripts/NAME belongs to: it says so in the
// environment. A program started otherwise finds it from its working folder.
func Root() (string, error) {
	if dir := os.Getenv("HOLDFAST_ROOT"); dir != "" {
		return Find(dir)
	}
	return Find(".")
}

// Modules returns the folders of go.work's modules, relative to root, in the
// order in which go.work lists them.
func Modules(root string) ([]string, error) {
	f, err := os.Open(filepath.Join(root, "go.work"))
	if err != nil {
		return nil, fmt.Errorf("read modules: %w", err)
	}
	defer f.Close()
	var mods []string
	in := false
	for s := bufio.NewScanner(f); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "//")
		line = strings.TrimSpace(line)
		switch {
		case line == "use (":
			in = true
		case line == ")":
			in = false
		case in && line != "":
			mods = append(mods, clean(line))
		case strings.HasPrefix(line, "use "):
			mods = append(mods, clean(strings.TrimPrefix(line, "use ")))
		}
	}
	return mods, nil
}

func clean(dir string) string {
	return filepath.ToSlash(filepath.Clean(strings.Trim(strings.TrimSpace(dir), `"`)))
}
