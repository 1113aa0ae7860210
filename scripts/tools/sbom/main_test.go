package main

import (
	"bytes"
	"encoding/json"
	"os"
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
