package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"time"
)

// options are the flags, and what follows from them.
type options struct {
	length  time.Duration
	outage  time.Duration
	rate    float64
	sensors int
	keep    bool
	json    bool
	dir     string
}

const help = `Usage: ./scripts/demo [flags]

Runs the whole of Holdfast on this machine and tries to lose a message:

  sensors → MQTT → edge-agent → sidecar ─┤link├─ NATS → sidecar → cloud-api → SQLite

It needs Go and git, no root and no Docker. Every program is the real one; the
link is a proxy that the demo can cut. While simulated sensors publish at QoS 1,
each over a TCP connection of its own, the demo cuts the link, kills the agent
with SIGKILL while unsent readings are on its disk, starts it again, heals the
link and waits until everything has arrived. Then it reads all readings back
through the cloud's API and compares them, byte for byte, with what each sensor
published and saw acknowledged.

It exits with status 0 only when no acknowledged message is missing, none is
there twice or altered, no gap is unexplained, and at least 90 % of the load was
acknowledged. Everything that it started is gone when it ends. The first run
compiles for a few minutes; later ones start at once.

Flags:
  --for DURATION      how long the sensors publish (default 40s)
  --outage DURATION   how long the link is cut, in the middle of that (default
                      half of it; 0s: never). The agent is killed within it
  --rate N            messages a second, of all sensors together (default 500)
  --sensors N         how many sensors publish, 1 to 200 (default 20)
  --keep              after the verdict go on, with sensors publishing, until Ctrl-C
  --json              print the verdict as one JSON object on the last line too
  --dir FOLDER        empty folder for data and logs, kept afterwards (default: a
                      temporary one, kept only after a failure)

Examples:
  ./scripts/demo                                 40 s, of which 20 s are offline
  ./scripts/demo --for 2m --outage 90s           a longer night
  ./scripts/demo --rate 5000 --sensors 50        a heavier load
  ./scripts/demo --keep                          leave it running: look at the dashboard
  ./scripts/demo --for 40s --json | tail -n 1    the verdict for a script

The verdict counts:
  published      messages that the sensors wrote to the network at least once
  acknowledged   messages whose PUBACK a sensor has read
  stored         different messages read back from the cloud, unaltered
  missing        acknowledged but not stored: must be 0
  duplicates     one (agent, epoch, seq) stored twice: must be 0
  redelivered    copies that a sensor sent again because its PUBACK was lost; MQTT
                 allows it, and the cloud keeps them with their DUP flag
  altered        stored, but not what was published: must be 0
  unexplained    numbers that the cloud lacks and nobody accounts for: must be 0
  caught_up_ms   from healing the link until the device had nothing left to send
`

// parse reads the flags. It returns flag.ErrHelp when only help was asked for.
func parse(args []string, out io.Writer) (options, error) {
	var o options
	outage := time.Duration(-1)
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.DurationVar(&o.length, "for", 40*time.Second, "")
	fs.Func("outage", "", func(s string) (err error) {
		outage, err = time.ParseDuration(s)
		return err
	})
	fs.Float64Var(&o.rate, "rate", 500, "")
	fs.IntVar(&o.sensors, "sensors", 20, "")
	fs.BoolVar(&o.keep, "keep", false, "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.StringVar(&o.dir, "dir", "", "")
	fs.Usage = func() { fmt.Fprint(out, help) }
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; --help lists the flags", fs.Arg(0))
	}
	o.outage = outage
	if outage < 0 {
		o.outage = o.length / 2
	}
	return o, o.validate()
}

func (o options) validate() error {
	switch {
	case o.length < 4*time.Second || o.length > 24*time.Hour:
		return fmt.Errorf("--for %v: want 4s to 24h", o.length)
	case o.outage > o.length*8/10:
		return fmt.Errorf("--outage %v: want at most 80 %% of --for (%v): it must be seen to work before and after", o.outage, o.length*8/10)
	case o.outage > 0 && o.outage < 2*time.Second:
		return fmt.Errorf("--outage %v: want 0s, or at least 2s: the agent is killed within it", o.outage)
	case o.sensors < 1 || o.sensors > 200:
		return fmt.Errorf("--sensors %d: want 1 to 200 (the agent takes 256 clients)", o.sensors)
	case !(o.rate >= 1 && o.rate <= 100_000):
		return fmt.Errorf("--rate %v: want 1 to 100000 messages a second", o.rate)
	case o.rate*o.length.Seconds() > 50e6:
		return errors.New("--rate and --for: more than 50 million messages would not fit a demo")
	}
	return nil
}

// cutAt, killAt and healAt are moments of the run. Without an outage the agent
// is killed half-way all the same.
func (o options) cutAt() time.Duration  { return (o.length - o.outage) / 2 }
func (o options) killAt() time.Duration { return o.cutAt() + o.outage/2 }
func (o options) healAt() time.Duration { return o.cutAt() + o.outage }
