// Command package builds the Debian packages of agent and sidecar.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/deb"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const help = `Usage: ./scripts/package [flags] [ARCH…]

Builds holdfast-edge_VERSION_ARCH.deb for arm64, armhf and amd64, or for those named,
and prints where they are. Installing one on a Debian makes the same node as flashing
a card: sudo apt install ./holdfast-edge_….deb, then the settings in /etc/holdfast.

Flags:
  --version V   (default: 0.1.0, the number of commits and the commit)
  --out DIR     (default: dist)
`

func main() {
	fs := flag.NewFlagSet("package", flag.ExitOnError)
	fs.Usage = func() { fmt.Fprint(os.Stderr, help) }
	version, out := fs.String("version", "", ""), fs.String("out", "", "")
	if err := fs.Parse(os.Args[1:]); err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *version, *out, fs.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, version, out string, names []string) error {
	root, err := repo.Root()
	if err != nil {
		return err
	}
	arches := deb.Arches
	if len(names) > 0 {
		arches = nil
		for _, n := range names {
			arches = append(arches, deb.Arch(n))
		}
	}
	if version == "" {
		if version, err = deb.Version(ctx, root); err != nil {
			return err
		}
	}
	if out == "" {
		out = filepath.Join(root, "dist")
	}
	screen := term.New(os.Stderr)
	for _, a := range arches {
		path, err := deb.Build(ctx, build.Builder{Root: root, Out: screen, TTY: screen.TTY()}, a, version, out)
		if err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}
