//go:build linux && (amd64 || arm64)

package disk

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/powercut"
)

// Cuttable is a disk in memory whose power can be cut: then only what was synced
// is left, and torn pieces of the rest.
type Cuttable struct {
	disk *powercut.Disk
	dir  string
}

// Power mounts an empty disk at dir, which it makes. The seed decides what a cut
// leaves.
func Power(dir string, seed uint64) (*Cuttable, error) {
	if !private() {
		return nil, fmt.Errorf("%w: mounting needs root", ErrUnavailable)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	c := &Cuttable{disk: powercut.New(seed), dir: dir}
	if err := c.disk.Mount(dir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return c, nil
}

// Cut takes the power away. Every operation fails from now on.
func (c *Cuttable) Cut() { c.disk.Cut() }

// Boot gives the power back and shows what is left. Nobody may use the disk.
func (c *Cuttable) Boot() error {
	if err := c.disk.Unmount(); err != nil {
		return fmt.Errorf("boot disk: %w", err)
	}
	if err := c.disk.Mount(c.dir); err != nil {
		return fmt.Errorf("boot disk: %w", err)
	}
	return nil
}

// Fill leaves room for no more than spare bytes, and for what is freed.
func (c *Cuttable) Fill(spare int64) error {
	c.disk.SetCapacity(c.disk.Used() + spare)
	return nil
}

// Free takes the bound away.
func (c *Cuttable) Free() error {
	c.disk.SetCapacity(0)
	return nil
}

// Flush makes every flush of a file or a folder take that long, as on an SD card.
func (c *Cuttable) Flush(takes time.Duration) {
	c.disk.SetFault(func(op powercut.Op, _ string) syscall.Errno {
		if op == powercut.Sync || op == powercut.SyncDir {
			time.Sleep(takes)
		}
		return 0
	})
}

// Close unmounts the disk, with everything on it.
func (c *Cuttable) Close() error { return c.disk.Unmount() }
