//go:build unix && !linux

package process

import (
	"errors"
	"syscall"
	"time"
)

// attributes: a process group of its own. There is no parent-death signal here.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// liveCPU is unknown without /proc: only ended runs are counted.
func liveCPU(int) time.Duration { return 0 }

// Memory is what the kernel counts for a process, in bytes.
type Memory struct {
	Anon int64 // what the program itself allocated
	File int64 // mapped file pages
}

// Memory is known on Linux only.
func (p *Process) Memory() (Memory, error) { return Memory{}, errors.ErrUnsupported }

// Own is known on Linux only.
func Own() (Memory, error) { return Memory{}, errors.ErrUnsupported }
