// Command failover runs the whole of Holdfast from real programs, lets sensors
// publish, does to it what may happen to devices, networks, brokers, clouds and
// databases, and then counts what came of every acknowledged message.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// The exit statuses. What failed is told from what could not be tried: a control,
// which must fail, is not satisfied by a missing compiler.
const (
	passed    = 0
	failed    = 1
	usage     = 2
	notPlayed = 3
)

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(usage)
	}
	if o.list {
		fmt.Print(catalogue())
		return
	}
	if err := disk.Private(); err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(notPlayed)
	}
	os.Exit(run(o))
}

func run(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the next one kills at once; the kernel then ends
	// what was started, and its mounts.
	context.AfterFunc(ctx, stop)
	defer stop()
	d := drill{options: o, screen: term.New(os.Stdout)}
	res, err := d.run(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "failover: interrupted; everything that was started has ended")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "failover:", err)
		return notPlayed
	}
	if err := publish(o, res); err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		return notPlayed
	}
	return res.status()
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
	if !o.json {
		return nil
	}
	line, err := json.Marshal(res)
	if err == nil {
		fmt.Println(string(line))
	}
	return err
}
