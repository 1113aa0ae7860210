package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// bed is what a stack that is measured stands on.
type bed struct {
	builder  build.Builder
	programs build.Paths
	screen   *term.Screen
	folder   string // on the disk that is measured
}

// prepare binds this program and what it will start to the first cores, builds
// the programs, and makes dir; empty: .cache/bench in the repository.
func prepare(ctx context.Context, cores int, dir string) (b bed, err error) {
	if err := bind(cores); err != nil {
		return b, err
	}
	root, err := repo.Root()
	if err != nil {
		return b, err
	}
	b.screen = term.New(os.Stdout)
	b.builder = build.Builder{Root: root, Out: b.screen, TTY: b.screen.TTY()}
	if b.programs, err = b.builder.Build(ctx, stack.Programs()...); err != nil {
		return b, err
	}
	if b.folder = dir; dir == "" {
		b.folder = filepath.Join(root, ".cache", "bench")
	}
	return b, os.MkdirAll(b.folder, 0o700)
}

// measured starts a stack in a new folder on the bed, lets measure use it, and
// ends it. The folder is kept when that fails.
func (b bed) measured(ctx context.Context, measure func(context.Context, *stack.Stack) error) error {
	dir, err := os.MkdirTemp(b.folder, "run-")
	if err != nil {
		return err
	}
	s, err := stack.Start(ctx, stack.Options{Root: b.builder.Root, Dir: dir, Programs: b.programs})
	if err != nil {
		return err
	}
	if err := errors.Join(measure(ctx, s), s.Stop()); err != nil {
		return fmt.Errorf("%w\ndata and logs are kept in %s", err, dir)
	}
	return os.RemoveAll(dir)
}
