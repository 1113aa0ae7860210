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

// benchCloud builds the cloud's own benchmark, which lies beside what it measures, and
// becomes it, in the folder of its module.
func benchCloud(ctx context.Context, args []string) error {
	root, err := repo.Root()
	if err != nil {
		return err
	}
	bin := filepath.Join(root, ".cache", "bin", "bench-cloud")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", bin, "./internal/bench")
	build.Dir = filepath.Join(root, "cloud-api")
	env := append(os.Environ(), "GOWORK=off")
	build.Env, build.Stderr = append(env, "CGO_ENABLED=0"), os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the cloud's benchmark: %w", err)
	}
	if err := os.Chdir(build.Dir); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", bin, syscall.Exec(bin, append([]string{bin}, args...), env))
}
