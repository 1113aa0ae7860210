package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// suite is what one `go test` runs.
type suite struct {
	name     string // as shown
	dir      string // of the module
	packages []string
	env      []string
	needs    string // a program without which the suite is skipped; empty: none
	short    bool   // always with -short: it is emulated and slow
}

// emulated are the packages whose code depends on the processor: the encoding,
// and the outbox with its mapped files, page sizes and 32-bit integers.
var emulated = []struct{ module, packages string }{
	{"edge-agent/telemetry", "./..."},
	{"edge-agent", "./internal/outbox/..."},
}

// plan lists the suites: one a module, then the emulated ones.
func plan(root string, o options) ([]suite, error) {
	modules, err := repo.Modules(root)
	if err != nil {
		return nil, err
	}
	for _, m := range o.modules {
		if m != "arm" && !slices.Contains(modules, filepath.ToSlash(filepath.Clean(m))) {
			return nil, fmt.Errorf("%q is no module of go.work: want arm or one of %s", m, strings.Join(modules, ", "))
		}
	}
	wanted := func(name string) bool {
		return len(o.modules) == 0 || slices.ContainsFunc(o.modules, func(m string) bool { return filepath.Clean(m) == name })
	}
	var suites []suite
	for _, m := range modules {
		if wanted(m) {
			suites = append(suites, suite{name: m, dir: filepath.Join(root, m), packages: []string{"./..."}})
		}
	}
	if wanted("arm") {
		suites = append(suites, emulatedSuites(root)...)
	}
	return suites, nil
}

func emulatedSuites(root string) []suite {
	var suites []suite
	for _, arch := range []struct{ name, qemu, variant string }{
		{"arm", "qemu-arm-static", "GOARM=6"},
		{"arm64", "qemu-aarch64-static", "GOARM64=v8.0"},
	} {
		for _, e := range emulated {
			suites = append(suites, suite{
				name:     e.module + " on " + arch.name,
				dir:      filepath.Join(root, e.module),
				packages: []string{e.packages},
				env:      []string{"GOARCH=" + arch.name, "GOOS=linux", "CGO_ENABLED=0", arch.variant},
				needs:    arch.qemu,
				short:    true,
			})
		}
	}
	return suites
}

// run runs the suite and prints its failures and one line of result.
func (s suite) run(ctx context.Context, o options, env []string, screen *term.Screen) (result, error) {
	r := result{suite: s.name}
	args := []string{"test", "-json", "-timeout", "20m"}
	if s.needs != "" {
		qemu, err := exec.LookPath(s.needs)
		if err != nil {
			return s.missing(screen), nil
		}
		args = append(args, "-exec", qemu)
		env = append(slices.Clone(env), "HOLDFAST_TEST_EMULATOR="+qemu)
	}
	args = append(args, s.flags(o)...)
	cmd := exec.CommandContext(ctx, "go", append(args, s.packages...)...)
	cmd.Dir = s.dir
	cmd.Env = append(append(append(os.Environ(), "GOWORK=off"), env...), s.env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return r, err
	}
	r.read(out, screen, o.verbose)
	err = cmd.Wait()
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	r.took = time.Since(begin)
	if err != nil && r.failed == 0 {
		r.failed++
		screen.Print(fmt.Sprintf("%s: go test: %v\n%s\n", s.name, err, complaint.String()))
	}
	screen.Print(r.line() + "\n")
	return r, nil
}

func (s suite) flags(o options) []string {
	var args []string
	if o.short || s.short {
		args = append(args, "-short")
	}
	if o.race && s.needs == "" {
		args = append(args, "-race")
	}
	if o.run != "" {
		args = append(args, "-run", o.run)
	}
	return args
}

// missing is the result of a suite that cannot run here.
func (s suite) missing(screen *term.Screen) result {
	r := result{suite: s.name}
	reason := fmt.Sprintf("%s is not installed (Debian: qemu-user-static)", s.needs)
	if slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), "qemu-user-static") {
		r.failed++
		screen.Print(fmt.Sprintf("FAIL %s: %s, but HOLDFAST_TEST_REQUIRE names qemu-user-static\n", s.name, reason))
		return r
	}
	r.skip(s.name, reason)
	screen.Print(r.line() + "\n")
	return r
}
