package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
)

// options are the flags, and what follows from them.
type options struct {
	brokers  []broker.Kind
	faults   []faults.Fault
	least    time.Duration
	rate     float64
	sensors  int
	parallel int
	control  bool
	long     bool
	stock    bool
	json     bool
	keep     bool
}

const help = `Usage: ./scripts/conformance [flags]

Runs the whole of Holdfast over each broker, does to it what may happen while
sensors publish, and counts after every fault:

  sensors ─┤link├─ edge-agent → sidecar ─┤link├─ broker → sidecar ─┤proxy├─ cloud-api → SQLite
                                                              ↑─┤link├─ receipts ─┘

Every program is the real one. The links can be cut; the proxy repeats, delays
and refuses what is delivered to the cloud. A broker that is not installed is
skipped and named, or fails when HOLDFAST_TEST_REQUIRE names it. Over each broker one stack runs, and the faults one after the
other; every fault has sensors of its own, which publish through it and until
the device has caught up. Then everything that the cloud holds, of this fault
and those before it, is read back and compared byte for byte with what each
sensor published and saw acknowledged.

It exits with status 0 only when, after every fault, no acknowledged message is
missing, none is there twice or altered, no gap is unexplained, and the cloud
raised the alarms that the fault calls for and no others.

Flags:
  --broker LIST     nats, mqtt (or mosquitto), redis, rabbitmq, kafka (default: all)
  --fault LIST      of the faults below (default: all but the control)
  --for DURATION    sensors publish at least this long in each fault (default 8s)
  --rate N          messages a second, of all sensors together (default 225: 200 must be
                    acknowledged whatever the fault)
  --sensors N       how many sensors publish, 1 to 100 (default 10)
  --parallel N      brokers at a time (default 4)
  --control=false   without the control: one more stack, whose agent deletes what it published
                    (such an agent can only be built with the tag faults), and which must
                    be found to have lost messages (default: with it, when all faults are run)
  --long            faults last five times as long
  --stock           with Dapr's own daprd (built with the tag stablecomponents, which takes
                    minutes) instead of ours, restarted one second after it ends by
                    itself; over mqtt, redis and rabbitmq, for it has no JetStream
  --keep            keep data and logs, which otherwise only a failure does
  --json            print the result as one JSON object on the last line too

Faults:
`

// parse reads the flags. It returns flag.ErrHelp when only help was asked for.
func parse(args []string, out io.Writer) (options, error) {
	var o options
	var brokers, names string
	fs := flag.NewFlagSet("conformance", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.StringVar(&brokers, "broker", "", "")
	fs.StringVar(&names, "fault", "", "")
	fs.DurationVar(&o.least, "for", 8*time.Second, "")
	fs.Float64Var(&o.rate, "rate", 225, "")
	fs.IntVar(&o.sensors, "sensors", 10, "")
	fs.IntVar(&o.parallel, "parallel", 4, "")
	fs.BoolVar(&o.control, "control", true, "")
	fs.BoolVar(&o.long, "long", false, "")
	fs.BoolVar(&o.keep, "keep", false, "")
	fs.BoolVar(&o.stock, "stock", false, "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.Usage = func() {
		fmt.Fprint(out, help)
		for _, f := range faults.Suite() {
			fmt.Fprintf(out, "  %-20s %s\n", f.Name, f.About)
		}
	}
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; --help lists the flags", fs.Arg(0))
	}
	if err := o.choose(brokers, names); err != nil {
		return o, err
	}
	return o, o.validate()
}

// choose picks brokers and faults; an empty list is all of them.
func (o *options) choose(brokers, names string) error {
	o.brokers = broker.Kinds()
	o.faults = regular()
	if brokers != "" {
		o.brokers = nil
		for name := range strings.SplitSeq(brokers, ",") {
			kind, err := broker.Named(name)
			if err != nil {
				return fmt.Errorf("--broker: %w", err)
			}
			o.brokers = append(o.brokers, kind)
		}
	}
	o.brokers = slices.DeleteFunc(o.brokers, func(k broker.Kind) bool { return o.stock && k.Name == "nats" })
	if names == "" {
		return nil
	}
	o.faults, o.control = nil, false
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(faults.Suite(), func(f faults.Fault) bool { return f.Name == name })
		if i < 0 {
			return fmt.Errorf("--fault: no fault %q; --help lists them", name)
		}
		o.faults = append(o.faults, faults.Suite()[i])
	}
	return nil
}

// regular are the faults that are run unless others are asked for.
func regular() []faults.Fault {
	return slices.DeleteFunc(faults.Suite(), func(f faults.Fault) bool { return f.Control })
}

func (o options) validate() error {
	switch {
	case len(o.brokers) == 0:
		return errors.New("--stock: Dapr's own daprd has no JetStream in its stable components")
	case o.least < time.Second || o.least > time.Hour:
		return fmt.Errorf("--for %v: want 1s to 1h", o.least)
	case o.sensors < 1 || o.sensors > 100:
		return fmt.Errorf("--sensors %d: want 1 to 100", o.sensors)
	case !(o.rate >= 1 && o.rate <= 10_000):
		return fmt.Errorf("--rate %v: want 1 to 10000 messages a second", o.rate)
	case o.parallel < 1 || o.parallel > 8:
		return fmt.Errorf("--parallel %d: want 1 to 8", o.parallel)
	}
	return nil
}
