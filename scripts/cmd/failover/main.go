// Command failover runs the whole of Holdfast from real programs, lets sensors
// publish, does to it what may happen to devices, networks, brokers, clouds and
// databases, and then counts what came of every acknowledged message.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// The exit statuses. What failed is told from what could not be tried: a control,
// which must fail, is not satisfied by a missing compiler.
const (
	passed    = 0
	failed    = 1
	notPlayed = 3
)

func main() { os.Exit(term.Play("failover", notPlayed, play)) }

func play(ctx context.Context) (int, error) {
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		return notPlayed, term.Usage(err)
	}
	if o.kubeconfig != "" {
		return notPlayed, becomeCluster(o.kubeconfig, o.cluster)
	}
	if o.list {
		fmt.Print(catalogue())
		return passed, nil
	}
	if err := disk.Private(); err != nil {
		return notPlayed, err
	}
	if o.peers != nil {
		return comparePeers(ctx, o)
	}
	d := drill{options: o, screen: term.New(os.Stdout)}
	res, err := d.run(ctx)
	if err == nil {
		err = publish(o, res)
	}
	return res.status(), err
}

// becomeCluster runs test-kubernetes in the place of this program.
func becomeCluster(kubeconfig string, flags []string) error {
	root, err := repo.Root()
	if err != nil {
		return err
	}
	program := filepath.Join(root, "scripts", "test-kubernetes")
	return fmt.Errorf("run %s: %w", program, syscall.Exec(program, append([]string{program}, flags...), append(os.Environ(), "KUBECONFIG="+kubeconfig)))
}

// publish writes the result for other programs.
func publish(o options, res result) error {
	if o.junit != "" {
		text, err := junit(res)
		if err == nil {
			err = os.WriteFile(o.junit, text, 0o644)
		}
		if err != nil {
			return fmt.Errorf("--junit: %w", err)
		}
	}
	return term.JSON(o.json, res)
}
