// Command conformance runs the whole of Holdfast over each broker that it has
// component files for, does to it whatever may happen to programs, disks and
// networks while sensors publish, and counts after every fault: nothing missing,
// nothing doubled, no gap unexplained.
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
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(2)
	}
	os.Exit(run(o))
}

// run returns the exit status: 0 only when every fault passed over every broker.
func run(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the next one kills at once; the kernel then ends
	// what was started.
	context.AfterFunc(ctx, stop)
	defer stop()
	s := suite{options: o, screen: term.New(os.Stdout)}
	result, err := s.run(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "conformance: interrupted; everything that was started has ended")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "conformance:", err)
		return 1
	}
	if o.json {
		line, err := json.Marshal(result)
		if err != nil {
			fmt.Fprintln(os.Stderr, "conformance:", err)
			return 1
		}
		fmt.Println(string(line))
	}
	if !result.Passed {
		return 1
	}
	return 0
}
