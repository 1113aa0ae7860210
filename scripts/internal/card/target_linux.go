package card

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const exclusive = unix.O_EXCL

func syncDevice(f *os.File) error { return f.Sync() }

// dropCache makes the next reading come from the medium.
func dropCache(f *os.File, device bool) error {
	if device {
		return unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// reread tells the kernel of a new partition table. Busy is no fault: a desktop
// that looks at the disk already was told.
func reread(f *os.File) error {
	err := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
