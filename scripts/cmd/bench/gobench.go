package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// goBench returns a benchmark that is `go test -bench` over packages of a
// module.
func goBench(module, packages string) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		fs := flag.NewFlagSet("bench", flag.ContinueOnError)
		match := fs.String("match", ".", "only benchmarks whose names match this expression")
		count := fs.Int("count", 3, "repetitions: the spread between them belongs to the result")
		length := fs.Duration("for", time.Second, "length of each repetition")
		if err := fs.Parse(args); err != nil {
			return term.Usage(err)
		}
		root, err := repo.Root()
		if err != nil {
			return err
		}
		// -p 1: two packages measured at a time would measure each other.
		cmd := exec.CommandContext(ctx, "go", "test", "-p", "1", "-run", "^$", "-bench", *match, "-benchmem",
			"-count", strconv.Itoa(*count), "-benchtime", length.String(), packages)
		cmd.Dir = filepath.Join(root, filepath.FromSlash(module))
		cmd.Env = append(os.Environ(), "GOWORK=off")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go test -bench: %w", err)
		}
		return nil
	}
}
