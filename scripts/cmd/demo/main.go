// Command demo shows, on one machine and with nothing but real programs, that
// no acknowledged message is lost: it starts everything from the MQTT listener
// to the cloud's database, cuts the network, kills the agent, heals, and counts.
package main

import (
	"context"
	"os"

	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

func main() { os.Exit(term.Play("demo", 1, play)) }

// play returns the exit status: 0 only for a verdict that passed.
func play(ctx context.Context) (int, error) {
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		return 0, term.Usage(err)
	}
	d := demo{options: o, screen: term.New(os.Stdout)}
	verdict, err := d.run(ctx)
	if err != nil {
		return 0, err
	}
	if !verdict.Passed {
		return 1, term.JSON(o.json, verdict)
	}
	return 0, term.JSON(o.json, verdict)
}
