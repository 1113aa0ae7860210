package card

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// File is a Target in a file. It has its name only when Done was called.
type File struct {
	*os.File
	path string
	size int64
}

// WriteAt leaves holes where zeros are written behind the end: most of an image
// is zeros.
func (f *File) WriteAt(b []byte, at int64) (int, error) {
	end := at + int64(len(b))
	if at < f.size || len(bytes.Trim(b, "\x00")) > 0 {
		f.size = max(f.size, end)
		return f.File.WriteAt(b, at)
	}
	f.size = end
	return len(b), f.Truncate(end)
}

// NewFile makes a file that will be called path.
func NewFile(path string) (*File, error) {
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &File{File: f, path: path}, nil
}

// Sync implements Target.
func (f *File) Sync() error { return errors.Join(f.File.Sync(), dropCache(f.File, false)) }

// Done gives the file its name, for good.
func (f *File) Done() error {
	if err := errors.Join(f.File.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.path+".part", f.path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Abandon removes what was written.
func (f *File) Abandon() error { return errors.Join(f.Close(), os.Remove(f.path+".part")) }

// Device is a Target that is a disk.
type Device struct{ *os.File }

// OpenDevice opens a disk for nobody else. On Linux the kernel refuses a disk
// that is in use.
func OpenDevice(path string) (*Device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|exclusive, 0)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("open %s: %w (run it with sudo)", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &Device{f}, nil
}

// Sync implements Target.
func (d *Device) Sync() error { return errors.Join(syncDevice(d.File), dropCache(d.File, true)) }

// Done lets the system look at the new partitions.
func (d *Device) Done() error { return errors.Join(d.Sync(), reread(d.File), d.Close()) }

// Abandon leaves the disk as it is: without a partition table.
func (d *Device) Abandon() error { return d.Close() }
