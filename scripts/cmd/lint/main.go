// Command lint checks what a compiler does not: format, lint rules, that every
// module is tidy and builds alone, and the shell scripts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const help = `Usage: ./scripts/lint [--fix] [CHECK…]

Runs these checks, or only those named:
  gofumpt        every Go file is formatted
  build          every module of go.work builds alone (GOWORK=off)
  vet            go vet
  tidy           go.mod and go.sum say what the code needs, no more and no less
  golangci-lint  the rules of .golangci.yml
  shellcheck     every shell script (skipped where shellcheck is not installed,
                 unless HOLDFAST_TEST_REQUIRE names it)

--fix lets gofumpt and golangci-lint put right what they can.

gofumpt and golangci-lint are built in the version that scripts/tools pins; that
takes minutes the first time.
`

func main() {
	fix, names, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	ok, err := run(ctx, fix, names)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func parse(args []string, out io.Writer) (fix bool, names []string, err error) {
	fs := flag.NewFlagSet("lint", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.BoolVar(&fix, "fix", false, "")
	fs.Usage = func() { fmt.Fprint(out, help) }
	if err := fs.Parse(args); err != nil {
		return false, nil, err
	}
	for _, n := range fs.Args() {
		if !slices.ContainsFunc(checks, func(c check) bool { return c.name == n }) {
			return false, nil, fmt.Errorf("%q is no check; --help lists them", n)
		}
	}
	return fix, fs.Args(), nil
}

// run returns whether every check passed. One that fails does not keep the
// others from telling what they found.
func run(ctx context.Context, fix bool, names []string) (bool, error) {
	root, err := repo.Root()
	if err != nil {
		return false, err
	}
	modules, err := repo.Modules(root)
	if err != nil {
		return false, err
	}
	screen := term.New(os.Stdout)
	l := linter{
		root: root, modules: modules, fix: fix, screen: screen,
		builder: build.Builder{Root: root, Out: screen, TTY: screen.TTY()},
	}
	var failed []string
	for _, c := range checks {
		if len(names) > 0 && !slices.Contains(names, c.name) {
			continue
		}
		begin := time.Now()
		err := c.run(&l, ctx)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		state := "ok  "
		var skip skipped
		switch {
		case errors.As(err, &skip):
			state = "SKIP"
		case err != nil:
			state = "FAIL"
			failed = append(failed, c.name)
		}
		if err != nil {
			screen.Print(strings.TrimRight(err.Error(), "\n") + "\n")
		}
		screen.Print(fmt.Sprintf("%s %-14s %6.1f s\n", state, c.name, time.Since(begin).Seconds()))
	}
	if len(failed) > 0 {
		screen.Print("FAIL: " + strings.Join(failed, ", ") + "\n")
		return false, nil
	}
	screen.Print("PASS\n")
	return true, nil
}
