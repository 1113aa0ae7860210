package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/device"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// catchUpBase is how long the device may take to send what it kept; the length
// of the outage is added.
const catchUpBase = 60 * time.Second

// scenario runs the sensors and, beside them, the faults. It returns when all
// that was published is acknowledged and the faults are over.
func (d *demo) scenario(ctx context.Context) error {
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	published := make(chan error, 1)
	go func() { published <- d.fleet.Run(during, nil) }()
	go d.showProgress(during)
	if err := d.faults(ctx, time.Now()); err != nil {
		return err
	}
	limit := time.After(d.length + catchUpBase)
	select {
	case err := <-published:
		d.screen.Event("the sensors have published everything, and every message is acknowledged")
		return err
	case <-limit:
		// The verdict says how many are without an answer.
		d.screen.Event("some messages were never acknowledged")
		return nil
	}
}

// faults cuts, kills, restarts and heals at their moments.
func (d *demo) faults(ctx context.Context, start time.Time) error {
	if d.outage > 0 {
		if err := sleepUntil(ctx, start.Add(d.cutAt())); err != nil {
			return err
		}
		if err := d.stack.Edge.Link.Cut(); err != nil {
			return err
		}
		d.screen.Event("network cut between the edge's sidecar and NATS")
	}
	if err := sleepUntil(ctx, start.Add(d.killAt())); err != nil {
		return err
	}
	if err := d.killAgent(ctx); err != nil {
		return err
	}
	if err := sleepUntil(ctx, start.Add(d.healAt())); err != nil {
		return err
	}
	if d.outage > 0 {
		if err := d.stack.Edge.Link.Heal(); err != nil {
			return err
		}
		d.screen.Event("network healed; %s records wait on the device", term.Count(d.waiting(ctx)))
	}
	go d.watchCatchUp(ctx)
	return nil
}

func (d *demo) killAgent(ctx context.Context) error {
	waiting := d.waiting(ctx)
	if d.outage > 0 && waiting == 0 {
		return errors.New("the agent has nothing unsent half-way through the outage: the kill would prove nothing")
	}
	agent := d.stack.Edge.Agent
	if err := agent.Kill(); err != nil {
		return err
	}
	d.screen.Event("agent killed with SIGKILL, %s unsent records on its disk", term.Count(waiting))
	begin := time.Now()
	if err := agent.Start(); err != nil {
		return err
	}
	if err := d.stack.AgentReady(ctx); err != nil {
		return err
	}
	d.screen.Event("agent started again: ready after %d ms", time.Since(begin).Milliseconds())
	return nil
}

// waiting asks the agent how many records no receipt covers; 0 when it does not
// answer.
func (d *demo) waiting(ctx context.Context) uint64 {
	status, err := device.Get(ctx, d.stack.Edge.Status)
	if err != nil {
		return 0
	}
	return status.Waiting
}

// judge waits until the device has nothing left to send, then reads everything
// back.
func (d *demo) judge(ctx context.Context) (oracle.Verdict, error) {
	v := oracle.Verdict{Expected: d.fleet.Expected(), CaughtUpMS: -1}
	if err := d.stack.Settle(ctx, 0, catchUpBase+d.outage); err != nil {
		d.screen.Event("%v", err) // what that means, the counting tells
	}
	if took := <-d.caughtUp; took >= 0 {
		v.CaughtUp(took)
	}
	if err := ctx.Err(); err != nil {
		return v, err
	}
	check := d.oracle.Check()
	if err := d.stack.Client().Readings(ctx, d.stack.Edge.ID, check.Add); err != nil {
		return v, err
	}
	agent, err := d.stack.Client().Agent(ctx, d.stack.Edge.ID)
	if err != nil {
		return v, err
	}
	v.Findings, v.Unexplained, v.Lost = check.Findings(), agent.Unexplained, agent.Lost
	for _, alarm := range agent.Alarms {
		v.Examples = append(v.Examples, fmt.Sprintf("alarm %s, %d times: %s %s", alarm.Kind, alarm.Count, alarm.Epoch, alarm.Detail))
	}
	v.Judge()
	return v, nil
}

// watchCatchUp delivers how long after healing the device had sent what it kept:
// less than a second's worth of messages is under way, while new ones go on
// coming in. It delivers -1 when that never was.
func (d *demo) watchCatchUp(ctx context.Context) {
	healed := time.Now()
	if err := d.stack.Settle(ctx, uint64(d.rate), catchUpBase+d.outage); err != nil {
		d.caughtUp <- -1
		return
	}
	took := time.Since(healed)
	d.screen.Event("caught up: what the device had kept is in the cloud, %d ms after healing", took.Milliseconds())
	d.caughtUp <- took
}

// showProgress draws the status line, or prints one now and then where that
// cannot be drawn over.
func (d *demo) showProgress(ctx context.Context) {
	for i := 1; sleepUntil(ctx, time.Now().Add(time.Second)) == nil; i++ {
		sent := d.oracle.Totals()
		agent, err := d.stack.Client().Agent(ctx, d.stack.Edge.ID)
		if err != nil {
			continue // not enrolled yet, or it ends
		}
		line := fmt.Sprintf("published %s, acknowledged %s, records in the cloud %s, on the device %s",
			term.Count(sent.Published), term.Count(sent.Acknowledged), term.Count(agent.Held), term.Count(d.waiting(ctx)))
		if d.screen.TTY() {
			d.screen.Status("          %s", line)
		} else if i%5 == 0 {
			d.screen.Event("%s", line)
		}
	}
}

func sleepUntil(ctx context.Context, t time.Time) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(t)):
		return nil
	}
}
