package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// image is a file system on a loop device, whose statistics say what the device
// was really asked for: a process's own counters do not.
type image struct {
	file string // empty: somebody else's, which stays mounted
	at   string
	stat string // where the statistics are
}

// loopMajor is the number of loop devices among block devices.
const loopMajor = 7

// deviceUnder returns the loop device that a folder lies on, if it lies on one.
func deviceUnder(dir string) (*image, bool) {
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil || unix.Major(s.Dev) != loopMajor {
		return nil, false
	}
	return &image{at: dir, stat: fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(s.Dev), unix.Minor(s.Dev))}, true
}

// errNoLoop is why a figure could not be taken.
var errNoLoop = errors.New("needs root and a loop device")

func (b *bench) newImage(size int64) (*image, error) {
	if os.Geteuid() != 0 {
		return nil, errNoLoop
	}
	im := &image{file: filepath.Join(b.dir, "disk.img"), at: filepath.Join(b.dir, "disk")}
	f, err := os.Create(im.file)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close(), os.MkdirAll(im.at, 0o700)); err != nil {
		return nil, err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", im.file).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: mkfs.ext4: %s", errNoLoop, out)
	}
	return im, im.mount()
}

func (im *image) mount() error {
	if out, err := exec.Command("mount", "-o", "loop,noatime", im.file, im.at).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: mount: %s", errNoLoop, out)
	}
	d, ok := deviceUnder(im.at)
	if !ok {
		return fmt.Errorf("%w: %s is not on one", errNoLoop, im.at)
	}
	im.stat = d.stat
	return nil
}

func (im *image) unmount() error {
	if out, err := exec.Command("umount", im.at).CombinedOutput(); err != nil {
		return fmt.Errorf("umount: %w: %s", err, out)
	}
	return nil
}

func (im *image) remove() error {
	if im.file == "" {
		return nil
	}
	return errors.Join(im.unmount(), os.Remove(im.file))
}

// chill mounts it anew, with nothing of it in memory, neither as a file system nor
// as the file behind it.
func (im *image) chill() error {
	if err := im.unmount(); err != nil {
		return err
	}
	f, err := os.Open(im.file)
	if err != nil {
		return err
	}
	err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	if err != nil {
		return err
	}
	return im.mount()
}

// bytes returns what was read from and written to the device since it was mounted.
func (im *image) bytes() (read, written int64, err error) {
	d, err := os.Open(im.at)
	if err != nil {
		return 0, 0, err
	}
	if err := errors.Join(unix.Syncfs(int(d.Fd())), d.Close()); err != nil {
		return 0, 0, err
	}
	data, err := os.ReadFile(im.stat)
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) < 7 {
		return 0, 0, fmt.Errorf("%s: %q", im.stat, data)
	}
	r, err1 := strconv.ParseInt(fields[2], 10, 64)
	w, err2 := strconv.ParseInt(fields[6], 10, 64)
	return r * 512, w * 512, errors.Join(err1, err2)
}
