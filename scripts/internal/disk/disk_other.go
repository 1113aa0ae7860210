//go:build unix && !linux

package disk

import "os"

// Private does nothing here: there are no mounts of one program's own.
func Private() error { return nil }

// Small is a disk whose size can change while it is used.
type Small struct{}

// Bound is for Linux alone.
func Bound(string, int64) (*Small, error) { return nil, errOnlyLinux }

// Fill leaves room for no more than spare bytes.
func (*Small) Fill(int64) error { return errOnlyLinux }

// Free gives the disk its size back.
func (*Small) Free() error { return errOnlyLinux }

// Used is how many bytes are taken.
func (*Small) Used() (int64, error) { return 0, errOnlyLinux }

// Close unmounts the disk.
func (*Small) Close() error { return errOnlyLinux }

// Sync makes what was written to f durable.
func Sync(f *os.File) error { return f.Sync() }
