// Package copies makes copies of what programs keep on their disks: a device's
// folder, as a snapshot of its card would be, and a database, as its backup would.
package copies

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Folder puts a copy of folder from in the place of to. A socket in it is left
// out: it is nothing without the process that listens on it, on a card as well.
func Folder(to, from string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch target := filepath.Join(to, rel); {
		case e.IsDir():
			return os.MkdirAll(target, 0o700)
		case e.Type().IsRegular():
			return file(target, path)
		}
		return nil
	})
}

// Database copies an SQLite database with what lies beside it (-wal, -shm) into a
// folder.
func Database(to, database string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	return besides(database, func(path string) error {
		return file(filepath.Join(to, filepath.Base(path)), path)
	})
}

// RemoveDatabase removes a database with what lies beside it.
func RemoveDatabase(database string) error { return besides(database, os.Remove) }

func file(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

func besides(database string, do func(path string) error) error {
	entries, err := os.ReadDir(filepath.Dir(database))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), filepath.Base(database)) {
			continue
		}
		if err := do(filepath.Join(filepath.Dir(database), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
