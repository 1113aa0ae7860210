package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
)

const (
	sensorCount = 4
	rate        = 40 // messages a second: an emulated Pi has little to give
)

// agent is who is on the card now.
func (r *rig) agent() string { return r.agents[len(r.agents)-1] }

// publish lets the sensors run until quiet.
func (r *rig) publish(ctx context.Context) {
	if r.stopped != nil {
		return
	}
	shape := sensors.Shape{Prefix: fmt.Sprintf("flash-%d", len(r.oracles)), Seed: uint64(len(r.oracles))}
	log := oracle.New(shape, sensorCount)
	r.oracles = append(r.oracles, log)
	fleet := &sensors.Fleet{
		Shape: shape, Addr: r.ports.mqtt, Sensors: sensorCount, Rate: rate, Log: log, Username: "sensors", Password: r.password,
	}
	stopped, done := make(chan struct{}), make(chan error, 1)
	r.stopped, r.done = stopped, done
	go func() { done <- fleet.Run(ctx, stopped) }()
}

// acked returns how many messages were acknowledged so far.
func (r *rig) acked() (n uint64) {
	for _, o := range r.oracles {
		n += o.Totals().Acknowledged
	}
	return n
}

// acknowledged waits until so many more messages were.
func (r *rig) acknowledged(ctx context.Context, more uint64) error {
	want := r.acked() + more
	return r.until(ctx, bootLimit, "acknowledgements", func() error {
		if n := r.acked(); n < want {
			return fmt.Errorf("%d messages are acknowledged, waiting for %d", n, want)
		}
		return nil
	})
}

// flows publishes, and waits until what is published now comes in at the cloud.
func (r *rig) flows(ctx context.Context) error {
	r.publish(ctx)
	if err := r.acknowledged(ctx, 1); err != nil {
		return err
	}
	before := uint64(0)
	if a, err := r.cloud.Client().Agent(ctx, r.agent()); err == nil {
		before = a.Held
	}
	return r.until(ctx, bootLimit, "readings in the cloud", func() error {
		a, err := r.cloud.Client().Agent(ctx, r.agent())
		if err == nil && a.Held < before+rate {
			err = fmt.Errorf("the cloud holds %d records, waiting for %d", a.Held, before+rate)
		}
		return err
	})
}

// finish ends a case: where the network is cut, the count must miss what is on
// the card alone, and then it heals; publishing ends, when everything that was sent
// is acknowledged; then nothing may be missing.
func (r *rig) finish(ctx context.Context) error {
	if err := r.drain(ctx); err != nil {
		return err
	}
	err := r.settled(ctx, func(f oracle.Findings) error {
		if f.Missing > 0 {
			return fmt.Errorf("%d acknowledged readings are missing: %q", f.Missing, f.Examples)
		}
		return nil
	})
	if found := r.now.Findings; err == nil && found.Duplicates+found.Altered > 0 {
		err = fmt.Errorf("doubled or altered: %q", found.Examples)
	}
	return err
}

// convicted ends a case whose card has lost so many acknowledged readings: they
// must be found missing, and nothing else may be.
func (r *rig) convicted(ctx context.Context, lost uint64) error {
	if err := r.drain(ctx); err != nil {
		return err
	}
	err := r.settled(ctx, func(f oracle.Findings) error {
		if f.Missing > lost {
			return fmt.Errorf("%d acknowledged readings are missing, of which the card forgot %d", f.Missing, lost)
		}
		return nil
	})
	if err == nil && r.now.Missing == 0 {
		err = errors.New("the card forgot what was acknowledged, and nothing was found missing: the test cannot tell")
	}
	return err
}

// drain lets everything flow that can still flow.
func (r *rig) drain(ctx context.Context) error {
	if r.cut {
		if err := r.control(ctx); err != nil {
			return err
		}
		if err := r.cloud.Edge.Link.Heal(); err != nil {
			return err
		}
		r.cut = false
	}
	return r.quiet(ctx)
}

// quiet ends publishing, when everything sent was acknowledged.
func (r *rig) quiet(ctx context.Context) error {
	close(r.stopped)
	r.stopped = nil
	defer r.watch(time.Now(), "the sensors' last acknowledgements")()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-r.guest.Done():
		return errors.New("the guest went off while sensors waited for acknowledgements; end of the console:\n" + r.guest.Tail(25))
	case <-time.After(stepLimit):
		return fmt.Errorf("the sensors still wait for acknowledgements after %v; end of the console:\n%s", stepLimit, r.guest.Tail(25))
	}
}

// control is the proof that the count can tell: while the network is cut, what
// was acknowledged is on the card alone.
func (r *rig) control(ctx context.Context) error {
	found, err := r.count(ctx)
	if err != nil {
		return err
	}
	if found.Missing == 0 {
		return errors.New("the network is cut and yet nothing acknowledged is missing in the cloud: the count cannot tell")
	}
	r.now.OnCardAlone = found.Missing
	r.screen.Event("control: %d acknowledged readings are on the card alone", found.Missing)
	return nil
}

// settled waits until the device has nothing left and the count suits the case.
func (r *rig) settled(ctx context.Context, suits func(oracle.Findings) error) error {
	err := r.until(ctx, stepLimit, "the rest in the cloud", func() (err error) {
		a, err := r.cloud.Client().Agent(ctx, r.agent()) // of those before, nothing is left to come
		if err != nil {
			return err
		}
		if a.OnDevice > 0 || a.Unexplained > 0 {
			return fmt.Errorf("%s has %d records on the device and %d unexplained", a.ID, a.OnDevice, a.Unexplained)
		}
		if r.now.Findings, err = r.count(ctx); err != nil {
			return err
		}
		return suits(r.now.Findings)
	})
	found := r.now.Findings
	r.screen.Event("counted: published %d, acknowledged %d, stored %d, missing %d, doubled %d, altered %d, redelivered %d",
		found.Published, found.Acknowledged, found.Stored, found.Missing, found.Duplicates, found.Altered, found.Redelivered)
	return err
}

// count reads everything back and compares it with every publication so far.
func (r *rig) count(ctx context.Context) (sum oracle.Findings, err error) {
	var checks []*oracle.Check
	for _, o := range r.oracles {
		checks = append(checks, o.Check())
	}
	for _, name := range r.agents {
		err := r.cloud.Client().Readings(ctx, name, func(reading cloud.Reading) error {
			for i, c := range checks {
				if strings.HasPrefix(reading.Topic, fmt.Sprintf("flash-%d/", i)) {
					return c.Add(reading)
				}
			}
			return fmt.Errorf("topic %s is nobody's", reading.Topic)
		})
		if err != nil {
			return sum, err
		}
	}
	for _, c := range checks {
		f := c.Findings()
		sum.Published += f.Published
		sum.Acknowledged += f.Acknowledged
		sum.Stored += f.Stored
		sum.Missing += f.Missing
		sum.Duplicates += f.Duplicates
		sum.Redelivered += f.Redelivered
		sum.Altered += f.Altered
		sum.Examples = append(sum.Examples, f.Examples...)
	}
	return sum, nil
}
