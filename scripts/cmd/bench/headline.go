package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const headlineHelp = `Usage: ./scripts/bench headline [flags]

Starts every program as ./scripts/demo does and takes the figures that are promised,
several times after a warm-up that does not count, each beside its goal:

  flush     what one flush takes on the device that holds the agent's data: 4 KiB
            written over and synced, 200 times before each latency and after it.
            The slowest message in a hundred is compared with the slowest flush in
            a hundred: it waited for such
  latency   from the moment when a message was due to its PUBACK, to the database
            and to a listener of /v1/live, as the dashboard's page is one, at --rate
  backlog   the network is cut for a while, and healed: how much faster the backlog
            drains than it arrived
  start     the agent is killed and started with that backlog on its disk: until it
            takes messages again

once on the disk of --dir, and, for root on Linux, once with the agent's data on an
EMULATED SD card: a FUSE file system in memory on which each flush takes --flush.
It says so in every name. The emulation adds FUSE's own time to what it stands for.
Then, once, on the disk:

  million   the network is cut while --readings readings are published, as fast as
            the agent takes them, and healed: how long until the last one has its
            receipt, beside the time in which so many arrive at --rate

Flags:
  --repeat N        how often each figure is taken (default 3)
  --trace NAME      the messages: sensor (JSON of about 100 bytes), weather (200) or
                    machine (1000); all padded with noise (default sensor)
  --rate N          messages a second (default 1000)
  --for DURATION    of each latency measurement (default 10s)
  --outage DURATION of each backlog (default 10s)
  --readings N      of the large backlog; 0: none (default 1000000)
  --flush DURATION  of the emulated card (default 8ms)
  --cores N         bind everything to the first N processors (default 2; 0: all)
  --dir FOLDER      where the data lies (default .cache/bench in the repository)
  --json            print the result, with the machine, as one JSON object on the last
                    line too: for comparison over time
  --svg FILE        write a plot

It exits with status 1 when a figure misses its goal. The goals are for an idle
machine: other work on it spoils the flushes and the latencies first.
`

// traces are the sizes of payloads by their names.
var traces = map[string]int{"sensor": 0, "weather": 200, "machine": 1000}

type headlineOptions struct {
	repeat, cores, readings int
	trace                   string
	rate                    float64
	length, outage, flush   time.Duration
	dir, svg                string
	json                    bool
}

// headline measures what one looks at first.
func headline(ctx context.Context, args []string) error {
	o, err := parseHeadline(args)
	if err != nil {
		return err
	}
	if err := disk.Private(); err != nil {
		return err
	}
	b, err := prepare(ctx, o.cores, o.dir)
	if err != nil {
		return err
	}
	h := headlines{headlineOptions: o, bed: b}
	if h.Machine, err = describe(b.folder); err != nil {
		return err
	}
	for _, place := range []string{onDisk, onCard} {
		if err := h.place(ctx, place); errors.Is(err, disk.ErrUnavailable) {
			b.screen.Event("SKIP %s: %v", place, err)
		} else if err != nil {
			return err
		}
	}
	if err := h.million(ctx); err != nil {
		return err
	}
	b.screen.Print(h.table())
	return errors.Join(h.write(), h.verdict())
}

func parseHeadline(args []string) (o headlineOptions, err error) {
	fs := flag.NewFlagSet("bench headline", flag.ContinueOnError)
	fs.IntVar(&o.repeat, "repeat", 3, "")
	fs.StringVar(&o.trace, "trace", "sensor", "")
	fs.Float64Var(&o.rate, "rate", 1000, "")
	fs.DurationVar(&o.length, "for", 10*time.Second, "")
	fs.DurationVar(&o.outage, "outage", 10*time.Second, "")
	fs.DurationVar(&o.flush, "flush", 8*time.Millisecond, "")
	fs.IntVar(&o.cores, "cores", 2, "")
	fs.StringVar(&o.dir, "dir", "", "")
	fs.IntVar(&o.readings, "readings", 1_000_000, "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.StringVar(&o.svg, "svg", "", "")
	fs.Usage = func() { fmt.Fprint(os.Stderr, headlineHelp) }
	if err := fs.Parse(args); err != nil {
		return o, term.Usage(err)
	}
	_, known := traces[o.trace]
	switch {
	case !known:
		err = term.Usage(fmt.Errorf("--trace %q: want sensor, weather or machine", o.trace))
	case o.repeat < 1 || o.cores < 0 || !(o.rate >= 10) || o.length < time.Second || o.outage < 2*time.Second || o.flush < 0 || o.readings < 0 || o.readings > 0 && o.readings < 10_000:
		err = term.Usage(errors.New("want --repeat from 1, --rate from 10, --for from 1s, --outage from 2s, --flush and --cores from 0, --readings 0 or from 10000"))
	}
	return o, err
}

// headlines is the result, and what takes it.
type headlines struct {
	headlineOptions
	bed

	Machine described
	Figures []*figure
}

// figure is one quantity, taken several times.
type figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Taken  []float64 `json:"taken"`
	Goal   string    `json:"goal,omitempty"` // what the median must be
	Met    bool      `json:"met"`            // also where there is no goal
}

// goal is what the median of a figure must be at most, or at least.
type goal struct {
	figure  string // how its name begins
	least   bool
	than    float64
	promise string
}

// What figures are called that have a goal.
const (
	inFlushes   = "due → PUBACK p99, in p99 flushes of the device"
	toDatabase  = "due → database p99"
	agentMemory = "agent RssAnon"
	largeDrain  = "large backlog, drained faster than it arrives at --rate"
)

var goals = []goal{
	{inFlushes, false, 4, "at most 4"},
	{toDatabase, false, 500, "at most 500 ms"},
	{agentMemory, false, 32, "at most 32 MB"},
	{largeDrain, true, 10, "at least 10"},
}

// add takes a figure once more.
func (h *headlines) add(name, unit string, value float64) {
	i := slices.IndexFunc(h.Figures, func(f *figure) bool { return f.Name == name })
	if i < 0 {
		i = len(h.Figures)
		h.Figures = append(h.Figures, &figure{Name: name, Unit: unit})
	}
	f := h.Figures[i]
	f.Taken = append(f.Taken, value)
	sorted := slices.Sorted(slices.Values(f.Taken))
	f.Min, f.Max = sorted[0], sorted[len(sorted)-1]
	f.Median = (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
	f.judge()
}

// judge fills in the goal, where there is one, and whether it is met.
func (f *figure) judge() {
	f.Met = true
	for _, g := range goals {
		if strings.HasPrefix(f.Name, g.figure) {
			f.Goal, f.Met = g.promise, f.Median == g.than || (f.Median > g.than) == g.least
		}
	}
}

// verdict is nil when every goal is met.
func (h *headlines) verdict() error {
	var missed []string
	for _, f := range h.Figures {
		if !f.Met {
			missed = append(missed, fmt.Sprintf("%s is %.1f, want %s", f.Name, f.Median, f.Goal))
		}
	}
	if missed == nil {
		return nil
	}
	return errors.New("missed: " + strings.Join(missed, "; "))
}

func (h *headlines) write() error {
	if h.svg != "" {
		if err := os.WriteFile(h.svg, []byte(h.plot()), 0o644); err != nil {
			return err
		}
	}
	return term.JSON(h.json, map[string]any{"machine": h.Machine, "options": h.describe(), "figures": h.Figures})
}

func (o headlineOptions) describe() map[string]any {
	return map[string]any{
		"trace": o.trace, "rate": o.rate, "seconds": o.length.Seconds(), "outage_seconds": o.outage.Seconds(), "readings": o.readings,
		"repeat": o.repeat, "flush_ms": float64(o.flush.Microseconds()) / 1000, "cores": o.cores,
	}
}
