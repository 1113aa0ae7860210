package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// sample is an image to be written as an OCI layout.
type sample struct {
	name, user, arch string
	labels           map[string]string
	files            map[string][]byte
}

func good(t *testing.T) sample {
	t.Helper()
	program, err := os.ReadFile(must(os.Executable()))
	if err != nil {
		t.Fatal(err)
	}
	s := sample{name: "registry.example/edge-agent:dev", user: "65532:65532", arch: runtime.GOARCH, labels: map[string]string{}}
	for _, l := range labels {
		s.labels["org.opencontainers.image."+l] = "x"
	}
	s.files = map[string][]byte{"edge-agent": program, certificates: []byte("x")}
	return s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// write returns the folder of a layout that holds the image.
func (s sample) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	put := func(v any) descriptor {
		b, ok := v.([]byte)
		if !ok {
			b = must(json.Marshal(v))
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(b))
		if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "blobs/sha256", sum), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return descriptor{Digest: "sha256:" + sum}
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, name := range []string{"edge-agent", certificates, "bin/sh"} {
		b, ok := s.files[name]
		if !ok {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(b))}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(b)
	}
	_ = w.Close()
	c := config{Architecture: s.arch, OS: "linux"}
	c.Config.User, c.Config.Labels = s.user, s.labels
	d := put(manifest{Config: put(c), Layers: []descriptor{put(layer.Bytes())}})
	d.Annotations = map[string]string{"io.containerd.image.name": s.name}
	index := must(json.Marshal(manifest{Manifests: []descriptor{d}}))
	if err := os.WriteFile(filepath.Join(dir, "index.json"), index, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func check(t *testing.T, dirs ...string) string {
	t.Helper()
	return checkFor(t, wants{}, dirs...)
}

func checkFor(t *testing.T, w wants, dirs ...string) string {
	t.Helper()
	var out strings.Builder
	faults, err := run(&out, w, dirs)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "FAIL"); got != faults {
		t.Errorf("%d faults are printed, %d counted", got, faults)
	}
	return out.String()
}

// Whatever makes an image worse than promised is named.
func TestFaults(t *testing.T) {
	f := func(want string, change func(*sample)) {
		t.Helper()
		s := good(t)
		change(&s)
		if got := check(t, s.write(t)); !strings.Contains(got, "FAIL") || !strings.Contains(got, want) {
			t.Errorf("want %q, got\n%s", want, got)
		}
	}
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}
	f("runs as root", func(s *sample) { s.user = "" })
	f("runs as root", func(s *sample) { s.user = "0:0" })
	f("the program is for", func(s *sample) { s.arch = other[s.arch] })
	f("image.licenses", func(s *sample) { delete(s.labels, "org.opencontainers.image.licenses") })
	f("no program", func(s *sample) { delete(s.files, "edge-agent") })
	f("no certificates", func(s *sample) { delete(s.files, certificates) })
	f("a shell", func(s *sample) { s.files["bin/sh"] = []byte("x") })
	f("the program is none", func(s *sample) { s.files["edge-agent"] = []byte("#!/bin/sh") })
	f("none of our images", func(s *sample) { s.name = "registry.example/other:dev" })
	f("more than 20 MB", func(s *sample) { s.arch = "arm64"; s.files[certificates] = make([]byte, 21e6) })
}

// The same image twice is said, and another one under the same name is a fault.
func TestBuiltAgain(t *testing.T) {
	first := good(t)
	if got := check(t, first.write(t), first.write(t)); !strings.Contains(got, "the same") || strings.Contains(got, "another digest") {
		t.Errorf("got\n%s", got)
	}
	if got := checkFor(t, wants{twice: true}, first.write(t), first.write(t)); strings.Contains(got, "once only") {
		t.Errorf("got\n%s", got)
	}
	if got := checkFor(t, wants{twice: true}, first.write(t)); !strings.Contains(got, "once only") {
		t.Errorf("got\n%s", got)
	}
	second := good(t)
	second.files[certificates] = []byte("y")
	if got := check(t, first.write(t), second.write(t)); !strings.Contains(got, "another digest") {
		t.Errorf("got\n%s", got)
	}
}

// An image without an attestation that is asked for is a fault.
func TestNotAttested(t *testing.T) {
	got := checkFor(t, wants{attested: []string{"slsa.dev/provenance", "spdx.dev/Document"}}, good(t).write(t))
	if strings.Count(got, "no attestation") != 2 {
		t.Errorf("got\n%s", got)
	}
}
