package repo

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The folder is found from anywhere below it, and elsewhere the error says what to do.
func TestFindGoesUpToTheWorkspace(t *testing.T) {
	root := t.TempDir()
	deep := filepath.Join(root, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(deep); !errors.Is(err, ErrNotFound) {
		t.Fatalf("without go.work: %v, want ErrNotFound", err)
	}
	writeWork(t, root, "go 1.26\n")
	got, err := Find(deep)
	if err != nil || got != root {
		t.Fatalf("Find = %q, %v, want %q", got, err, root)
	}
}

// Both forms of a use line are read, with comments and quotes; nothing else is taken for a module.
func TestModulesReadsEveryUse(t *testing.T) {
	root := t.TempDir()
	writeWork(t, root, "go 1.26\n\nuse ./one // first\nuse (\n\t./two/three\n\t\"./four\"\n)\nreplace x => ./five\n")
	got, err := Modules(root)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"one", "two/three", "four"}; !slices.Equal(got, want) {
		t.Fatalf("Modules = %q, want %q", got, want)
	}
}

func writeWork(t *testing.T, root, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(root, "go.work"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
