package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// limits are in bytes, uncompressed, for arm64: what most Pis run. Other platforms' programs differ by a few per cent.
var limits = map[string]int64{"edge-agent": 20e6, "cloud-api": 35e6, "daprd-edge": 80e6}

// programs are where the manifests expect them.
var programs = map[string]string{"edge-agent": "edge-agent", "cloud-api": "cloud-api", "daprd-edge": "daprd"}

const certificates = "etc/ssl/certs/ca-certificates.crt"

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM}

// image is what was found of one.
type image struct {
	name, digest, version string
	os, arch, variant     string
	size, compressed      int64
	attestations          []string
	faults                []string
}

func (i image) platform() string {
	if i.variant != "" && i.arch != "amd64" && i.arch != "arm64" {
		return i.os + "/" + i.arch + "/" + i.variant
	}
	return i.os + "/" + i.arch
}

func (i *image) fault(wrong bool, format string, args ...any) {
	if wrong {
		i.faults = append(i.faults, fmt.Sprintf(format, args...))
	}
}

// config is the part of an image's configuration that is looked at.
type config struct {
	Architecture, OS, Variant string
	Config                    struct {
		User            string
		Entrypoint, Cmd []string
		Labels          map[string]string
		Env             []string
		Volumes         map[string]any
		ExposedPorts    map[string]any
	}
}

var labels = []string{"title", "description", "version", "vendor", "licenses", "source"}

// judge looks at the configuration and at every file of the layers.
func (i *image) judge(c config, layers [][]byte) error {
	i.os, i.arch, i.variant = c.OS, c.Architecture, c.Variant
	i.version = c.Config.Labels["org.opencontainers.image.version"]
	user, _, _ := strings.Cut(c.Config.User, ":")
	i.fault(user == "" || user == "0" || user == "root", "it runs as root")
	for _, l := range labels {
		i.fault(c.Config.Labels["org.opencontainers.image."+l] == "", "no label org.opencontainers.image.%s", l)
	}
	program, known := programs[i.program()]
	i.fault(!known, "%q is none of our images", i.name)
	var found, trusted bool
	for _, l := range layers {
		i.compressed += int64(len(l))
		err := eachFile(l, func(h *tar.Header, r io.Reader) error {
			i.size += h.Size
			name := path.Clean(strings.TrimPrefix(h.Name, "/"))
			trusted = trusted || name == certificates
			i.fault(slices.Contains([]string{"sh", "bash", "busybox"}, path.Base(name)), "a shell at %s", name)
			if name != program {
				return nil
			}
			found = true
			return i.judgeProgram(r)
		})
		if err != nil {
			return err
		}
	}
	i.fault(!found, "no program at /%s", program)
	i.fault(!trusted, "no certificates at /%s", certificates)
	limit := limits[i.program()]
	i.fault(i.arch == "arm64" && i.size > limit, "more than %.0f MB", float64(limit)/1e6)
	return nil
}

func (i *image) judgeProgram(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		i.fault(true, "the program is none: %s", err)
		return nil
	}
	i.fault(f.Machine != machines[i.arch], "the program is for %s", f.Machine)
	i.fault(slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), "the program is not static")
	return nil
}

func eachFile(layer []byte, f func(*tar.Header, io.Reader) error) error {
	var r io.Reader = bytes.NewReader(layer)
	if bytes.HasPrefix(layer, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return fmt.Errorf("layer: %w", err)
		}
		r = z
	}
	files := tar.NewReader(r)
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("layer: %w", err)
		}
		if err := f(h, files); err != nil {
			return err
		}
	}
}
