package disk

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// Private becomes the same program with mounts of its own, which the kernel
// removes with it however it ends. It returns nil in that program, and where
// that is not allowed: nothing can be mounted then either.
func Private() error {
	if private() || os.Geteuid() != 0 {
		return nil
	}
	runtime.LockOSThread() // what is unshared is this thread's
	if syscall.Unshare(syscall.CLONE_NEWNS) != nil {
		runtime.UnlockOSThread()
		return nil
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return fmt.Errorf("make mounts private: %w", syscall.Exec(self, os.Args, append(os.Environ(), inPrivate+"=1")))
}

// Small is a disk in memory whose size can change while it is used.
type Small struct {
	dir  string
	size int64
}

// Bound mounts an empty disk of so many bytes at dir, which it makes.
func Bound(dir string, size int64) (*Small, error) {
	if !private() {
		return nil, fmt.Errorf("%w: mounting needs root", ErrUnavailable)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	d := &Small{dir: dir, size: size}
	if err := d.mount(size, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return d, nil
}

func (d *Small) mount(size int64, flags uintptr) error {
	if err := syscall.Mount("holdfast", d.dir, "tmpfs", flags, fmt.Sprintf("size=%d,mode=0755", size)); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", d.dir, err)
	}
	return nil
}

// Fill leaves room for no more than spare bytes, and for what is freed.
func (d *Small) Fill(spare int64) error {
	used, err := d.Used()
	if err != nil {
		return err
	}
	// A size of 0 would be none at all.
	return d.mount(max(used+spare, int64(os.Getpagesize())), syscall.MS_REMOUNT)
}

// Free gives the disk its size back.
func (d *Small) Free() error { return d.mount(d.size, syscall.MS_REMOUNT) }

// Used is how many bytes are taken.
func (d *Small) Used() (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &s); err != nil {
		return 0, fmt.Errorf("look at disk %s: %w", d.dir, err)
	}
	return int64(s.Blocks-s.Bfree) * int64(s.Bsize), nil
}

// Close unmounts the disk, with everything on it.
func (d *Small) Close() error { return unmount(d.dir) }

func unmount(dir string) error {
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// Sync makes what was written to f durable, and no more of what the file system
// knows of it than is needed to read that.
func Sync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
