//go:build unix && !(linux && (amd64 || arm64))

package disk

import (
	"fmt"
	"time"
)

var errOnlyLinux = fmt.Errorf("%w: it needs Linux on amd64 or arm64", ErrUnavailable)

// Cuttable is a disk whose power can be cut.
type Cuttable struct{}

// Power is for Linux on two processors alone: no other has the FUSE library.
func Power(string, uint64) (*Cuttable, error) { return nil, errOnlyLinux }

// Cut takes the power away.
func (*Cuttable) Cut() {}

// Boot gives the power back.
func (*Cuttable) Boot() error { return errOnlyLinux }

// Fill leaves room for no more than spare bytes.
func (*Cuttable) Fill(int64) error { return errOnlyLinux }

// Free takes the bound away.
func (*Cuttable) Free() error { return errOnlyLinux }

// Flush makes every flush take that long.
func (*Cuttable) Flush(time.Duration) {}

// Close unmounts the disk.
func (*Cuttable) Close() error { return errOnlyLinux }
