package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// calmTime is how long nothing happens before a fault: it meets a system that is
// at work, and latencies are those of one that is online.
const calmTime = time.Second

// alarmLimit is how long the cloud may take to raise an alarm once it is whole.
const alarmLimit = time.Minute

// controlPause is how long a control goes on after a fault.
const controlPause = 3 * time.Second

// trial does one fault and waits until the system is whole again.
func (r *round) trial(ctx context.Context, f faults.Fault) row {
	w := row{Fault: f.Name}
	if err := r.calmly(ctx); err != nil {
		w.Broken = err.Error()
		return w
	}
	before := r.acknowledged()
	w.Begin = time.Now()
	evidence, err := f.Does(ctx, r.target)
	healed := time.Now()
	w.Evidence, w.Lasted = evidence, healed.Sub(w.Begin).Seconds()
	switch {
	case err != nil:
	case r.control != "":
		// It cannot become whole again, and its alarms are beside the point: what
		// is missing must be found.
		err = pause(ctx, controlPause)
	default:
		if err = r.recover(ctx, healed); err == nil {
			err = r.alarmed(ctx, f, &w)
		}
	}
	w.End = time.Now()
	w.Recovered = w.End.Sub(healed).Seconds()
	w.Acknowledged = r.acknowledged() - before
	err = errors.Join(err, r.unasked(f))
	if err != nil {
		w.Broken = err.Error()
	}
	return w
}

// calmly waits while nothing happens.
func (r *round) calmly(ctx context.Context) error {
	r.calm.begin()
	err := pause(ctx, calmTime)
	r.calm.end()
	return err
}

// recover waits until the cloud has heard of the device since the fault, and less
// is on its way than comes in within a second, while more comes in.
func (r *round) recover(ctx context.Context, healed time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, healed.Add(faults.CatchUp))
	defer cancel()
	for {
		agent, err := r.stack.Client().Agent(ctx, r.stack.Edge.ID)
		if err == nil && agent.LastSeen.After(healed) {
			return r.stack.Settle(ctx, uint64(r.rate), faults.CatchUp)
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("no frame came to the cloud within %v: %w", faults.CatchUp, errors.Join(ctx.Err(), err))
		}
	}
}

// alarmed waits for the alarms that the fault calls for, and knows no others.
func (r *round) alarmed(ctx context.Context, f faults.Fault, w *row) error {
	limit := time.Now().Add(alarmLimit)
	for {
		agent, err := r.stack.Client().Agent(ctx, r.stack.Edge.ID)
		if err != nil {
			return err
		}
		w.Alarms = map[string]uint64{}
		for _, a := range agent.Alarms {
			w.Alarms[a.Kind] += a.Count
		}
		for kind, n := range r.alarms {
			if w.Alarms[kind] -= min(n, w.Alarms[kind]); w.Alarms[kind] == 0 {
				delete(w.Alarms, kind)
			}
		}
		// A hole is one until the device has explained it.
		missing := w.Alarms["hole"] > 0
		for _, kind := range f.Must {
			missing = missing || w.Alarms[kind] == 0
		}
		if !missing || time.Now().After(limit) {
			break
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	for kind, n := range w.Alarms {
		r.alarms[kind] += n
	}
	return w.judge(f)
}

// judge returns what is wrong with the alarms.
func (w *row) judge(f faults.Fault) error {
	var errs []error
	for _, kind := range f.Must {
		if w.Alarms[kind] == 0 {
			errs = append(errs, fmt.Errorf("no alarm %q was raised", kind))
		}
	}
	for kind := range w.Alarms {
		if !slices.Contains(f.Must, kind) && !slices.Contains(f.May, kind) {
			errs = append(errs, fmt.Errorf("an alarm %q was raised that nothing called for", kind))
		}
	}
	return errors.Join(errs...)
}

// unasked returns an error for programs that ended by themselves although the
// fault is no reason to.
func (r *round) unasked(f faults.Fault) error {
	var errs []error
	for _, p := range r.processes() {
		more := p.Ends() - r.ends[p.Name()]
		r.ends[p.Name()] = p.Ends()
		may := slices.ContainsFunc(f.Ends, func(name string) bool {
			return strings.HasPrefix(p.Name(), name) || name == "broker" && p == r.stack.Broker.Process
		})
		if more > 0 && !may {
			errs = append(errs, fmt.Errorf("%s ended by itself: see %s", p.Name(), p.Log()))
		}
	}
	return errors.Join(errs...)
}

func (r *round) processes() []*process.Process {
	all := r.stack.Processes()
	if db := r.stack.Postgres; db != nil {
		all = append(all, db.Primary.Process, db.Standby.Process)
	}
	return all
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
