package build

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A program is compiled from its module alone, and an executable that is up to date is not touched.
func TestBuildLeavesWhatIsUpToDate(t *testing.T) {
	root := t.TempDir()
	write(t, root, "go.work", "this is no workspace file")
	write(t, root, "prog/go.mod", "module example.test/prog\n\ngo 1.26\n")
	write(t, root, "prog/main.go", "package main\n\nfunc main() { println(\"ran\") }\n")
	b := Builder{Root: root, Out: &bytes.Buffer{}}
	prog := Program{Name: "prog", Dir: "prog", Package: "."}
	paths, err := b.Build(t.Context(), prog)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(paths["prog"]).CombinedOutput()
	if err != nil || string(out) != "ran\n" {
		t.Fatalf("it printed %q, %v", out, err)
	}
	before, err := os.Stat(paths["prog"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Build(t.Context(), prog); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(paths["prog"])
	if err != nil || !os.SameFile(before, after) {
		t.Fatalf("the executable was replaced: %v", err)
	}
}

// What the compiler says is part of the error.
func TestBuildErrorShowsTheCompilersWords(t *testing.T) {
	root := t.TempDir()
	write(t, root, "prog/go.mod", "module example.test/prog\n\ngo 1.26\n")
	write(t, root, "prog/main.go", "package main\n\nfunc main() { nonsense() }\n")
	_, err := Builder{Root: root, Out: &bytes.Buffer{}}.Build(t.Context(), Program{Name: "prog", Dir: "prog", Package: "."})
	if err == nil || !strings.Contains(err.Error(), "undefined: nonsense") {
		t.Fatalf("error = %v", err)
	}
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
