package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
)

// outbox builds the outbox's own benchmark, which is a module of its own beside what
// it measures, and becomes it.
func outbox(ctx context.Context, args []string) error {
	root, err := repo.Root()
	if err != nil {
		return err
	}
	bin := filepath.Join(root, ".cache", "bin", "bench-outbox")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", bin, ".")
	build.Dir = filepath.Join(root, "edge-agent", "internal", "outbox", "bench")
	build.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the outbox's benchmark: %w", err)
	}
	return fmt.Errorf("run %s: %w", bin, syscall.Exec(bin, append([]string{bin}, args...), os.Environ()))
}
