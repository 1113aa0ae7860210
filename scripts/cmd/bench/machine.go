package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// machine describes what the figures were taken on.
func machine() string {
	model := "unknown processor"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s/%s, %s", model, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// bind becomes the same program on the first n processors: children inherit
// them, and Go sees that many cores.
func bind(n int) error {
	if n == 0 || runtime.NumCPU() <= n {
		return nil
	}
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		return errors.New("--cores needs the program taskset (Debian: util-linux); --cores 0 uses all processors")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{taskset, "-c", fmt.Sprintf("0-%d", n-1), self}, os.Args[1:]...)
	return fmt.Errorf("taskset: %w", syscall.Exec(taskset, args, os.Environ()))
}

// armSizes compiles what runs on a Pi and returns how large it is.
func armSizes(ctx context.Context, b build.Builder, sidecar bool) (map[string]int64, error) {
	programs := []build.Program{build.EdgeAgent}
	if sidecar {
		programs = append(programs, build.Daprd)
	}
	b.Bin = filepath.Join(b.Root, ".cache", "bin-arm64")
	b.Env = []string{"GOOS=linux", "GOARCH=arm64"}
	paths, err := b.Build(ctx, programs...)
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for name, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		sizes[name] = info.Size()
	}
	return sizes, nil
}

// sampler watches the memory of processes.
type sampler struct {
	procs  []*process.Process
	before []time.Duration
	max    []process.Memory
	done   chan struct{}
}

func newSampler(procs []*process.Process) *sampler {
	s := &sampler{procs: procs, max: make([]process.Memory, len(procs)), done: make(chan struct{})}
	for _, p := range procs {
		s.before = append(s.before, p.CPU())
	}
	return s
}

// run samples ten times a second: a peak between two samples is missed.
func (s *sampler) run(ctx context.Context) {
	defer close(s.done)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		for i, p := range s.procs {
			if m, err := p.Memory(); err == nil {
				s.max[i].Anon = max(s.max[i].Anon, m.Anon)
				s.max[i].File = max(s.max[i].File, m.File)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// usage waits for run to end and returns what each process took since
// newSampler.
func (s *sampler) usage() []usage {
	<-s.done
	var list []usage
	for i, p := range s.procs {
		list = append(list, usage{
			Name: p.Name(), CPU: (p.CPU() - s.before[i]).Seconds(),
			AnonMax: s.max[i].Anon, FileMax: s.max[i].File,
		})
	}
	return list
}
