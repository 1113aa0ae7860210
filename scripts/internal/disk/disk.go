// Package disk makes disks that can be run full and disks whose power can be cut,
// for root on Linux; elsewhere it says why it cannot. They live in the mounts of
// this program alone (see Private) and end with it.
package disk

import (
	"errors"
	"os"
)

// ErrUnavailable is returned, wrapped with the reason, where a disk cannot be
// made.
var ErrUnavailable = errors.New("no such disk here")

// inPrivate says that this program has mounts of its own already.
const inPrivate = "HOLDFAST_PRIVATE_MOUNTS"

// private reports whether Private has done its work.
func private() bool { return os.Getenv(inPrivate) != "" }
