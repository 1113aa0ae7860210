package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// What BuildKit tells its scanners, see its docs/attestations/sbom-protocol.md.
const (
	scanSource      = "BUILDKIT_SCAN_SOURCE"      // folder with the files of the image
	scanDestination = "BUILDKIT_SCAN_DESTINATION" // folder for what was found
)

// statement is what BuildKit attaches to the image; it adds the image's digest as the subject.
type statement struct {
	Type          string   `json:"_type"`
	PredicateType string   `json:"predicateType"`
	Predicate     document `json:"predicate"`
}

// document is the part of SPDX 2.3 that is needed.
type document struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID            string        `json:"SPDXID"`
	Name          string        `json:"name"`
	Version       string        `json:"versionInfo,omitempty"`
	Location      string        `json:"downloadLocation"`
	FilesAnalyzed bool          `json:"filesAnalyzed"`
	Checksums     []checksum    `json:"checksums,omitempty"`
	Refs          []externalRef `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type externalRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// scan writes the modules of every Go program in source as one SPDX document into destination. A source without any is an error: there is
// nothing else in our images that a list could be of.
func scan(source, destination string) error {
	doc := document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: filepath.Base(source),
		// The same image has the same list: no time of its own, and a namespace made of what is listed.
		Creation: creation{Created: "1970-01-01T00:00:00Z", Creators: []string{"Tool: holdfast-sbom"}},
	}
	err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // no Go program
		}
		sum, err := digest(path)
		if err != nil {
			return err
		}
		doc.add(describe(info, d.Name(), sum))
		doc.Namespace = "https://github.com/holdfast-edge/holdfast/sbom/" + sum
		return nil
	})
	if err != nil {
		return fmt.Errorf("scan %s: %w", source, err)
	}
	if len(doc.Packages) == 0 {
		return fmt.Errorf("scan %s: %w", source, errors.New("no Go program in it"))
	}
	b, err := json.Marshal(statement{Type: "https://in-toto.io/Statement/v0.1", PredicateType: "https://spdx.dev/Document", Predicate: doc})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(destination, doc.Name+".spdx.json"), b, 0o600)
}

// add lists a program and what it was compiled from.
func (d *document) add(b bom) {
	program := d.pack(b.Metadata.Component)
	d.Relationships = append(d.Relationships, relationship{d.ID, "DESCRIBES", program})
	for _, c := range b.Components {
		d.Relationships = append(d.Relationships, relationship{program, "DEPENDS_ON", d.pack(c)})
	}
}

func (d *document) pack(c component) (id string) {
	p := spdxPackage{ID: "SPDXRef-" + strconv.Itoa(len(d.Packages)), Name: c.Name, Version: c.Version, Location: "NOASSERTION"}
	if c.PURL != "" {
		p.Refs = []externalRef{{"PACKAGE-MANAGER", "purl", c.PURL}}
	}
	for _, h := range c.Hashes {
		p.Checksums = append(p.Checksums, checksum{"SHA256", h.Content})
	}
	d.Packages = append(d.Packages, p)
	return p.ID
}
