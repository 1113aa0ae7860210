package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
	"github.com/holdfast-edge/holdfast/scripts/internal/tool"
)

// linter holds what the checks need.
type linter struct {
	root    string
	modules []string
	fix     bool
	screen  *term.Screen
	builder build.Builder
}

// check returns nil when all is well, and otherwise an error whose text is for
// the reader; of type skipped when it could not run.
type check struct {
	name string
	run  func(*linter, context.Context) error
}

// checks, the cheap ones first.
var checks = []check{
	{"gofumpt", (*linter).gofumpt},
	{"shellcheck", (*linter).shellcheck},
	{"build", (*linter).build},
	{"vet", (*linter).vet},
	{"tidy", (*linter).tidy},
	{"golangci-lint", (*linter).golangci},
}

// skipped is the reason why a check did not run.
type skipped string

func (s skipped) Error() string { return "SKIP " + string(s) }

func (l *linter) gofumpt(ctx context.Context) error {
	path, err := tool.Path(ctx, l.builder, "gofumpt", "mvdan.cc/gofumpt")
	if err != nil {
		return err
	}
	mode := "-l"
	if l.fix {
		mode = "-w"
	}
	files, err := l.tracked(ctx, "*.go")
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f string) bool { return isGenerated(filepath.Join(l.root, f)) })
	out, err := l.command(ctx, ".", path, append([]string{mode}, files...)...)
	if err == nil && len(out) > 0 {
		err = fmt.Errorf("not formatted (./scripts/lint --fix gofumpt does it):\n%s", out)
	}
	return err
}

// isGenerated: gofumpt formats such files when they are named.
func isGenerated(path string) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, b, parser.PackageClauseOnly|parser.ParseComments)
	return err == nil && ast.IsGenerated(file)
}

func (l *linter) build(ctx context.Context) error { return l.each(ctx, "go", "build", "./...") }
func (l *linter) vet(ctx context.Context) error   { return l.each(ctx, "go", "vet", "./...") }

// tidy shows which modules to tidy; of the differences, which can be hundreds
// of checksums, only the beginning.
func (l *linter) tidy(ctx context.Context) error {
	var errs []error
	for _, m := range l.modules {
		if _, err := l.command(ctx, m, "go", "mod", "tidy", "-diff"); err != nil {
			lines := strings.SplitAfter(err.Error(), "\n")
			errs = append(errs, fmt.Errorf("%s: run `GOWORK=off go mod tidy` there\n%s", m, strings.Join(lines[:min(12, len(lines))], "")))
		}
	}
	return errors.Join(errs...)
}

func (l *linter) golangci(ctx context.Context) error {
	path, err := tool.Path(ctx, l.builder, "golangci-lint", "github.com/golangci/golangci-lint/v2/cmd/golangci-lint")
	if err != nil {
		return err
	}
	args := []string{"run", "--config", filepath.Join(l.root, ".golangci.yml"), "--allow-parallel-runners"}
	if l.fix {
		args = append(args, "--fix")
	}
	return l.each(ctx, path, append(args, "./...")...)
}

// shellcheck takes every tracked file that ends in .sh or begins with a shell's
// name.
func (l *linter) shellcheck(ctx context.Context) error {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		const reason = "the program shellcheck is not installed"
		if slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), "shellcheck") {
			return errors.New(reason + ", but HOLDFAST_TEST_REQUIRE names it")
		}
		return skipped(reason)
	}
	files, err := l.tracked(ctx)
	if err != nil {
		return err
	}
	scripts := slices.DeleteFunc(files, func(f string) bool { return !isShell(filepath.Join(l.root, f)) })
	_, err = l.command(ctx, ".", "shellcheck", append([]string{"-x", "-P", "SCRIPTDIR"}, scripts...)...)
	return err
}

func isShell(path string) bool {
	if strings.HasSuffix(path, ".sh") {
		return true
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	first := make([]byte, 64)
	n, _ := f.Read(first) // an empty file is no script
	line, _, _ := bytes.Cut(first[:n], []byte("\n"))
	return bytes.HasPrefix(line, []byte("#!")) && (bytes.HasSuffix(line, []byte("bash")) || bytes.HasSuffix(line, []byte("/sh")))
}

// tracked lists the files that git knows or would add, so that what a build
// left behind is not looked at.
func (l *linter) tracked(ctx context.Context, patterns ...string) ([]string, error) {
	args := append([]string{"ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"}, patterns...)
	out, err := l.command(ctx, ".", "git", args...)
	if err != nil {
		return nil, err
	}
	files := strings.Split(strings.TrimRight(out, "\x00"), "\x00")
	return slices.DeleteFunc(files, func(f string) bool {
		info, err := os.Stat(filepath.Join(l.root, f))
		return err != nil || !info.Mode().IsRegular() // deleted, not committed yet
	}), nil
}

// each runs a command in every module and joins what went wrong.
func (l *linter) each(ctx context.Context, path string, args ...string) error {
	var errs []error
	for _, m := range l.modules {
		if _, err := l.command(ctx, m, path, args...); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m, err))
		}
	}
	return errors.Join(errs...)
}

// command returns the standard output; the error has that and what the command
// complained of.
func (l *linter) command(ctx context.Context, dir, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = filepath.Join(l.root, filepath.FromSlash(dir))
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(path), args[0], err, out.String(), complaint.String())
	}
	return out.String(), nil
}
