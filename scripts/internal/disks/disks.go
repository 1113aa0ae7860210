// Package disks lists the disks of this machine and says why one must not be
// overwritten: it is mounted, it is not removable, it is the system's own.
package disks

import (
	"errors"
	"fmt"
	"strings"
)

// Disk is one whole disk.
type Disk struct {
	Path      string   // such as /dev/sdb or /dev/disk4
	Model     string   // what it calls itself; may be empty
	Size      int64    // bytes; 0: no card is in the reader
	Removable bool     // a card, a stick, a reader
	ReadOnly  bool     // such as by the slider of an SD card
	System    bool     // this machine runs from it
	Mounted   []string // where it, or a part of it, is in use
}

// Errors of Writable.
var (
	ErrSystem    = errors.New("this machine runs from it")
	ErrMounted   = errors.New("it is in use")
	ErrFixed     = errors.New("it is no removable disk")
	ErrReadOnly  = errors.New("it is write-protected")
	ErrNoMedium  = errors.New("no card is in it")
	ErrNotListed = errors.New("it is no whole disk of this machine")
)

// Writable returns nil when the disk may be overwritten, and otherwise the first
// reason why not.
func (d Disk) Writable() error {
	switch {
	case d.System:
		return fmt.Errorf("%s: %w", d.Path, ErrSystem)
	case !d.Removable:
		return fmt.Errorf("%s (%s): %w", d.Path, d.Model, ErrFixed)
	case len(d.Mounted) > 0:
		return fmt.Errorf("%s: %w as %s; unmount it first (%s)", d.Path, ErrMounted, strings.Join(d.Mounted, ", "), unmount(d))
	case d.Size == 0:
		return fmt.Errorf("%s: %w", d.Path, ErrNoMedium)
	case d.ReadOnly:
		return fmt.Errorf("%s: %w: move the slider of the card", d.Path, ErrReadOnly)
	}
	return nil
}

// Find returns the disk with a path out of a list.
func Find(all []Disk, path string) (Disk, error) {
	for _, d := range all {
		if d.Path == path {
			return d, nil
		}
	}
	return Disk{}, fmt.Errorf("%s: %w", path, ErrNotListed)
}
