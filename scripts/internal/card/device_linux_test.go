//go:build amd64 || arm64

package card_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/powercut"
	"github.com/holdfast-edge/holdfast/scripts/internal/card"
	"github.com/holdfast-edge/holdfast/scripts/internal/card/cardtest"
	"github.com/holdfast-edge/holdfast/scripts/internal/require"
)

// A real disk gets the same bytes as a file, and nobody else may open it meanwhile.
func TestDevice(t *testing.T) {
	image := cardtest.Image(t)
	medium := filepath.Join(t.TempDir(), "medium")
	check(t, os.WriteFile(medium, make([]byte, whole+mb), 0o600))
	device := loop(t, medium)
	d, err := card.OpenDevice(device)
	check(t, err)
	if second, err := card.OpenDevice(device); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("opened twice: %v, %v", second, err)
	}
	stream := bytes.NewReader(image)
	b := open(t, stream)
	check(t, b.Finish())
	check(t, card.Write(t.Context(), d, b, stream, silent))
	check(t, d.Done())
	got, err := os.ReadFile(medium)
	check(t, err)
	if !bytes.Equal(got[:bootAt], image[:bootAt]) || !bytes.Equal(got[bootAt+bootSize:whole], image[bootAt+bootSize:]) {
		t.Error("the disk holds something else")
	}
}

// A real disk that vanishes half-way is an error, and the card that was on it before is none any more.
func TestDeviceThatVanishes(t *testing.T) {
	if err := powercut.Available(); err != nil {
		require.Missing(t, "fuse", err.Error())
	}
	flash, dir := powercut.New(1), t.TempDir()
	check(t, flash.Mount(dir))
	t.Cleanup(func() { check(t, flash.Unmount()) })
	medium, image := filepath.Join(dir, "medium"), cardtest.Image(t)
	f, err := os.Create(medium)
	check(t, err)
	_, err = f.Write(image)
	check(t, errors.Join(err, f.Sync(), f.Close()))
	folder, err := os.Open(dir)
	check(t, err)
	check(t, errors.Join(folder.Sync(), folder.Close()))
	d, err := card.OpenDevice(loop(t, medium))
	check(t, err)
	stream := bytes.NewReader(image)
	b := open(t, stream)
	check(t, b.Finish())
	err = card.Write(t.Context(), d, b, stream, func(_ card.Stage, done, total int64) {
		if done > total/2 {
			flash.Cut()
		}
	})
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "not usable") {
		t.Errorf("error = %v", err)
	}
	check(t, d.Abandon())
	check(t, errors.Join(flash.Unmount(), flash.Mount(dir)))
	left, err := os.ReadFile(medium)
	check(t, err)
	if len(left) < 512 || !bytes.Equal(left[:512], make([]byte, 512)) {
		t.Error("the card has a partition table")
	}
}

// loop returns a disk of the kernel's whose medium is this file.
func loop(t *testing.T, medium string) string {
	t.Helper()
	losetup := require.Program(t, "losetup")
	if os.Getuid() != 0 {
		require.Missing(t, "root", "only root can make a loop device")
	}
	out, err := exec.CommandContext(t.Context(), losetup, "--find", "--show", medium).CombinedOutput()
	if err != nil {
		require.Missing(t, "loop", fmt.Sprintf("no loop device: %v: %s", err, out))
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return device
}
