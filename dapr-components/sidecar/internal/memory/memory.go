// Package memory gives back to the kernel what only the start of a program needed.
package memory

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dapr/kit/logger"
)

// settled is when a sidecar has done what it does once.
const settled = 5 * time.Second

// Trim gives back, once, what only the start needed. It ends with ctx, as the runtime's other parts do.
func Trim(ctx context.Context, log logger.Logger) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(settled):
	}
	if n, err := releaseProgram(); err != nil {
		log.Debugf("cannot give memory back: %v", err)
	} else {
		log.Debugf("gave %d KiB of the program's file back", n>>10)
	}
	<-ctx.Done()
	return nil
}

// releaseProgram unmaps the pages of the program's own file, two thirds of the sidecar's resident memory: the inits of a thousand
// packages have touched nearly all of them. They stay in the page cache for as long as nobody else needs the room, and what is used comes back
// by itself. Pages that the process has changed are left alone. It returns how many bytes were resident there.
func releaseProgram() (int64, error) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return 0, err
	}
	var total int64
	for _, m := range mappings(string(maps)) {
		if m.path != exe || !m.readOnly || m.changed {
			continue
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, m.start, m.end-m.start, syscall.MADV_DONTNEED); errno != 0 {
			return total, fmt.Errorf("madvise: %w", errno)
		}
		total += m.resident
	}
	return total, nil
}

type mapping struct {
	start, end uintptr
	path       string
	readOnly   bool
	changed    bool // has pages that are no longer the file's
	resident   int64
}

// mappings reads /proc/PID/smaps: a line with the addresses and the file of each mapping, followed by lines "Name:  N kB".
func mappings(smaps string) []mapping {
	var ms []mapping
	for line := range strings.Lines(smaps) {
		f := strings.Fields(line)
		if len(f) >= 5 && strings.Contains(f[0], "-") {
			ms = append(ms, newMapping(f))
			continue
		}
		if len(ms) == 0 || len(f) != 3 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch m := &ms[len(ms)-1]; f[0] {
		case "Rss:":
			m.resident = n << 10
		case "Anonymous:":
			m.changed = n > 0
		}
	}
	return ms
}

func newMapping(f []string) mapping {
	from, to, _ := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(from, 16, strconv.IntSize)
	end, err2 := strconv.ParseUint(to, 16, strconv.IntSize)
	m := mapping{start: uintptr(start), end: uintptr(end), readOnly: err1 == nil && err2 == nil && !strings.Contains(f[1], "w")}
	if len(f) >= 6 {
		m.path = f[5]
	}
	return m
}
