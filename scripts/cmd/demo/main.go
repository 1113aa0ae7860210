// Command demo shows, on one machine and with nothing but real programs, that
// no acknowledged message is lost: it starts everything from the MQTT listener
// to the cloud's database, cuts the network, kills the agent, heals, and counts.
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

	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	}
	os.Exit(run(o))
}

// run returns the exit status: 0 only for a verdict that passed.
func run(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the next one kills at once; the kernel then ends
	// what was started.
	context.AfterFunc(ctx, stop)
	defer stop()
	d := demo{options: o, screen: term.New(os.Stdout)}
	verdict, err := d.run(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted; everything that was started has ended")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	if o.json {
		line, err := json.Marshal(verdict)
		if err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			return 1
		}
		fmt.Println(string(line))
	}
	if !verdict.Passed {
		return 1
	}
	return 0
}
