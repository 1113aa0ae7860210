// Command test-kubernetes deploys both halves of Holdfast to a real cluster, publishes through the agent's MQTT port while pods, nodes and the
// network fail, and compares what was acknowledged with what the cloud's API returns.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "test-kubernetes:", err)
		os.Exit(2)
	}
	os.Exit(run(o))
}

// run returns the exit status: 0 only when every case passed.
func run(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills at once
	defer stop()
	root, err := repo.Find(".")
	if dir := os.Getenv("HOLDFAST_ROOT"); dir != "" {
		root, err = repo.Find(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "test-kubernetes:", err)
		return 2
	}
	t := &test{options: o, root: root, screen: term.New(os.Stdout)}
	failed, err := t.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test-kubernetes:", err)
		return 1
	}
	if failed > 0 {
		return 1
	}
	return 0
}
