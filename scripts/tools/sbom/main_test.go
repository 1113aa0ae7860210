package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

// The list names the program's own hash, the standard library and every module with its address, and is the same each time.
func TestListOfARealProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, w := range []*bytes.Buffer{&first, &second} {
		if err := write(w, self); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two lists of one program differ")
	}
	var got bom
	if err := json.Unmarshal(first.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Format != "CycloneDX" || len(got.Metadata.Component.Hashes) != 1 || len(got.Metadata.Component.Hashes[0].Content) != 64 {
		t.Errorf("incomplete head: %+v", got.Metadata.Component)
	}
	if len(got.Components) == 0 || !strings.HasPrefix(got.Components[0].PURL, "pkg:golang/stdlib@1.") {
		t.Errorf("standard library is missing: %+v", got.Components)
	}
}

// A program's own version is its module's, and its commit where that has none.
func TestVersionIsTheCommit(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "c5ca95d"}}}
	if got := version(info); got != "c5ca95d" {
		t.Errorf("got %q, want the commit", got)
	}
	info.Main.Version = "v1.2.0"
	if got := version(info); got != "v1.2.0" {
		t.Errorf("got %q, want the module's version", got)
	}
}

// A module that another one stands in for is listed as what was compiled; one that is a folder beside it has no address.
func TestReplacedModules(t *testing.T) {
	other := module(&debug.Module{Path: "example.com/a", Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/b", Version: "v2.1.0", Sum: "h1:x"}})
	if got, want := other.PURL, "pkg:golang/example.com/b@v2.1.0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	folder := module(&debug.Module{Path: "example.com/a", Replace: &debug.Module{Path: "../a"}})
	if folder.PURL != "" || folder.Properties[0].Value != "../a" {
		t.Errorf("a folder got an address: %+v", folder)
	}
}

// A file that is no Go program is an error, not an empty list.
func TestNotAGoProgram(t *testing.T) {
	if err := write(&bytes.Buffer{}, "go.mod"); err == nil {
		t.Error("go.mod passed for a program")
	}
}

// A scanner finds the program among an image's files, names it with its hash and every module with its address, and gives the same bytes again.
func TestScanOfAnImage(t *testing.T) {
	self, err := os.ReadFile(must(os.Executable()))
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), "sbom")
	for name, b := range map[string][]byte{"etc/passwd": []byte("root"), "edge-agent": self} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(source, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var found [2][]byte
	for n := range found {
		to := t.TempDir()
		if err := scan(source, to); err != nil {
			t.Fatal(err)
		}
		if found[n], err = os.ReadFile(filepath.Join(to, "sbom.spdx.json")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(found[0], found[1]) {
		t.Error("two lists of one image differ")
	}
	var got statement
	if err := json.Unmarshal(found[0], &got); err != nil {
		t.Fatal(err)
	}
	p := got.Predicate.Packages
	if got.PredicateType != "https://spdx.dev/Document" || len(p) < 2 || p[0].Name != "edge-agent" || len(p[0].Checksums) != 1 || !strings.HasPrefix(p[1].Refs[0].Locator, "pkg:golang/stdlib@1.") {
		t.Errorf("incomplete: %s", found[0])
	}
	if len(got.Predicate.Relationships) != len(p) {
		t.Errorf("%d relationships of %d packages", len(got.Predicate.Relationships), len(p))
	}
}

// An image without a Go program is an error, not an empty list.
func TestScanOfNothing(t *testing.T) {
	if err := scan(t.TempDir(), t.TempDir()); err == nil {
		t.Error("an empty image has a list")
	}
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}
