package process

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// attributes: a process group of its own, and death with the parent.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// clockTick is USER_HZ, which is 100 on every architecture that Go runs on.
const clockTick = time.Second / 100

// liveCPU reads utime and stime, fields 14 and 15 of /proc/PID/stat.
func liveCPU(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field is the name in parentheses and may hold spaces.
	rest := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(rest) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(rest[11])
	system, _ := strconv.Atoi(rest[12])
	return time.Duration(user+system) * clockTick
}

// Memory is what the kernel counts for a process, in bytes.
type Memory struct {
	Anon int64 // RssAnon: what the program itself allocated
	File int64 // RssFile: mapped file pages, which the kernel may drop
}

// Memory returns the memory of the current run, or an error when it has ended.
func (p *Process) Memory() (Memory, error) { return memory(p.Pid(), p.spec.Name) }

// Own returns the memory of this program itself.
func Own() (Memory, error) { return memory(os.Getpid(), "this program") }

func memory(pid int, name string) (Memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("memory of %s: %w", name, err)
	}
	var m Memory
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "RssAnon":
			m.Anon = kilobytes(value)
		case "RssFile":
			m.File = kilobytes(value)
		}
	}
	return m, nil
}

func kilobytes(s string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(s), " kB"), 10, 64)
	return n << 10
}
