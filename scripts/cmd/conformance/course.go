package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

// course is one stack over one broker, through all faults.
type course struct {
	*suite
	kind   broker.Kind
	stack  *stack.Stack
	target *faults.Target

	fleets []*fleet // of all faults so far
	alarms map[string]uint64
}

// fleet is a set of sensors and what is known of its messages.
type fleet struct {
	sensors.Fleet
	log    *oracle.Oracle
	before oracle.Findings // after the fault before
	latest oracle.Findings
	begin  time.Time
	stop   chan struct{}
	done   chan error
	length time.Duration // for which it published, once it ended
}

// warmUp is how long sensors publish before a fault, so that it meets a system
// that is at work.
const warmUp = 1500 * time.Millisecond

// Faults last so many times as long as in a drill.
const (
	stretch     = 2
	stretchLong = 10
)

// alarmLimit is how long the cloud may take to raise an alarm once it is whole.
const alarmLimit = time.Minute

// controlLimit is how long what was destroyed may take to turn up: it will not.
const controlLimit = 10 * time.Second

// watched runs the faults while the programs run: when one of them ends by
// itself, the rest is pointless.
func (c *course) watched(ctx context.Context) ([]row, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	failed := c.stack.Failed()
	go func() {
		select {
		case err := <-failed:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	rows, err := c.all(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return rows, err
}

func (c *course) all(ctx context.Context) ([]row, error) {
	var rows []row
	for _, f := range c.faults {
		r, err := c.trial(ctx, f)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", f.Name, err)
		}
		word := "passed"
		if !r.Passed {
			word = "FAILED: " + strings.Join(r.Faults, "; ")
		}
		if r.Ends > 0 {
			r.Evidence += fmt.Sprintf("; sidecars ended by themselves %d times", r.Ends)
		}
		c.screen.Event("%-9s %-20s %s (%d messages, caught up after %.1f s; %s)",
			c.kind.Name, f.Name, word, r.Acknowledged, r.CaughtUp, r.Evidence)
		rows = append(rows, r)
	}
	return rows, nil
}

func (c *course) stop() error { return errors.Join(c.stack.Stop(), c.target.Intake.Close()) }

// trial lets sensors publish, does the damage, waits until it is made good, and
// counts.
func (c *course) trial(ctx context.Context, f faults.Fault) (row, error) {
	r := row{Fault: f.Name}
	load := c.launch(ctx, f.Name, c.target.Intake.Addr(), c.rate)
	if err := pause(ctx, warmUp); err != nil {
		return r, err
	}
	begin, ends := time.Now(), c.ends()
	evidence, err := f.Does(ctx, c.target)
	if err != nil {
		return r, err
	}
	healed := time.Now()
	r.Evidence, r.Lasted = evidence, healed.Sub(begin).Seconds()
	if !f.Control { // it never recovers
		if err := c.recover(ctx, healed); err != nil {
			r.fault("%v", err)
		}
	}
	r.CaughtUp = time.Since(healed).Seconds()
	if err := pause(ctx, max(time.Until(load.begin.Add(c.least)), 0)); err != nil {
		return r, err
	}
	if err := load.end(); err != nil {
		return r, err
	}
	if err := c.count(ctx, &r, f, healed); err != nil {
		return r, err
	}
	r.Ends = c.ends() - ends
	return r, nil
}

// ends is how often sidecars ended by themselves.
func (c *course) ends() int { return c.stack.Edge.Sidecar.Ends() + c.stack.Cloud.Sidecar.Ends() }

// publish is launch for a fault.
func (c *course) publish(ctx context.Context, name, addr string, l faults.Load) func() error {
	return c.launch(ctx, name, addr, l.Rate).end
}

// acknowledged is how many messages sensors have a PUBACK for, of all faults.
func (c *course) acknowledged() (sum uint64) {
	for _, f := range c.fleets {
		sum += f.log.Totals().Acknowledged
	}
	return sum
}

// launch starts a fleet against addr.
func (c *course) launch(ctx context.Context, name, addr string, rate float64) *fleet {
	shape := sensors.Shape{Prefix: name, Seed: rand.Uint64()}
	f := &fleet{log: oracle.New(shape, c.sensors), begin: time.Now(), stop: make(chan struct{}), done: make(chan error, 1)}
	f.Fleet = sensors.Fleet{Shape: shape, Addr: addr, Sensors: c.sensors, Rate: rate, Log: f.log}
	c.fleets = append(c.fleets, f)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		f.done <- f.Run(ctx, f.stop)
	}()
	return f
}

// end stops the fleet and waits until every message of it was acknowledged.
func (f *fleet) end() error {
	f.length = time.Since(f.begin)
	close(f.stop)
	select {
	case err := <-f.done:
		return err
	case <-time.After(faults.CatchUp):
		return fmt.Errorf("messages without a PUBACK %v after the last one was published", faults.CatchUp)
	}
}

// recover waits until the cloud has heard of the device since the fault, and
// less is on its way than comes in within a second, while more comes in.
func (c *course) recover(ctx context.Context, healed time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, healed.Add(faults.CatchUp))
	defer cancel()
	for {
		agent, err := c.stack.Client().Agent(ctx, c.stack.Edge.ID)
		if err == nil && agent.LastSeen.After(healed) {
			return c.stack.Settle(ctx, uint64(c.rate), faults.CatchUp)
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("no frame came to the cloud within %v: %w", faults.CatchUp, errors.Join(ctx.Err(), err))
		}
	}
}

// count reads everything back until it is whole, or for too long.
func (c *course) count(ctx context.Context, r *row, f faults.Fault, healed time.Time) error {
	limit := time.Now().Add(faults.CatchUp)
	if f.Control {
		limit = time.Now().Add(controlLimit)
	}
	for first := true; ; first = false {
		left := max(time.Until(limit), time.Second)
		wrong := c.stack.Settle(ctx, 0, left)
		if err := c.compare(ctx, r); err != nil {
			if time.Now().After(limit) || pause(ctx, time.Second) != nil {
				return err
			}
			continue
		}
		if !first {
			r.CaughtUp = time.Since(healed).Seconds()
		}
		if wrong == nil && r.whole() && (r.raised(f) || time.Since(healed) > alarmLimit) {
			break
		}
		if time.Now().After(limit) {
			if wrong != nil && !f.Control {
				r.fault("%v", wrong)
			}
			break
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	c.judge(r, f)
	return nil
}

// compare fills in what the cloud has now.
func (c *course) compare(ctx context.Context, r *row) error {
	checks := make([]*oracle.Check, len(c.fleets))
	for i, f := range c.fleets {
		checks[i] = f.log.Check()
	}
	err := c.stack.Client().Readings(ctx, c.stack.Edge.ID, func(reading cloud.Reading) error {
		for _, check := range checks {
			_ = check.Add(reading) // it never fails
		}
		return nil
	})
	if err != nil {
		return err
	}
	agent, err := c.stack.Client().Agent(ctx, c.stack.Edge.ID)
	if err != nil {
		return err
	}
	r.reset()
	for i, check := range checks {
		r.add(check.Findings(), c.fleets[i])
	}
	r.Unexplained, r.Alarms = agent.Unexplained, map[string]uint64{}
	for _, a := range agent.Alarms {
		if n := a.Count; n > 0 {
			r.Alarms[a.Kind] += n
			r.Examples = append(r.Examples, fmt.Sprintf("alarm %s, %d times: %s %s", a.Kind, n, a.Epoch, a.Detail))
		}
	}
	for kind, n := range r.Alarms {
		if n -= min(n, c.alarms[kind]); n == 0 {
			delete(r.Alarms, kind)
		} else {
			r.Alarms[kind] = n
		}
	}
	return nil
}

// judge decides, and takes note of where the next fault begins.
func (c *course) judge(r *row, f faults.Fault) {
	r.judge(f, c.rate)
	if c.alarms == nil {
		c.alarms = map[string]uint64{}
	}
	for kind, n := range r.Alarms {
		c.alarms[kind] += n
	}
	for _, fl := range c.fleets {
		fl.before = fl.latest
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
