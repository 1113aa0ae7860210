//go:build unix

package build

import (
	"errors"
	"os"
	"syscall"
)

// lock makes two builds into one folder follow each other. The kernel frees it
// when the program ends, however it ends.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close() // the first error says more
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
