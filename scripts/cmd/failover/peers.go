package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/peers"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const (
	// around is how long sensors publish before a fault and after it.
	around = 2 * time.Second
	// stillFor is how long nothing more must have arrived for what is missing to
	// be called lost: longer than anybody here waits before it tries again.
	stillFor = 90 * time.Second
	// peerLimit bounds the wait for what is still coming.
	peerLimit = 3 * time.Minute
)

// comparison does the same to several systems.
type comparison struct {
	options
	screen   *term.Screen
	root     string
	programs build.Paths
	ports    loopback.Ports
}

// system is one that can be compared.
type system struct {
	name, about string
	start       start
}

type start func(ctx context.Context, place peers.Place) (*peers.Peer, error)

// peersResult is the whole comparison.
type peersResult struct {
	Passed  bool           `json:"passed"` // Holdfast lost nothing
	Rate    float64        `json:"rate"`
	Seconds float64        `json:"seconds"`
	Systems []systemResult `json:"systems"`
}

// systemResult is what became of one system.
type systemResult struct {
	System  string    `json:"system"`
	About   string    `json:"about"`
	Skipped string    `json:"skipped,omitempty"` // why it was not run
	Rows    []peerRow `json:"faults"`
	Wrong   string    `json:"wrong,omitempty"` // why it ended early
}

// peerRow is one fault of one system.
type peerRow struct {
	Fault        string   `json:"fault"`
	Skipped      string   `json:"skipped,omitempty"`
	Acknowledged uint64   `json:"acknowledged"`
	Missing      uint64   `json:"missing"`
	Doubled      uint64   `json:"doubled"`
	Recovered    float64  `json:"recovered_s"` // until the last one that came had come
	Examples     []string `json:"examples,omitempty"`
}

func comparePeers(ctx context.Context, o options) (int, error) {
	c := comparison{options: o, screen: term.New(os.Stdout)}
	res, err := c.run(ctx)
	if err != nil {
		return notPlayed, err
	}
	c.screen.Print(peersReport(res))
	if !res.Passed {
		return failed, term.JSON(o.json, res)
	}
	return passed, term.JSON(o.json, res)
}

func (c *comparison) run(ctx context.Context) (res peersResult, err error) {
	if c.root, err = repo.Root(); err != nil {
		return res, err
	}
	c.programs, err = build.Builder{Root: c.root, Out: c.screen, TTY: c.screen.TTY()}.Build(ctx, stack.Programs()...)
	if err != nil {
		return res, err
	}
	c.screen.Restart()
	begin := time.Now()
	res.Rate = c.rate
	for _, s := range c.systems() {
		r := c.system(ctx, s)
		if err := ctx.Err(); err != nil {
			return res, err
		}
		res.Systems = append(res.Systems, r)
	}
	res.Seconds = time.Since(begin).Seconds()
	res.Passed = !slices.ContainsFunc(res.Systems, func(s systemResult) bool { return s.System == "holdfast" && !s.whole() })
	return res, nil
}

// systemNames are those of systems.
var systemNames = []string{"holdfast", "mosquitto", "mosquitto-default", "nats", "nats-default"}

// systems are those that are compared, Holdfast first.
func (c *comparison) systems() []system {
	mosquitto := func(tuned bool) start {
		return func(ctx context.Context, p peers.Place) (*peers.Peer, error) {
			return peers.Mosquitto(ctx, p, &c.ports, tuned)
		}
	}
	nats := func(tuned bool) start {
		return func(ctx context.Context, p peers.Place) (*peers.Peer, error) {
			return peers.NATS(ctx, p, &c.ports, c.programs[build.NATSServer.Name], tuned)
		}
	}
	all := []system{
		{"holdfast", "Holdfast over NATS, with SQLite", c.holdfast},
		{"mosquitto", "Mosquitto, persistence, autosave_interval 1, max_queued_messages 0, a bridge at QoS 1 with cleansession false", mosquitto(true)},
		{"mosquitto-default", "the same, but autosave_interval and max_queued_messages as they come: 1800 s, 1000", mosquitto(false)},
		{"nats", "NATS leaf node with JetStream and its MQTT listener, sync_interval always, a stream that the cloud's server mirrors", nats(true)},
		{"nats-default", "the same, but sync_interval as it comes: 2 minutes", nats(false)},
	}
	return slices.DeleteFunc(all, func(s system) bool {
		return !slices.Contains(c.peers, s.name) && !slices.Contains(c.peers, "all")
	})
}

// holdfast is the whole stack as a peer.
func (c *comparison) holdfast(ctx context.Context, place peers.Place) (*peers.Peer, error) {
	s, err := stack.Start(ctx, stack.Options{Root: c.root, Dir: place.Dir, Programs: c.programs, Volumes: stack.Volumes{Edge: place.Card}})
	if err != nil {
		return nil, err
	}
	return &peers.Peer{
		MQTT: s.Edge.MQTT, Edge: s.Edge.Agent, Hub: s.Broker.Process, Link: s.Edge.Link, Ready: s.AgentReady, Stop: s.Stop,
		Read: func(ctx context.Context, f func(string, []byte)) error {
			return s.Client().Readings(ctx, s.Edge.ID, func(r cloud.Reading) error {
				payload, err := r.Bytes()
				f(r.Topic, payload)
				return err
			})
		},
	}, nil
}

// system runs all faults with one system, as far as it gets.
func (c *comparison) system(ctx context.Context, s system) systemResult {
	res := systemResult{System: s.name, About: s.about}
	err := c.onCard(func(place peers.Place, card *disk.Cuttable) error {
		c.screen.Event("%s: starting (%s)", s.name, s.about)
		p, err := s.start(ctx, place)
		if err == nil {
			err = c.ordeals(ctx, &res, p, place, card)
		}
		if p != nil {
			err = errors.Join(err, p.Stop())
		}
		return err
	})
	switch {
	case err == nil:
	case len(res.Rows) == 0:
		res.Skipped = err.Error()
		c.screen.Event("SKIP %s: %v", s.name, err)
	default:
		res.Wrong = err.Error()
		c.screen.Event("%s ended early: %v", s.name, err)
	}
	return res
}

// onCard calls do with a folder and, where that can be, a disk whose power can be
// cut; both are gone afterwards.
func (c *comparison) onCard(do func(peers.Place, *disk.Cuttable) error) error {
	dir, err := os.MkdirTemp("", "holdfast-peers-")
	if err != nil {
		return err
	}
	place := peers.Place{Dir: filepath.Join(dir, "run"), Card: filepath.Join(dir, "card")}
	if err := errors.Join(os.Mkdir(place.Dir, 0o711), os.Mkdir(place.Card, 0o755)); err != nil {
		return err
	}
	card, err := disk.Power(place.Card, c.seed)
	switch {
	case errors.Is(err, disk.ErrUnavailable):
		err = do(place, nil)
	case err == nil:
		err = errors.Join(do(place, card), card.Close())
	}
	if c.keep {
		c.screen.Event("logs are kept in %s", dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(dir))
}

func (c *comparison) ordeals(ctx context.Context, res *systemResult, p *peers.Peer, place peers.Place, card *disk.Cuttable) error {
	if err := peers.Sync(place.Card); err != nil {
		return err
	}
	for _, o := range ordeals() {
		row := peerRow{Fault: o.name}
		if o.power && card == nil {
			row.Skipped = "it needs a disk whose power can be cut: root on Linux"
			res.Rows = append(res.Rows, row)
			continue
		}
		err := c.ordeal(ctx, &row, o, p, card)
		res.Rows = append(res.Rows, row)
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		c.screen.Event("%-17s %-18s %s of %s lost, %s doubled", res.System, o.name, term.Count(row.Missing), term.Count(row.Acknowledged), term.Count(row.Doubled))
	}
	return nil
}

// ordeal lets sensors publish through one fault, and counts.
func (c *comparison) ordeal(ctx context.Context, row *peerRow, o ordeal, p *peers.Peer, card *disk.Cuttable) error {
	shape := sensors.Shape{Prefix: peers.Prefix + "/" + o.name, Seed: rand.Uint64(), Size: c.size}
	load := &fleet{log: oracle.New(shape, c.sensors)}
	load.Fleet = sensors.Fleet{Shape: shape, Addr: p.MQTT, Sensors: c.sensors, Rate: c.rate, Log: load.log}
	load.start(ctx)
	if err := pause(ctx, around); err != nil {
		return err
	}
	if err := o.does(ctx, p, card); err != nil {
		return err
	}
	healed := time.Now()
	if err := pause(ctx, around); err != nil {
		return err
	}
	if err := load.end(); err != nil {
		return err
	}
	return count(ctx, row, p, load.log, healed)
}

// count waits until everything has arrived, or nothing more does.
func count(ctx context.Context, row *peerRow, p *peers.Peer, log *oracle.Oracle, healed time.Time) error {
	limit := time.Now().Add(peerLimit)
	changed := time.Now()
	for stored := uint64(0); ; {
		check, seq := log.Check(), uint64(0)
		err := p.Read(ctx, func(topic string, payload []byte) {
			seq++
			_ = check.Add(cloud.Reading{Seq: seq, Topic: topic, Payload: string(payload), Encoding: "utf-8"}) // it never fails
		})
		if err == nil {
			f := check.Findings()
			if f.Stored != stored {
				stored, changed = f.Stored, time.Now()
			}
			row.Acknowledged, row.Missing, row.Doubled = f.Acknowledged, f.Missing, f.Duplicates
			row.Recovered, row.Examples = changed.Sub(healed).Seconds(), f.Examples
			if f.Missing == 0 || time.Since(changed) > stillFor {
				return nil
			}
		}
		if time.Now().After(limit) {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// whole reports whether every fault was gone through and nothing was lost.
func (r systemResult) whole() bool {
	for _, row := range r.Rows {
		if row.Missing+row.Doubled > 0 {
			return false
		}
	}
	return r.Skipped == "" && r.Wrong == ""
}

// peersReport is the comparison as a table: a column for what each lost.
func peersReport(res peersResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  acknowledged messages that never arrived; of %.0f a second\n\n  %-18s", res.Rate, "fault")
	for _, s := range res.Systems {
		fmt.Fprintf(&b, " %19s", s.System)
	}
	b.WriteString("\n")
	for i, o := range ordeals() {
		fmt.Fprintf(&b, "  %-18s", o.name)
		for _, s := range res.Systems {
			fmt.Fprintf(&b, " %19s", s.cell(i))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, s := range res.Systems {
		note := s.About
		if s.Skipped != "" {
			note = "SKIP: " + s.Skipped
		} else if s.Wrong != "" {
			note += "; ended early: " + s.Wrong
		}
		fmt.Fprintf(&b, "  %-17s %s\n", s.System, note)
	}
	fmt.Fprintf(&b, "\n  %.0f s\n\n", res.Seconds)
	return b.String()
}

// cell is what a system lost in a fault.
func (r systemResult) cell(fault int) string {
	if fault >= len(r.Rows) || r.Rows[fault].Skipped != "" {
		return "-"
	}
	row := r.Rows[fault]
	text := fmt.Sprintf("%s of %s", term.Count(row.Missing), term.Count(row.Acknowledged))
	if row.Doubled > 0 {
		text += fmt.Sprintf(", %s twice", term.Count(row.Doubled))
	}
	return text
}
