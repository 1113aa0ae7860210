// Command bench measures. Every figure it prints was taken in the run that
// prints it.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const help = `Usage: ./scripts/bench WHAT [flags]

  headline  what one looks at first, each several times, with median and spread:
            latencies to the PUBACK, the database and a live listener, on this disk
            and on an emulated SD card, a backlog, a start. JSON, and a plot as SVG
  way       the whole way: 10 000 messages/s of 200 bytes at QoS 1 through real
            programs into the cloud's database. Rates, latencies, memory, CPU time
            and the size of the agent's binary
  outbox    the outbox alone, beside hashicorp/raft-wal and plain bbolt: rates, bytes
            written to the device, memory, opening and draining a backlog
  uplink    from the outbox to the receipt through two real sidecars: bytes on the
            wire, a backlog of a million readings, what sidecars keep resident
  telemetry encoding and decoding of frames (go test -bench)
  cloud     the cloud: ingest, replay, memory, a chart, the dashboard, on SQLite and
            PostgreSQL, beside plain COPY
  store     the cloud's store alone (go test -bench)

./scripts/bench WHAT --help lists the flags of each.
`

// bench is one thing that can be measured.
type bench struct {
	name string
	run  func(ctx context.Context, args []string) error
}

var benches = []bench{
	{"headline", headline},
	{"way", way},
	{"outbox", outbox},
	{"uplink", uplink},
	{"telemetry", goBench("edge-agent/telemetry", "./...")},
	{"cloud", benchCloud},
	{"store", goBench("cloud-api", "./...")},
}

func main() {
	if len(os.Args) < 2 || os.Args[1] == "--help" || os.Args[1] == "-h" || os.Args[1] == "help" {
		fmt.Fprint(os.Stderr, help)
		if len(os.Args) < 2 {
			os.Exit(2)
		}
		return
	}
	for _, b := range benches {
		if b.name == os.Args[1] {
			os.Exit(term.Play("bench", 1, func(ctx context.Context) (int, error) { return 0, b.run(ctx, os.Args[2:]) }))
		}
	}
	fmt.Fprintf(os.Stderr, "bench: %q is nothing that can be measured\n\n%s", os.Args[1], help)
	os.Exit(2)
}
