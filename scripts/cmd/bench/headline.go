package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const headlineHelp = `Usage: ./scripts/bench headline [flags]

Starts every program as ./scripts/demo does and takes a few figures several times,
after a warm-up that does not count:

  latency   from the moment when a message was due to its PUBACK, to the database
            and to a listener of /v1/live, at --rate
  backlog   the network is cut for a while, and healed: how much faster the backlog
            drains than it arrived
  start     the agent is killed and started with that backlog on its disk: until it
            takes messages again

once on the disk of --dir, and, for root on Linux, once with the agent's data on an
EMULATED SD card: a FUSE file system in memory on which each flush takes --flush.
It says so in every name. The emulation adds FUSE's own time to what it stands for.

Flags:
  --repeat N        how often each figure is taken (default 3)
  --trace NAME      the messages: sensor (JSON of about 100 bytes), weather (200) or
                    machine (1000); all padded with noise (default sensor)
  --rate N          messages a second (default 1000)
  --for DURATION    of each latency measurement (default 10s)
  --outage DURATION of each backlog (default 10s)
  --flush DURATION  of the emulated card (default 8ms)
  --cores N         bind everything to the first N processors (default 2; 0: all)
  --dir FOLDER      where the data lies (default .cache/bench in the repository)
  --json FILE       write the result, with the machine, for comparison over time
  --svg FILE        write a plot
`

// traces are the sizes of payloads by their names.
var traces = map[string]int{"sensor": 0, "weather": 200, "machine": 1000}

type headlineOptions struct {
	repeat, cores         int
	trace                 string
	rate                  float64
	length, outage, flush time.Duration
	dir, json, svg        string
}

// headline measures what one looks at first.
func headline(ctx context.Context, args []string) error {
	o, err := parseHeadline(args)
	if err != nil {
		return err
	}
	if err := bind(o.cores); err != nil {
		return err
	}
	if err := disk.Private(); err != nil {
		return err
	}
	root, err := repo.Root()
	if err != nil {
		return err
	}
	if o.dir == "" {
		o.dir = filepath.Join(root, ".cache", "bench")
	}
	screen := term.New(os.Stdout)
	paths, err := build.Builder{Root: root, Out: screen, TTY: screen.TTY()}.Build(ctx, stack.Programs()...)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	h := headlines{headlineOptions: o, root: root, programs: paths, screen: screen}
	if h.Machine, err = describe(o.dir); err != nil {
		return err
	}
	h.Options = map[string]any{
		"trace": o.trace, "rate": o.rate, "seconds": o.length.Seconds(), "outage_seconds": o.outage.Seconds(),
		"repeat": o.repeat, "flush_ms": float64(o.flush.Microseconds()) / 1000, "cores": o.cores,
	}
	for _, place := range []string{"disk", "emulated card"} {
		if err := h.place(ctx, place); errors.Is(err, disk.ErrUnavailable) {
			screen.Event("SKIP %s: %v", place, err)
		} else if err != nil {
			return err
		}
	}
	screen.Print(h.table())
	return h.write()
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
	fs.StringVar(&o.json, "json", "", "")
	fs.StringVar(&o.svg, "svg", "", "")
	fs.Usage = func() { fmt.Fprint(os.Stderr, headlineHelp) }
	if err := fs.Parse(args); err != nil {
		return o, usageError{err}
	}
	_, known := traces[o.trace]
	switch {
	case !known:
		err = usageError{fmt.Errorf("--trace %q: want sensor, weather or machine", o.trace)}
	case o.repeat < 1 || o.cores < 0 || !(o.rate >= 10) || o.length < time.Second || o.outage < 2*time.Second || o.flush < 0:
		err = usageError{errors.New("want --repeat from 1, --rate from 10, --for from 1s, --outage from 2s, --flush and --cores from 0")}
	}
	return o, err
}

// headlines is the result, and what takes it.
type headlines struct {
	headlineOptions
	root     string
	programs build.Paths
	screen   *term.Screen

	Machine described
	Options map[string]any
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
}

func (h *headlines) write() error {
	if h.json != "" {
		text, err := json.MarshalIndent(map[string]any{"machine": h.Machine, "options": h.Options, "figures": h.Figures}, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(h.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if h.svg == "" {
		return nil
	}
	return os.WriteFile(h.svg, []byte(h.plot()), 0o644)
}
