package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
	"github.com/holdfast-edge/holdfast/scripts/internal/histogram"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
)

// fleet is a set of sensors and what is known of its messages.
type fleet struct {
	sensors.Fleet
	log   *oracle.Oracle
	begin time.Time
	took  time.Duration
	stop  chan struct{}
	done  chan error
}

// launch lets a fleet publish until its end, whose messages are counted.
func (r *round) launch(ctx context.Context, name, addr string, l faults.Load) *fleet {
	// No two fleets of a round have the same topics.
	f := r.fleet(ctx, fmt.Sprintf("%s-%d", name, len(r.fleets)), addr, l)
	r.fleets = append(r.fleets, f)
	return f
}

func (r *round) fleet(ctx context.Context, prefix, addr string, l faults.Load) *fleet {
	shape := sensors.Shape{Prefix: prefix, Seed: r.target.Rand.Uint64(), Size: l.Size}
	f := &fleet{log: oracle.New(shape, r.sensors)}
	f.Fleet = sensors.Fleet{Shape: shape, Addr: addr, Sensors: r.sensors, Rate: l.Rate, Log: observed{f.log, &r.calm}}
	return f.start(ctx)
}

// start lets it publish.
func (f *fleet) start(ctx context.Context) *fleet {
	f.begin, f.stop, f.done = time.Now(), make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		f.done <- f.Run(ctx, f.stop)
	}()
	return f
}

// publish is launch for a fault.
func (r *round) publish(ctx context.Context, name, addr string, l faults.Load) func() error {
	return r.launch(ctx, name, addr, l).end
}

// apart lets a fleet publish whose messages are no part of the count.
func (r *round) apart(ctx context.Context, name, addr string, l faults.Load) (end func() error, count func(context.Context, string) (oracle.Findings, error)) {
	f := r.fleet(ctx, name, addr, l)
	return f.end, func(ctx context.Context, agent string) (oracle.Findings, error) {
		check := f.log.Check()
		err := r.stack.Client().Readings(ctx, agent, check.Add)
		return check.Findings(), err
	}
}

// end stops the fleet and waits until every message of it was acknowledged.
func (f *fleet) end() error {
	f.took = time.Since(f.begin)
	close(f.stop)
	select {
	case err := <-f.done:
		return err
	case <-time.After(faults.CatchUp):
		return fmt.Errorf("messages without a PUBACK %v after the last one was published", faults.CatchUp)
	}
}

func (r *round) acknowledged() (sum uint64) {
	for _, f := range r.fleets {
		sum += f.log.Totals().Acknowledged
	}
	return sum
}

// calm is when nothing happened, and how long PUBACKs took then.
type calm struct {
	since atomic.Int64 // Unix nanoseconds; 0: something happens
	list  [][2]time.Time

	mu     sync.Mutex
	puback histogram.Histogram
}

func (c *calm) begin() {
	c.since.Store(time.Now().UnixNano())
}

func (c *calm) end() {
	c.list = append(c.list, [2]time.Time{time.Unix(0, c.since.Swap(0)), time.Now()})
}

// within reports whether nothing happened at a moment nor for a while after.
func (c *calm) within(t time.Time) bool {
	for _, w := range c.list {
		if !t.Before(w[0]) && t.Before(w[1].Add(-calmTime/2)) {
			return true
		}
	}
	return false
}

// acknowledged notes a PUBACK that came now, if nothing happened since the
// message was due.
func (c *calm) acknowledged(took time.Duration) {
	since := c.since.Load()
	if since == 0 || time.Now().Add(-took).UnixNano() < since {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.puback.Add(took)
}

// observed is a log that notes latencies while nothing happens.
type observed struct {
	*oracle.Oracle
	calm *calm
}

// Acknowledged notes that the PUBACK of a message was parsed.
func (o observed) Acknowledged(sensor int, number uint64, took time.Duration) {
	o.Oracle.Acknowledged(sensor, number, took)
	o.calm.acknowledged(took)
}
