package main

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
	"github.com/holdfast-edge/holdfast/scripts/internal/histogram"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
)

// count waits until the device has sent everything, and compares what the cloud
// has with what sensors published. What is still missing then is given a little
// more time: a cloud that asks for records again says so beforehand.
func (r *round) count(ctx context.Context, res *roundResult) error {
	limit := time.Now().Add(faults.CatchUp)
	if r.control != "" {
		limit = time.Now().Add(10 * time.Second) // what is gone will not come
	}
	for {
		wrong := r.stack.Settle(ctx, 0, max(time.Until(limit), time.Second))
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := r.compare(ctx, res); err != nil {
			return err
		}
		if wrong == nil && res.Missing == 0 && res.Unexplained == 0 {
			return nil
		}
		if time.Now().After(limit) {
			if wrong != nil {
				res.Broken = append(res.Broken, wrong.Error())
			}
			return nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// compare fills in what the cloud has now.
func (r *round) compare(ctx context.Context, res *roundResult) error {
	res.tally = tally{}
	lost, err := r.ledger(ctx, res)
	if err != nil {
		return err
	}
	checks := make([]*oracle.Check, len(r.fleets))
	for i, f := range r.fleets {
		checks[i] = f.log.Check()
	}
	var toDB histogram.Histogram
	err = r.stack.Client().Readings(ctx, r.stack.Edge.ID, func(reading cloud.Reading) error {
		for _, l := range lost[reading.Epoch] {
			if l.First <= reading.Seq && reading.Seq <= l.Last {
				res.FalseGaps++
				res.example("the ledger calls %s seq %d lost (%s), but it is there", reading.Epoch, reading.Seq, l.Reason)
			}
		}
		for _, check := range checks {
			_ = check.Add(reading) // it never fails
		}
		if late, online := r.online(reading); online {
			toDB.Add(late)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range res.Faults {
		res.Faults[i].Missing = 0
	}
	for i, check := range checks {
		res.add(check.Findings(), r.fleets[i])
		check.Missing(func(sensor int, number uint64) { r.blame(res, r.fleets[i].Due(sensor, number)) })
	}
	res.ToDatabase, res.ToPuback = quantilesOf(&toDB), quantilesOf(&r.calm.puback)
	res.Memory = r.memory.most()
	return res.measure(r.dir)
}

// online returns how late a reading came to the database, if nothing happened
// when it was due.
func (r *round) online(reading cloud.Reading) (time.Duration, bool) {
	main := r.fleets[0]
	payload, _ := reading.Bytes() // the comparison reports it
	sensor, number, ours, valid := main.Recognise(reading.Topic, payload)
	if !ours || !valid {
		return 0, false
	}
	due := main.Due(sensor, number)
	return reading.ReceivedAt.Sub(due), r.calm.within(due) // both clocks are this machine's
}

// blame counts a message that is missing at the fault during which it was due.
func (r *round) blame(res *roundResult, due time.Time) {
	at := -1
	for i := range res.Faults {
		f := &res.Faults[i]
		if due.Before(f.Begin) {
			break
		}
		at = i
	}
	if at >= 0 {
		res.Faults[at].Missing++
	}
}

// ledger fills in what the cloud says of each number, and returns what it calls
// lost, by epoch.
func (r *round) ledger(ctx context.Context, res *roundResult) (map[string][]cloud.Loss, error) {
	agent, err := r.stack.Client().Agent(ctx, r.stack.Edge.ID)
	if err != nil {
		return nil, err
	}
	epochs, err := r.stack.Client().Ledger(ctx, r.stack.Edge.ID)
	if err != nil {
		return nil, err
	}
	res.Unexplained, res.Lost, res.Epochs = agent.Unexplained, agent.Lost, len(epochs)
	lost := map[string][]cloud.Loss{}
	for _, e := range epochs {
		lost[e.Epoch] = e.Lost
		for _, l := range e.Lost {
			res.example("the ledger calls %s seq %d to %d lost: %s", e.Epoch, l.First, l.Last, l.Reason)
		}
		for _, u := range e.Unexplained {
			res.example("nobody says what became of %s seq %d to %d", e.Epoch, u.First, u.Last)
		}
	}
	for _, a := range agent.Alarms {
		if a.Kind == "hole" {
			res.example("alarm hole, %d times: %s %s", a.Count, a.Epoch, a.Detail)
		}
	}
	return lost, nil
}

func (t *tally) example(format string, args ...any) {
	if len(t.Examples) < 20 {
		t.Examples = append(t.Examples, fmt.Sprintf(format, args...))
	}
}
