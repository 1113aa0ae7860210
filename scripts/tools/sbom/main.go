// Command sbom writes the list of a Go program's modules as CycloneDX 1.6, from what the Go toolchain recorded in the program itself.
// Started by BuildKit as a scanner of an image, it writes SPDX 2.3 instead, for the image's attestation.
//
// It needs no network and no source. The same program gives the same bytes: there is no time stamp and no random serial number in it.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
)

func main() {
	var err error
	switch source, destination := os.Getenv(scanSource), os.Getenv(scanDestination); {
	case len(os.Args) == 2:
		err = write(os.Stdout, os.Args[1])
	case len(os.Args) == 1 && source != "" && destination != "":
		err = scan(source, destination)
	default:
		fmt.Fprintf(os.Stderr, "usage: sbom PROGRAM\n   or: %s=FOLDER %s=FOLDER sbom\n", scanSource, scanDestination)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func write(w io.Writer, program string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return fmt.Errorf("read build information: %w", err)
	}
	sum, err := digest(program)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(describe(info, filepath.Base(program), sum))
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read program: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

type bom struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component  component  `json:"component"`
	Properties []property `json:"properties"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// describe keeps the order of the build information, which is sorted by module path.
func describe(info *debug.BuildInfo, name, sum string) bom {
	root := component{
		Type: "application", Ref: name, Name: name, Version: version(info),
		Hashes: []hash{{Algorithm: "SHA-256", Content: sum}},
	}
	b := bom{
		Format: "CycloneDX", Spec: "1.6", Version: 1,
		Metadata:   metadata{Component: root, Properties: []property{{Name: "go:version", Value: info.GoVersion}, {Name: "go:path", Value: info.Path}}},
		Components: []component{stdlib(info.GoVersion)},
	}
	for _, s := range info.Settings {
		b.Metadata.Properties = append(b.Metadata.Properties, property{Name: "go:build:" + s.Key, Value: s.Value})
	}
	for _, m := range info.Deps {
		b.Components = append(b.Components, module(m))
	}
	refs := make([]string, 0, len(b.Components))
	for _, c := range b.Components {
		refs = append(refs, c.Ref)
	}
	b.Dependencies = []dependency{{Ref: name, DependsOn: refs}}
	return b
}

// version is the commit that a program was built from where its module has no version of its own.
func version(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return info.Main.Version
}

// stdlib is a component too: most vulnerabilities of Go programs are reported against it.
func stdlib(goVersion string) component {
	version := goVersion
	if len(version) > 2 && version[:2] == "go" {
		version = version[2:]
	}
	url := "pkg:golang/stdlib@" + version
	return component{Type: "library", Ref: url, Name: "stdlib", Version: version, PURL: url}
}

// module follows a replacement: what was compiled counts, not what was asked for. A replacement by a folder of the same
// repository has no version and no address.
func module(m *debug.Module) component {
	used := m
	if m.Replace != nil {
		used = m.Replace
	}
	if used.Version == "" {
		return component{Type: "library", Ref: m.Path, Name: m.Path, Properties: []property{{Name: "go:replaced-by", Value: used.Path}}}
	}
	url := "pkg:golang/" + used.Path + "@" + used.Version
	c := component{Type: "library", Ref: url, Name: used.Path, Version: used.Version, PURL: url}
	if used.Sum != "" {
		c.Properties = []property{{Name: "go:sum", Value: used.Sum}}
	}
	return c
}
