package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/histogram"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const wayHelp = `Usage: ./scripts/bench way [flags]

Starts every program as ./scripts/demo does, on a healthy network, and publishes
at QoS 1 on a fixed schedule: a message that the system delays is late, and its
lateness is measured from the moment when it was due. After a warm-up it measures,
then waits until everything is stored, and reads all of it back.

Flags:
  --rate N         messages a second, of all sensors together (default 10000)
  --size N         bytes a payload (default 200)
  --sensors N      connections (default 50)
  --for DURATION   measured time (default 30s)
  --warmup DURATION  before it (default 5s)
  --cores N        bind everything to the first N processors, with taskset where
                   there are more (default 2; 0: use all)
  --sizes          compile daprd for arm64 too, to tell its size (takes minutes)
  --dir FOLDER     where the data lies during the run: the disk that is measured
                   (default: .cache/bench in the repository)
  --json           print the result as one JSON object on the last line too
`

type wayOptions struct {
	rate           float64
	size, sensors  int
	length, warmup time.Duration
	cores          int
	sizes, json    bool
	dir            string
}

// way measures the whole way of a reading.
func way(ctx context.Context, args []string) error {
	o, err := parseWay(args)
	if err != nil {
		return err
	}
	b, err := prepare(ctx, o.cores, o.dir)
	if err != nil {
		return err
	}
	r := wayResult{Machine: machine(), Options: o.describe()}
	if r.Sizes, err = armSizes(ctx, b.builder, o.sizes); err != nil {
		return err
	}
	err = b.measured(ctx, func(ctx context.Context, s *stack.Stack) error {
		w := wayRun{wayOptions: o, stack: s, screen: b.screen, result: &r}
		return w.measure(ctx)
	})
	if err != nil {
		return err
	}
	b.screen.Print(r.table())
	return errors.Join(term.JSON(o.json, r), r.verdict())
}

func parseWay(args []string) (o wayOptions, err error) {
	fs := flag.NewFlagSet("bench way", flag.ContinueOnError)
	fs.Float64Var(&o.rate, "rate", 10000, "")
	fs.IntVar(&o.size, "size", 200, "")
	fs.IntVar(&o.sensors, "sensors", 50, "")
	fs.DurationVar(&o.length, "for", 30*time.Second, "")
	fs.DurationVar(&o.warmup, "warmup", 5*time.Second, "")
	fs.IntVar(&o.cores, "cores", 2, "")
	fs.BoolVar(&o.sizes, "sizes", false, "")
	fs.StringVar(&o.dir, "dir", "", "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.Usage = func() { fmt.Fprint(os.Stderr, wayHelp) }
	if err := fs.Parse(args); err != nil {
		return o, term.Usage(err)
	}
	switch {
	case !(o.rate >= 1) || o.sensors < 1 || o.sensors > 200 || o.length < time.Second || o.warmup < 0 || o.cores < 0:
		err = term.Usage(errors.New("want --rate from 1, --sensors from 1 to 200, --for from 1s, --warmup and --cores from 0"))
	case o.size < 100 || o.size > 256<<10:
		err = term.Usage(errors.New("--size: want 100 to 262144 bytes"))
	}
	return o, err
}

func (o wayOptions) describe() map[string]any {
	return map[string]any{
		"rate": o.rate, "size": o.size, "sensors": o.sensors, "cores": o.cores,
		"seconds": o.length.Seconds(), "warmup_seconds": o.warmup.Seconds(),
	}
}

// wayRun is one measurement.
type wayRun struct {
	wayOptions
	stack  *stack.Stack
	screen *term.Screen
	result *wayResult
}

func (w *wayRun) measure(ctx context.Context) error {
	if w.warmup > 0 {
		w.screen.Event("warming up for %v", w.warmup)
		fleet, _ := w.fleet("warm", w.warmup)
		if err := fleet.Run(ctx, nil); err != nil {
			return err
		}
	}
	fleet, log := w.fleet("bench", w.length)
	w.screen.Event("%d sensors publish %v messages of %d bytes a second for %v", w.sensors, w.rate, w.size, w.length)
	sampler := newSampler(w.stack.Processes())
	samplerCtx, stopSampler := context.WithCancel(ctx)
	defer stopSampler()
	go sampler.run(samplerCtx)
	begin := time.Now()
	if err := fleet.Run(ctx, nil); err != nil {
		return err
	}
	acked := time.Since(begin)
	w.screen.Event("all acknowledged")
	if err := w.stack.Settle(ctx, 0, w.length+time.Minute); err != nil {
		return err
	}
	stored := time.Since(begin)
	stopSampler()
	w.screen.Event("all stored; reading back")
	w.result.Programs = sampler.usage()
	return w.readBack(ctx, fleet, log, acked, stored)
}

func (w *wayRun) fleet(prefix string, length time.Duration) (*sensors.Fleet, *oracle.Oracle) {
	shape := sensors.Shape{Prefix: prefix, Seed: rand.Uint64(), Size: w.size}
	log := oracle.New(shape, w.sensors)
	return &sensors.Fleet{
		Shape: shape, Addr: w.stack.Edge.MQTT, Sensors: w.sensors,
		Rate: w.rate, For: length, Log: log,
	}, log
}

func (w *wayRun) readBack(ctx context.Context, fleet *sensors.Fleet, log *oracle.Oracle, acked, stored time.Duration) error {
	check := log.Check()
	var toDB histogram.Histogram
	err := w.stack.Client().Readings(ctx, w.stack.Edge.ID, func(r cloud.Reading) error {
		payload, _ := r.Bytes() // check.Add reports it
		if sensor, number, ours, valid := fleet.Recognise(r.Topic, payload); ours && valid {
			// Both clocks are this machine's.
			toDB.Add(r.ReceivedAt.Sub(fleet.Due(sensor, number)))
		}
		return check.Add(r)
	})
	if err != nil {
		return err
	}
	w.result.fill(check.Findings(), fleet.Expected(), log.Latency(), &toDB, acked, stored)
	return nil
}
