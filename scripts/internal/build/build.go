// Package build compiles the repository's programs, each from its own module
// alone, and tells a person who waits what it is doing.
package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Program is something that can be compiled.
type Program struct {
	Name    string // of the executable
	Dir     string // of its module, relative to the repository
	Package string // to compile, as seen from there
	Tags    string // build tags, separated by commas
	Version string // that the program says it has; empty: its own idea
}

// The programs that a whole stack runs.
var (
	NATSServer = Program{Name: "nats-server", Dir: "scripts/tools/nats-server", Package: "github.com/nats-io/nats-server/v2"}
	Daprd      = Program{Name: "daprd", Dir: "dapr-components/sidecar", Package: "."}
	EdgeAgent  = Program{Name: "edge-agent", Dir: "edge-agent", Package: "."}
	CloudAPI   = Program{Name: "cloud-api", Dir: "cloud-api", Package: "."}
)

// Builder compiles into a folder that later runs find again.
type Builder struct {
	Root string    // of the repository
	Bin  string    // where executables go; empty: .cache/bin in the repository
	Out  io.Writer // progress
	TTY  bool      // Out is a terminal: one line is drawn over again
	Env  []string  // in addition to this program's, such as GOARCH=arm64
}

// Paths are executables by the name of their program.
type Paths map[string]string

// Build compiles the programs one after the other (the compiler uses every core
// by itself) and returns where they are. An up-to-date executable is left as it
// is, so a stack that runs it is not disturbed.
func (b Builder) Build(ctx context.Context, programs ...Program) (Paths, error) {
	bin := b.Bin
	if bin == "" {
		bin = filepath.Join(b.Root, ".cache", "bin")
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	unlock, err := lock(filepath.Join(bin, ".lock"))
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	defer unlock()
	paths := Paths{}
	for i, p := range programs {
		paths[p.Name] = filepath.Join(bin, p.Name)
		label := fmt.Sprintf("building %s (%d of %d)", p.Name, i+1, len(programs))
		err := b.watch(label, func() error { return b.compile(ctx, p, paths[p.Name]) })
		if err != nil {
			return nil, fmt.Errorf("build %s: %w", p.Name, err)
		}
	}
	return paths, nil
}

func (b Builder) compile(ctx context.Context, p Program, to string) error {
	// Version control is not stamped: it would link anew at every commit, and
	// fail in a checkout that belongs to someone else.
	flags := "-ldflags=-s -w"
	if p.Version != "" {
		flags += " -X main.version=" + p.Version
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", flags, "-o", to}
	if p.Tags != "" {
		args = append(args, "-tags", p.Tags)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, p.Package)...)
	cmd.Dir = filepath.Join(b.Root, filepath.FromSlash(p.Dir))
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	cmd.Env = append(cmd.Env, b.Env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// go passes an interrupt on to the compilers it started.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return errors.New("the go command is not in PATH: install Go from https://go.dev/dl/")
	}
	return fmt.Errorf("%w\n%s", err, tail(out.String(), 40))
}

// watch shows label and the seconds while f runs.
func (b Builder) watch(label string, f func() error) error {
	begin := time.Now()
	done := make(chan error, 1)
	go func() { done <- f() }()
	step := 10 * time.Second // a log wants few lines
	if b.TTY {
		step = 500 * time.Millisecond
	}
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			b.finish(label, time.Since(begin), err)
			return err
		case <-tick.C:
			b.draw("%s … %.0f s", label, time.Since(begin).Seconds())
		}
	}
}

func (b Builder) draw(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if b.TTY {
		fmt.Fprintf(b.Out, "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(b.Out, text)
}

// finish says nothing about what took no time: it was there already.
func (b Builder) finish(label string, took time.Duration, err error) {
	if b.TTY {
		fmt.Fprint(b.Out, "\r\x1b[K")
	}
	if err == nil && took > 2*time.Second {
		fmt.Fprintf(b.Out, "%s: %.0f s\n", label, took.Seconds())
	}
}

// tail leaves out the lines about downloads and keeps the last n others.
func tail(s string, n int) string {
	var lines []string
	for line := range strings.Lines(s) {
		if !strings.HasPrefix(line, "go: downloading ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
