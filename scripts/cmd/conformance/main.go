// Command conformance runs the whole of Holdfast over each broker that it has
// component files for, does to it whatever may happen to programs, disks and
// networks while sensors publish, and counts after every fault: nothing missing,
// nothing doubled, no gap unexplained.
package main

import (
	"context"
	"os"

	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

func main() { os.Exit(term.Play("conformance", 1, play)) }

// play returns the exit status: 0 only when every fault passed over every broker.
func play(ctx context.Context) (int, error) {
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		return 0, term.Usage(err)
	}
	s := suite{options: o, screen: term.New(os.Stdout)}
	result, err := s.run(ctx)
	if err != nil {
		return 0, err
	}
	if !result.Passed {
		return 1, term.JSON(o.json, result)
	}
	return 0, term.JSON(o.json, result)
}
