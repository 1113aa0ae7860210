package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const uplinkHelp = `Usage: ./scripts/bench uplink [flags]

Starts every program as ./scripts/demo does, and measures the way

  outbox → uplink → sidecar ─┤link├─ NATS → sidecar → cloud-api → SQLite → receipt → the same way back → outbox

with everything on the same two cores and disks:

  idle     what the sidecars keep resident when nothing happens
  wire     the bytes on the link, both ways, of readings of 118 bytes of JSON that
           come at such a pace that a frame holds about 100
  backlog  the network is cut, a million readings are published, the network is
           healed, and live readings go on meanwhile: how long until the last one
           has its receipt, how old live ones are when the database has them, and
           what the sidecars keep resident at most

Then everything is read back and compared with what was published.

Flags:
  --readings N     of the backlog (default 1000000)
  --live N         live readings a second meanwhile (default 200)
  --idle DURATION  (default 30s)
  --wire DURATION  (default 20s)
  --cores N        bind everything to the first N processors, with taskset where
                   there are more (default 2; 0: use all)
  --dir FOLDER     where the data lies during the run (default: .cache/bench in the
                   repository)
  --json           print the result as one JSON object on the last line too

It exits with status 1 when a reading is missing, doubled or altered, or a figure
is not what is promised: wire at most 0.13, 50 000 readings/s, a backlog of a
million within 60 s, live readings under 2 s at p99, sidecars of at most 62 MB idle
and 100 MB draining.
`

type uplinkOptions struct {
	readings   int
	live       float64
	idle, wire time.Duration
	cores      int
	dir        string
	json       bool
}

// uplink measures the way from the outbox to the receipt.
func uplink(ctx context.Context, args []string) error {
	o, err := parseUplink(args)
	if err != nil {
		return err
	}
	b, err := prepare(ctx, o.cores, o.dir)
	if err != nil {
		return err
	}
	r := uplinkResult{Machine: machine(), Readings: o.readings}
	err = b.measured(ctx, func(ctx context.Context, s *stack.Stack) error {
		run := uplinkRun{uplinkOptions: o, stack: s, screen: b.screen, result: &r}
		return run.measure(ctx)
	})
	if err != nil {
		return err
	}
	b.screen.Print(r.table())
	return errors.Join(term.JSON(o.json, r), r.verdict())
}

func parseUplink(args []string) (o uplinkOptions, err error) {
	fs := flag.NewFlagSet("bench uplink", flag.ContinueOnError)
	fs.IntVar(&o.readings, "readings", 1_000_000, "")
	fs.Float64Var(&o.live, "live", 200, "")
	fs.DurationVar(&o.idle, "idle", 30*time.Second, "")
	fs.DurationVar(&o.wire, "wire", 20*time.Second, "")
	fs.IntVar(&o.cores, "cores", 2, "")
	fs.StringVar(&o.dir, "dir", "", "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.Usage = func() { fmt.Fprint(os.Stderr, uplinkHelp) }
	if err := fs.Parse(args); err != nil {
		return o, term.Usage(err)
	}
	if o.readings < 10_000 || !(o.live >= 1 && o.live <= 10_000) || o.idle < 10*time.Second || o.wire < 5*time.Second || o.cores < 0 {
		err = term.Usage(errors.New("want --readings from 10000, --live from 1 to 10000, --idle from 10s, --wire from 5s, --cores from 0"))
	}
	return o, err
}
