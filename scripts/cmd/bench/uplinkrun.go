package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/device"
	"github.com/holdfast-edge/holdfast/scripts/internal/histogram"
	"github.com/holdfast-edge/holdfast/scripts/internal/link"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const (
	wireRate    = 1000 // readings a second: about 100 in each frame, of which the uplink sends ten a second
	wireSensors = 16
	fillSensors = 50
	fillRate    = 60_000 // more than the agent takes: it is filled as fast as it lets itself be
	settleLimit = 3 * time.Minute
)

// uplinkRun is one measurement.
type uplinkRun struct {
	uplinkOptions
	stack  *stack.Stack
	screen *term.Screen
	result *uplinkResult
	fleets []*benchFleet
	healed time.Time // the network, with the backlog on the device
	ended  time.Time // when the last of the backlog had its receipt
}

// benchFleet is a fleet with its log.
type benchFleet struct {
	sensors.Fleet
	log *oracle.Oracle
}

func (u *uplinkRun) fleet(prefix string, count int, rate float64, length time.Duration) *benchFleet {
	shape := sensors.Shape{Prefix: prefix, Seed: rand.Uint64(), Plain: true}
	f := &benchFleet{log: oracle.New(shape, count)}
	f.Fleet = sensors.Fleet{Shape: shape, Addr: u.stack.Edge.MQTT, Sensors: count, Rate: rate, For: length, Log: f.log}
	u.fleets = append(u.fleets, f)
	return f
}

func (u *uplinkRun) measure(ctx context.Context) error {
	for _, step := range []func(context.Context) error{u.resting, u.onTheWire, u.backlog, u.readBack} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// resting measures the sidecars when nothing happens, over the second half of
// the time: at its start a sidecar has more.
func (u *uplinkRun) resting(ctx context.Context) error {
	u.screen.Event("idle for %v", u.idle)
	if err := pause(ctx, u.idle/2); err != nil {
		return err
	}
	peaks := u.watch(ctx)
	if err := pause(ctx, u.idle/2); err != nil {
		return err
	}
	u.result.Idle = peaks()
	return nil
}

// onTheWire measures bytes on the edge's link by frames of about 100 readings.
func (u *uplinkRun) onTheWire(ctx context.Context) error {
	u.screen.Event("%d readings/s for %v", wireRate, u.wire)
	warm := u.fleet("warm", wireSensors, wireRate, 3*time.Second)
	if err := warm.Run(ctx, nil); err != nil {
		return err
	}
	if err := u.settle(ctx, 0); err != nil {
		return err
	}
	before, framesBefore := u.stack.Edge.Link.Stats(), u.frames(ctx)
	fleet := u.fleet("wire", wireSensors, wireRate, u.wire)
	if err := fleet.Run(ctx, nil); err != nil {
		return err
	}
	if err := u.settle(ctx, 0); err != nil {
		return err
	}
	now, frames := u.stack.Edge.Link.Stats(), u.frames(ctx)-framesBefore
	w := &u.result.Wire
	w.Readings, w.Frames = fleet.log.Totals().Acknowledged, frames
	w.Up, w.Down = now.Up-before.Up, now.Down-before.Down
	for number := range uint64(u.wire.Seconds() * wireRate / wireSensors) {
		for sensor := range wireSensors {
			w.Raw += int64(len(fleet.Payload(sensor, number)))
		}
	}
	return nil
}

// frames is how many the agent has published so far.
func (u *uplinkRun) frames(ctx context.Context) float64 {
	n, err := device.Metric(ctx, u.stack.Edge.Status, "edge_uplink_frames_total")
	if err != nil {
		u.screen.Event("%v", err)
	}
	return n
}

// backlog fills the outbox with the network cut, heals it, and waits.
func (u *uplinkRun) backlog(ctx context.Context) error {
	edge := &u.stack.Edge
	if err := edge.Link.Cut(); err != nil {
		return err
	}
	fill := u.fleet("fill", fillSensors, fillRate, time.Duration(float64(u.readings)/fillRate*float64(time.Second)))
	begin := time.Now()
	if err := fill.Run(ctx, nil); err != nil {
		return err
	}
	total := fill.log.Totals().Acknowledged
	u.result.Drain.Filled = time.Since(begin).Seconds()
	u.screen.Event("%s readings are on the device, after %.0f s", term.Count(total), time.Since(begin).Seconds())
	// Live readings are those of now; what was stored before is older than that.
	if err := pause(ctx, time.Until(begin.Add(35*time.Second))); err != nil {
		return err
	}
	stop := make(chan struct{})
	live := u.fleet("live", 10, u.live, 0)
	done := make(chan error, 1)
	sampler := newSampler(u.stack.Processes())
	samplerCtx, stopSampler := context.WithCancel(ctx)
	defer stopSampler()
	go sampler.run(samplerCtx)
	peaks := u.watch(ctx)
	u.healed = time.Now()
	if err := edge.Link.Set(link.Condition{}); err != nil {
		return err
	}
	go func() { done <- live.Run(ctx, stop) }()
	err := u.settle(ctx, uint64(2*u.live))
	u.ended = time.Now()
	d := &u.result.Drain
	d.Seconds, d.Readings = u.ended.Sub(u.healed).Seconds(), total
	stopSampler()
	d.Programs, d.Sidecars = sampler.usage(), peaks()
	close(stop)
	u.screen.Event("drained in %.1f s", d.Seconds)
	return errors.Join(err, <-done, u.settle(ctx, 0))
}

// settle waits until at most so many records wait on the device. Unlike the
// stack's it asks seldom, and does not disturb what it measures.
func (u *uplinkRun) settle(ctx context.Context, most uint64) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		status, err := device.Get(ctx, u.stack.Edge.Status)
		if err == nil && status.Waiting <= most {
			return nil
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("%d records wait on the device after %v: %w", status.Waiting, settleLimit, errors.Join(ctx.Err(), err))
		}
	}
}

// readBack compares everything, and measures the age of live readings when the
// database got them: of those that became due while the backlog drained, from
// when the sidecar had its connection again, which it looks for at random moments.
func (u *uplinkRun) readBack(ctx context.Context) error {
	u.screen.Event("reading back")
	checks := make([]*oracle.Check, len(u.fleets))
	for i, f := range u.fleets {
		checks[i] = f.log.Check()
	}
	live := u.fleets[len(u.fleets)-1]
	var due, stored []time.Time
	first := u.ended
	err := u.stack.Client().Readings(ctx, u.stack.Edge.ID, func(r cloud.Reading) error {
		for i, f := range u.fleets {
			payload, _ := r.Bytes() // Add reports it
			sensor, number, ours, valid := f.Recognise(r.Topic, payload)
			if !ours {
				continue
			}
			if f == live && valid { // both clocks are this machine's
				due, stored = append(due, f.Due(sensor, number)), append(stored, r.ReceivedAt)
			}
			if r.ReceivedAt.After(u.healed) && r.ReceivedAt.Before(first) {
				first = r.ReceivedAt
			}
			return checks[i].Add(r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range checks {
		f := c.Findings()
		u.result.Missing += f.Missing
		u.result.Doubled += f.Duplicates
		u.result.Altered += f.Altered
	}
	var age histogram.Histogram
	for i := range due {
		if due[i].After(first) && due[i].Before(u.ended) {
			age.Add(stored[i].Sub(due[i]))
		}
	}
	u.result.Live, u.result.Drain.Reconnected = quantilesOf(&age), first.Sub(u.healed).Seconds()
	return nil
}

// watch samples what the sidecars keep resident, ten times a second, until the
// function that it returns is called, which tells the most.
func (u *uplinkRun) watch(ctx context.Context) func() sidecars {
	var most sidecars
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			most.Edge = max(most.Edge, resident(u.stack.Edge.Sidecar))
			most.Cloud = max(most.Cloud, resident(u.stack.Cloud.Sidecar))
			if pause(ctx, 100*time.Millisecond) != nil {
				return
			}
		}
	}()
	return func() sidecars {
		cancel()
		<-done
		return most
	}
}

func resident(p *process.Process) int64 {
	m, err := p.Memory()
	if err != nil {
		return 0
	}
	return m.Anon + m.File
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
