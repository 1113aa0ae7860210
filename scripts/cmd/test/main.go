// Command test runs every test of every module of go.work, unit and
// integration, and says at the end what passed, what was skipped and why.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const help = `Usage: ./scripts/test [flags] [MODULE…]

Runs every test of every module in go.work, each module alone (GOWORK=off), with
the real sidecar and a real NATS server, which are built first. Then it runs the
tests of the packages that are sensitive to the processor as 32- and 64-bit ARM
programs, where Debian's qemu-user-static is installed.

Without arguments: all modules. With arguments: those folders of go.work, such as
edge-agent or cloud-api; "arm" stands for the emulated tests.

A test that needs a program which is not installed is skipped, and listed at the
end. HOLDFAST_TEST_REQUIRE=mosquitto,redis-server makes that a failure instead.

Flags:
  --short       leave out what takes long (go test -short)
  --race        with the race detector (needs cgo; several times slower)
  --run REGEXP  only tests whose names match
  --v           print every test's output, not only that of failures
`

type options struct {
	short, race, verbose bool
	run                  string
	modules              []string
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "test:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	ok, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func parse(args []string, out io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.BoolVar(&o.short, "short", false, "")
	fs.BoolVar(&o.race, "race", false, "")
	fs.BoolVar(&o.verbose, "v", false, "")
	fs.StringVar(&o.run, "run", "", "")
	fs.Usage = func() { fmt.Fprint(out, help) }
	err = fs.Parse(args)
	o.modules = fs.Args()
	return o, err
}

// run returns whether everything passed.
func run(ctx context.Context, o options) (bool, error) {
	root, err := repo.Root()
	if err != nil {
		return false, err
	}
	suites, err := plan(root, o)
	if err != nil {
		return false, err
	}
	begin := time.Now()
	screen := term.New(os.Stdout)
	env, err := programs(ctx, root, screen)
	if err != nil {
		return false, err
	}
	var results []result
	for _, s := range suites {
		r, err := s.run(ctx, o, env, screen)
		if err != nil {
			return false, err
		}
		results = append(results, r)
	}
	text, ok := summary(results, time.Since(begin))
	screen.Print(text)
	return ok, nil
}

// programs builds what integration tests run, once, and returns the
// environment that tells them where it is.
func programs(ctx context.Context, root string, screen *term.Screen) ([]string, error) {
	b := build.Builder{Root: root, Out: screen, TTY: screen.TTY()}
	paths, err := b.Build(ctx, build.NATSServer, build.Daprd, build.CloudAPI, build.EdgeAgent)
	if err != nil {
		return nil, err
	}
	return []string{
		"HOLDFAST_NATS_SERVER=" + paths[build.NATSServer.Name],
		"HOLDFAST_DAPRD=" + paths[build.Daprd.Name],
		"HOLDFAST_CLOUD_API=" + paths[build.CloudAPI.Name],
		"HOLDFAST_EDGE_AGENT=" + paths[build.EdgeAgent.Name],
	}, nil
}
