// Package powercut is a disk in memory, mounted by FUSE, that keeps only what was
// synced when its power is cut: of the bytes that no fsync covered it keeps
// random sectors of 512 bytes, of names that no fsync of their folder covered the
// first few changes. It also fails or delays single operations. It is for tests
// of programs that promise to lose nothing; it is strict where POSIX is, so a file
// whose folder was not synced may be gone, whatever ext4 would do.
package powercut

import (
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // go-fuse takes its logger from there
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// ErrUnavailable is returned by Mount where FUSE cannot be used: no /dev/fuse, or
// not allowed to mount.
var ErrUnavailable = errors.New("FUSE is not available")

// Disk is a disk that can be mounted, cut, and mounted again.
type Disk struct {
	v      *volume
	server *fuse.Server
	dir    string
}

// New makes an empty disk. The seed decides what survives a cut.
func New(seed uint64) *Disk { return &Disk{v: newVolume(seed)} }

// Available returns nil where Mount can work, or ErrUnavailable with the reason.
func Available() error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: mounting needs root", ErrUnavailable)
	}
	return nil
}

// SetCapacity bounds the disk, in bytes; 0 is no bound. What is above already stays.
func (d *Disk) SetCapacity(bytes int64) {
	d.v.mu.Lock()
	defer d.v.mu.Unlock()
	d.v.capacity = bytes
}

// Used returns the bytes that files take, reservations included.
func (d *Disk) Used() int64 {
	d.v.mu.Lock()
	defer d.v.mu.Unlock()
	return d.v.used()
}

// SetFault has fn decide before each operation whether it fails, and with what: 0
// lets it pass. name is the file's or folder's, without its path. fn may sleep to
// make an operation slow, and is called from many goroutines. nil takes it away.
func (d *Disk) SetFault(fn func(op Op, name string) syscall.Errno) {
	d.v.mu.Lock()
	defer d.v.mu.Unlock()
	d.v.fault = fn
}

// Mount puts the disk at dir, an empty folder, and turns the power on if it was cut.
func (d *Disk) Mount(dir string) error {
	if err := Available(); err != nil {
		return err
	}
	d.v.mu.Lock()
	d.v.dead = false
	d.v.mu.Unlock()
	second := time.Second
	server, err := fs.Mount(dir, &node{v: d.v, o: d.v.root}, &fs.Options{
		EntryTimeout: &second, AttrTimeout: &second,
		Logger: log.New(io.Discard, "", 0),
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, FsName: "powercut", Name: "powercut", DisableXAttrs: true,
			Logger: log.New(io.Discard, "", 0), MaxWrite: 128 << 10,
		},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	d.server, d.dir = server, dir
	return nil
}

// Cut takes the power away. When it returns, every operation fails with EIO, and
// what is left is decided: the next Mount shows it.
func (d *Disk) Cut() {
	d.v.mu.Lock()
	defer d.v.mu.Unlock()
	d.v.cut()
}

// Unmount takes the disk from its folder, also while files on it are open.
func (d *Disk) Unmount() error {
	if d.server == nil {
		return nil
	}
	err := syscall.Unmount(d.dir, syscall.MNT_DETACH)
	if err == nil {
		d.server = nil
	}
	return err
}
