// Package piimage provides images that look from outside like a card of Raspberry
// Pi OS: Debian for arm64 with a FAT boot partition. They are built once and kept.
package piimage

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed build.sh
var script []byte

// Images are the paths of the two kinds, each with FILE.sha256 beside it.
type Images struct {
	CloudInit string // as trixie has it
	FirstRun  string // as bookworm: no cloud-init files
}

// Get returns the images, and builds them if this version of them was not built
// before: ten minutes, as root, with the programs that build.sh names.
func Get(ctx context.Context, out io.Writer) (Images, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return Images{}, err
	}
	sum := sha256.Sum256(script)
	dir := filepath.Join(cache, "holdfast", "piimage-"+hex.EncodeToString(sum[:6]))
	images := Images{CloudInit: filepath.Join(dir, "pi-cloudinit.img.zst"), FirstRun: filepath.Join(dir, "pi-firstrun.img.zst")}
	if built(images.CloudInit) && built(images.FirstRun) {
		return images, nil
	}
	fmt.Fprintln(out, "building an image of Debian for arm64, once (ten minutes)")
	cmd := exec.CommandContext(ctx, "bash", "-s", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		return images, err
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return images, err
	}
	_, err = in.Write(script)
	err = errors.Join(err, in.Close(), cmd.Wait())
	if err != nil {
		return images, fmt.Errorf("build image: %w", err)
	}
	return images, nil
}

func built(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
