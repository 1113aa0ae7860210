package card

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const exclusive = unix.O_EXLOCK

// syncDevice: a raw disk has no cache, and says so with ENOTTY.
func syncDevice(f *os.File) error {
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// dropCache makes the next reading come from the medium.
func dropCache(f *os.File, _ bool) error {
	_, err := unix.FcntlInt(f.Fd(), unix.F_NOCACHE, 1)
	return err
}

// reread: macOS looks by itself when the disk is closed.
func reread(*os.File) error { return nil }
