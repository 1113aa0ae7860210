// Package deb builds the Debian package holdfast-edge from this checkout, for
// any of the architectures that a Pi or a server has.
package deb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/tool"
)

// Arch is an architecture as Debian calls it.
type Arch string

// The architectures that a package can be built for. armhf is built for armv6,
// which Raspberry Pi OS promises to be enough, so that it runs on a Pi Zero too.
const (
	ARM64 Arch = "arm64"
	ARMHF Arch = "armhf"
	AMD64 Arch = "amd64"
)

// Arches are all of them.
var Arches = []Arch{ARM64, ARMHF, AMD64}

// env is what the compiler wants for an architecture.
func (a Arch) env() ([]string, error) {
	switch a {
	case ARM64, AMD64:
		return []string{"GOOS=linux", "GOARCH=" + string(a)}, nil
	case ARMHF:
		return []string{"GOOS=linux", "GOARCH=arm", "GOARM=6"}, nil
	}
	return nil, fmt.Errorf("architecture %q: want arm64, armhf or amd64", string(a))
}

// Build builds the package and returns its path: dir/holdfast-edge_VERSION_ARCH.deb.
func Build(ctx context.Context, b build.Builder, arch Arch, version, dir string) (string, error) {
	env, err := arch.env()
	if err != nil {
		return "", err
	}
	agent, sidecar := build.EdgeAgent, build.Daprd
	agent.Version = version
	b.Env, b.Bin = env, filepath.Join(b.Root, ".cache", "deb", string(arch))
	if _, err := b.Build(ctx, agent, sidecar); err != nil {
		return "", err
	}
	return Pack(ctx, b, arch, version, dir)
}

// Pack builds the package from programs that are in b.Bin already.
func Pack(ctx context.Context, b build.Builder, arch Arch, version, dir string) (string, error) {
	// The tool is this machine's, whatever the programs are for.
	nfpm, err := tool.Path(ctx, build.Builder{Root: b.Root, Out: b.Out, TTY: b.TTY}, "nfpm", "github.com/goreleaser/nfpm/v2/cmd/nfpm")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	config, err := settings(b, arch, version, dir)
	if err != nil {
		return "", fmt.Errorf("package for %s: %w", arch, err)
	}
	target := filepath.Join(dir, fmt.Sprintf("holdfast-edge_%s_%s.deb", version, arch))
	cmd := exec.CommandContext(ctx, nfpm, "package", "--packager", "deb", "--config", config, "--target", target+".new")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("package for %s: %w: %s", arch, err, bytes.TrimSpace(out))
	}
	if err := errors.Join(err, os.Remove(config)); err != nil {
		return "", err
	}
	return target, os.Rename(target+".new", target)
}

// settings writes nfpm's file with the values of this package; nfpm itself
// replaces them in some places only.
func settings(b build.Builder, arch Arch, version, dir string) (string, error) {
	files := filepath.Join(b.Root, "edge-agent", "packaging")
	text, err := os.ReadFile(filepath.Join(files, "nfpm.yaml"))
	if err != nil {
		return "", err
	}
	values := map[string]string{
		"PACKAGE_ARCH": string(arch), "PACKAGE_VERSION": version, "PACKAGE_BIN": b.Bin,
		"PACKAGE_FILES": files, "PACKAGE_COMPONENTS": filepath.Join(b.Root, "dapr-components"),
	}
	path := filepath.Join(dir, fmt.Sprintf(".nfpm-%s.yaml", arch))
	return path, os.WriteFile(path, []byte(os.Expand(string(text), func(name string) string { return values[name] })), 0o600)
}

// Version says which version a checkout is; it has the number of commits in it, so
// that a later one is an upgrade.
func Version(ctx context.Context, root string) (string, error) {
	const base = "0.1.0"
	out, err := exec.CommandContext(ctx, "git", "-C", root, "rev-list", "--count", "HEAD").Output()
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return base, nil // an archive without history
	}
	commit, err := exec.CommandContext(ctx, "git", "-C", root, "rev-parse", "--short=10", "HEAD").Output()
	if err != nil {
		return "", errors.Join(errors.New("ask git for the commit"), err)
	}
	return fmt.Sprintf("%s+%s.g%s", base, strings.TrimSpace(string(out)), strings.TrimSpace(string(commit))), nil
}
