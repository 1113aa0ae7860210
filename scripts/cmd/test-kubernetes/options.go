package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

type options struct {
	archives []string
	load     string
	data     string
	tag      string
	node     string
	cut      string
	heal     string
	kill     string
	start    string
	fill     string
	free     string
	foreign  string
	outage   time.Duration
	sensors  int
	rate     float64
	only     []string
	keep     bool
	dsn      string

	mosquitto bool
}

const about = `usage: scripts/test-kubernetes [options]

Deploys k3s/overlays/pi and cloud-api/kubernetes/overlays/dev (or production), each with small changes, to the cluster of the current KUBECONFIG, into the
namespaces holdfast-edge and holdfast, which must not exist. Dapr must be installed, and a node must have the label holdfast.dev/role=edge.
On that node a folder (--data) must exist, be empty and belong to user 65532: install -d -o 65532 -g 65532 -m 700 FOLDER.

What the cluster cannot do by itself is done by commands of yours; the cases that need one that is not given are skipped:
  --load      puts an image archive on every node; called with the archive's path as its last argument
  --cut       drops every packet between the edge node and the rest; --heal ends that
  --kill      ends every process of the edge node at once; --start brings it back
  --fill      leaves no room on the disk of --data, --free gives it back; called with that folder as last argument
The others are called with the node's name as last argument.

options:
`

func parse(args []string, out io.Writer) (options, error) {
	var o options
	var only string
	fs := flag.NewFlagSet("test-kubernetes", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.Func("archive", "image `FILE` that --load puts on the nodes; may be given several times", func(s string) error {
		o.archives = append(o.archives, s)
		return nil
	})
	fs.StringVar(&o.load, "load", "", "`COMMAND` that loads an archive, such as \"k3s ctr images import\"")
	fs.StringVar(&o.data, "data", "/var/lib/holdfast-test", "`FOLDER` on the edge node for the outbox")
	fs.StringVar(&o.tag, "tag", "dev", "`TAG` of our images")
	fs.StringVar(&o.node, "node", "", "edge `NODE`; empty: the first one with the label")
	fs.StringVar(&o.dsn, "production", "", "deploy overlays/production instead, over an empty PostgreSQL database: `DSN` as its pods reach it")
	fs.BoolVar(&o.mosquitto, "mosquitto", false, "deploy k3s/components/mosquitto too, and publish to it: a PUBACK is then Mosquitto's")
	fs.StringVar(&o.cut, "cut", "", "`COMMAND` that cuts the edge node off")
	fs.StringVar(&o.heal, "heal", "", "`COMMAND` that ends the cut")
	fs.StringVar(&o.kill, "kill", "", "`COMMAND` that cuts the edge node's power")
	fs.StringVar(&o.start, "start", "", "`COMMAND` that gives it back")
	fs.StringVar(&o.fill, "fill", "", "`COMMAND` that fills the outbox' disk")
	fs.StringVar(&o.free, "free", "", "`COMMAND` that makes room again")
	fs.StringVar(&o.foreign, "foreign", "", "`IMAGE` of the agent for another processor than the edge node's, present there or in a registry")
	fs.DurationVar(&o.outage, "outage", 30*time.Second, "how long the cut lasts")
	fs.IntVar(&o.sensors, "sensors", 8, "MQTT connections")
	fs.Float64Var(&o.rate, "rate", 200, "messages a second, of all sensors together")
	fs.StringVar(&only, "only", "", "`CASES` to run, with commas between; empty: all")
	fs.BoolVar(&o.keep, "keep", false, "leave everything deployed")
	fs.Usage = func() {
		fmt.Fprint(out, about)
		fs.PrintDefaults()
		fmt.Fprintln(out, "\ncases:")
		for _, c := range cases() {
			fmt.Fprintf(out, "  %-14s %s\n", c.name, c.about)
		}
	}
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	return o, o.validate(fs.NArg())
}

func (o options) validate(extra int) error {
	switch {
	case extra > 0:
		return errors.New("unexpected argument; --help explains")
	case len(o.archives) > 0 && o.load == "":
		return errors.New("--archive needs --load")
	case o.sensors < 1 || o.rate <= 0:
		return errors.New("want at least one sensor and a rate above 0")
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(cases(), func(c testCase) bool { return c.name == name }) {
			return fmt.Errorf("no case is called %q; --help lists them", name)
		}
	}
	return nil
}
