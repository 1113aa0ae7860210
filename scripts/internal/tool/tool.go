// Package tool builds development tools, each pinned by a module of its own
// under scripts/tools, and keeps the executables outside of the repository under
// a name that says what they were built from.
package tool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
)

// Path returns the executable of a tool, building it if this version of it was
// not built before. pkg is the package to compile.
func Path(ctx context.Context, b build.Builder, name, pkg string) (string, error) {
	dir := filepath.Join("scripts", "tools", name)
	key, err := fingerprint(filepath.Join(b.Root, dir))
	if err != nil {
		return "", fmt.Errorf("tool %s: %w", name, err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("tool %s: %w", name, err)
	}
	b.Bin = filepath.Join(cache, "holdfast", "tools", name+"-"+key)
	path := filepath.Join(b.Bin, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	paths, err := b.Build(ctx, build.Program{Name: name, Dir: dir, Package: pkg})
	return paths[name], err
}

// fingerprint changes with anything that the executable depends on.
func fingerprint(dir string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, f := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}
