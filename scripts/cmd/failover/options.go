package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
)

// options are the flags, and what follows from them.
type options struct {
	seed    uint64
	count   int
	only    []string
	length  time.Duration
	broker  broker.Kind
	store   string
	rate    float64
	sensors int
	size    int
	long    bool
	control string
	keep    bool
	json    bool
	junit   string
	list    bool
	peers   []string

	kubeconfig string   // of a cluster; empty: the drill is a local one
	cluster    []string // flags for the program that knows clusters
}

// deleteOnPublish is the one control there is.
const deleteOnPublish = "delete-on-publish"

const help = `Usage: ./scripts/failover [flags]

Runs the whole of Holdfast on this machine, with real programs:

  sensors ─┤link├─ edge-agent → sidecar ─┤link├─ NATS → 3 × (sidecar ─┤proxy├─ cloud-api) → PostgreSQL + standby
                                                               ↑─┤link├─ receipts ─┘

Sensors publish at QoS 1 all the time, on a schedule of their own that waits for
nobody; a message is acknowledged when its PUBACK was read from the network.
Meanwhile one fault after the other happens, in an order that the seed decides.
After each the system must recover by itself within 3 minutes: the cloud has heard of
the device, at most a second's messages are still on it, and the alarms that the
fault calls for were raised, no others. In the end everything that the cloud has is read back
through its API and compared, byte for byte, with what each sensor published.

It passes only when no acknowledged message is missing, none is there twice or
altered, the ledger explains every number and calls none lost that is there, no
program ended that nobody ended, and 90 % of the load was acknowledged.

Flags:
  --faults N        how many faults (default: each kind once). Fewer than there are
                    kinds: seeds that follow each other draw the others
  --only LIST       of these kinds only, separated by commas
  --list            list the kinds, and what each needs
  --seed N          of the order and of all lengths (default: from the clock; it is printed)
  --for DURATION    go on with new faults until then, with a fresh stack, counted by
                    itself, after every forty: for hours or days
  --broker NAME     nats, mqtt (or mosquitto), redis, rabbitmq (default nats)
  --store NAME      postgres (three replicas of the cloud), sqlite (one), or auto:
                    postgres where it is installed (default auto)
  --rate N          messages a second, of all sensors together (default 200)
  --sensors N       how many sensors publish, 1 to 200 (default 10)
  --size N          bytes a message, padded with noise (default: as short as they come)
  --long            faults last four times as long
  --control delete-on-publish
                    run an agent (built with the tag faults) that deletes what the broker
                    has taken, through faults that show what comes of it. Such a run
                    must be FAILED; its exit status is 0 when messages were found missing,
                    and 1 when not, which would show that this drill is worth nothing
  --peers LIST      instead of a drill: a few faults, each with Holdfast and with what else
                    carries MQTT through an outage and is installed, and what each lost:
                    holdfast, mosquitto (a bridge with persistence), nats (a leaf node with
                    JetStream), both also as they come, -default, or all
  --kubeconfig FILE instead of a drill here: the cases of ./scripts/test-kubernetes, or those of
                    --only, on a cluster: it deploys both halves, deletes pods, rolls out, evicts
                    and cuts, and counts as this program does. --rate and --sensors hold there;
                    its own flags, such as --cut and --heal, follow after --
  --json            print the result as one JSON object on the last line too
  --junit FILE      write the result as JUnit XML too
  --keep            keep data and logs, which otherwise only a failure does

What a machine lacks is skipped and named: PostgreSQL and the right to mount
(root on Linux) are needed for some kinds. HOLDFAST_TEST_REQUIRE=postgresql,fuse
makes their absence a failure.

Exit status: 0 passed (a control: found out), 1 failed, 2 wrong usage, 3 could not
be played.
`

// parse reads the flags. It returns flag.ErrHelp when only help was asked for.
func parse(args []string, out io.Writer) (options, error) {
	var o options
	var kind, only string
	fs := flag.NewFlagSet("failover", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.Uint64Var(&o.seed, "seed", 0, "")
	fs.IntVar(&o.count, "faults", 0, "")
	fs.StringVar(&only, "only", "", "")
	fs.BoolVar(&o.list, "list", false, "")
	fs.DurationVar(&o.length, "for", 0, "")
	fs.StringVar(&kind, "broker", "nats", "")
	fs.StringVar(&o.store, "store", "auto", "")
	fs.Float64Var(&o.rate, "rate", 200, "")
	fs.IntVar(&o.sensors, "sensors", 10, "")
	fs.IntVar(&o.size, "size", 0, "")
	fs.BoolVar(&o.long, "long", false, "")
	fs.StringVar(&o.control, "control", "", "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.Func("peers", "", func(s string) error {
		o.peers = strings.Split(s, ",")
		return nil
	})
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "")
	fs.StringVar(&o.junit, "junit", "", "")
	fs.BoolVar(&o.keep, "keep", false, "")
	fs.Usage = func() { fmt.Fprint(out, help) }
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.kubeconfig != "" {
		return o, o.onCluster(fs)
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; --help lists the flags", fs.Arg(0))
	}
	if o.seed == 0 {
		o.seed = uint64(rand.IntN(1e6)) + 1
	}
	var err error
	if o.broker, err = broker.Named(kind); err != nil {
		return o, fmt.Errorf("--broker: %w", err)
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	return o, o.validate()
}

// onCluster fills in the flags for a program that knows clusters. What it has none
// for is refused.
func (o *options) onCluster(fs *flag.FlagSet) (err error) {
	fs.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "only", "rate", "sensors":
			o.cluster = append(o.cluster, "--"+f.Name, f.Value.String())
		case "kubeconfig":
		default:
			err = fmt.Errorf("--%s: with --kubeconfig there are --only, --rate and --sensors, and what follows --", f.Name)
		}
	})
	o.cluster = append(o.cluster, fs.Args()...)
	return err
}

func (o options) validate() error {
	for _, name := range o.only {
		if !slices.ContainsFunc(faults.All(), func(f faults.Fault) bool { return f.Name == name }) {
			return fmt.Errorf("--only: no fault %q; --list lists them", name)
		}
	}
	for _, name := range o.peers {
		if !slices.Contains(append(systemNames, "all"), name) {
			return fmt.Errorf("--peers: no system %q: there are %s and all", name, strings.Join(systemNames, ", "))
		}
	}
	switch {
	case o.count < 0 || o.count > 10_000:
		return fmt.Errorf("--faults %d: want 1 to 10000", o.count)
	case o.length < 0 || o.count > 0 && o.length > 0:
		return errors.New("--for and --faults: want one of them, and a time that is not negative")
	case !slices.Contains([]string{"auto", "sqlite", "postgres"}, o.store):
		return fmt.Errorf("--store %q: want auto, sqlite or postgres", o.store)
	case o.sensors < 1 || o.sensors > 200:
		return fmt.Errorf("--sensors %d: want 1 to 200 (the agent takes 256 clients)", o.sensors)
	case !(o.rate >= 10 && o.rate <= 10_000):
		return fmt.Errorf("--rate %v: want 10 to 10000 messages a second", o.rate)
	case o.size < 0 || o.size > 256<<10:
		return fmt.Errorf("--size %d: want at most 262144 bytes", o.size)
	case o.peers != nil && (o.control != "" || o.length > 0 || o.count > 0 || len(o.only) > 0 || o.junit != ""):
		return errors.New("--peers: it has faults of its own; want no --for, --faults, --only, --control or --junit")
	case o.control != "" && o.control != deleteOnPublish:
		return fmt.Errorf("--control %q: there is %s", o.control, deleteOnPublish)
	case o.control != "" && (o.length > 0 || o.count > 0 || len(o.only) > 0):
		return errors.New("--control: it has faults of its own; want no --for, --faults or --only")
	}
	return nil
}

// catalogue is what --list prints.
func catalogue() string {
	var b strings.Builder
	for _, f := range faults.All() {
		fmt.Fprintf(&b, "%-22s %s", f.Name, f.About)
		for i, n := range f.Needs {
			b.WriteString([]string{"; needs ", ", "}[min(i, 1)])
			b.WriteString(string(n))
		}
		b.WriteString("\n")
	}
	return b.String()
}
