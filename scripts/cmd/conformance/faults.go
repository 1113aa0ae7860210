package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// fault is something that may happen.
type fault struct {
	name  string
	about string
	must  []string // kinds of alarm that the cloud must raise
	may   []string // kinds that it may; it must raise no others
	// control: acknowledged messages must be found missing, for the fault does
	// what nothing can make good. It is run only when it is asked for.
	control bool
	// does it all, and returns when it is over, with words that prove it.
	does func(ctx context.Context, c *course) (evidence string, err error)
}

// faults are all that the suite knows, in the order in which they are run.
func faults() []fault {
	return []fault{
		{name: "boot-without-broker", about: "agent and both sidecars start with no broker there", does: bootWithoutBroker},
		{name: "broker-killed", about: "SIGKILL, started again after a while", does: brokerKilled},
		{name: "broker-wiped", about: "killed with frames in it that nobody has fetched, and started again with nothing of what it held", does: brokerWiped},
		{name: "edge-sidecar-killed", about: "SIGKILL, started again after a while", does: edgeSidecarKilled},
		{name: "cloud-sidecar-killed", about: "SIGKILL, started again after a while", does: cloudSidecarKilled},
		{name: "agent-killed", about: "SIGKILL three times", does: agentKilled},
		{name: "cloud-killed", about: "SIGKILL three times, each after a commit and before its receipt", does: cloudKilled},
		{name: "card-rolled-back", about: "a copy of the agent's folder, made while it ran, is put back", must: []string{"went-back"}, does: cardRolledBack},
		{name: "image-put-back", about: "the same, but copied while the agent was off", must: []string{"went-back"}, does: imagePutBack},
		{name: "agent-cloned", about: "a copy of the agent's folder runs as a second agent", must: []string{"clone"}, may: []string{"went-back"}, does: agentCloned},
		{name: "cloud-rolled-back", about: "an older copy of the cloud's database is put back", must: []string{"restored"}, does: cloudRolledBack},
		{name: "frames-disordered", about: "frames repeated, delayed, overtaken; answers to them lost", does: framesDisordered},
		{name: "answers-stopped", about: "the cloud takes frames and answers none of them", does: answersStopped},
		{name: "network-cut", about: "the edge's network refuses and resets", does: networkCut},
		{name: "network-silent", about: "the edge's network carries nothing and says nothing", does: networkSilent},
		{name: "outbox-deleted", about: "control: what waits on the device is deleted, and must be found missing", control: true, does: outboxDeleted},
	}
}

// deleteOnPublish is broker-wiped for an agent that takes the broker's word for
// the cloud's.
func deleteOnPublish() fault {
	return fault{
		name: "delete-on-publish", about: "control: broker-wiped with an agent that deletes what it published, and must be found out",
		control: true, does: brokerWipedBelieved,
	}
}

func bootWithoutBroker(ctx context.Context, c *course) (string, error) {
	s := c.stack
	programs := []*process.Process{s.Edge.Sidecar, s.Cloud.Sidecar, s.Edge.Agent}
	for _, p := range programs {
		if err := p.Kill(); err != nil {
			return "", err
		}
	}
	if err := s.Broker.Wipe(); err != nil {
		return "", err
	}
	for _, p := range programs {
		if err := p.Start(); err != nil {
			return "", err
		}
	}
	if err := s.AgentReady(ctx); err != nil {
		return "", err
	}
	away := c.either(8*time.Second, 40*time.Second)
	if err := pause(ctx, away); err != nil {
		return "", err
	}
	waiting, err := c.waiting(ctx)
	if err != nil {
		return "", err
	}
	if err := s.Broker.Start(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d records waited after %v", waiting, away), s.BrokerReady(ctx)
}

func brokerKilled(ctx context.Context, c *course) (string, error) {
	away := c.either(5*time.Second, 35*time.Second)
	return fmt.Sprintf("away for %v", away), restart(ctx, c.stack.Broker.Process, away, c.stack.BrokerReady)
}

func brokerWiped(ctx context.Context, c *course) (string, error) {
	return c.wipeUnread(ctx, func(stored, waiting uint64) bool { return waiting >= uint64(c.rate) })
}

// brokerWipedBelieved is sure that the agent has deleted messages whose frames
// are in the broker alone.
func brokerWipedBelieved(ctx context.Context, c *course) (string, error) {
	return c.wipeUnread(ctx, func(stored, waiting uint64) bool { return stored >= uint64(c.rate)+waiting })
}

// wipeUnread stops the cloud's sidecar, so that frames stay in the broker, and
// wipes that when there are enough: judged by the messages that the agent
// acknowledged since and the records that wait on it.
func (c *course) wipeUnread(ctx context.Context, enough func(stored, waiting uint64) bool) (string, error) {
	s := c.stack
	if err := s.Cloud.Sidecar.Kill(); err != nil {
		return "", err
	}
	log := c.fleets[len(c.fleets)-1].log
	stored, waiting := uint64(0), uint64(0)
	limit := time.Now().Add(catchUpLimit)
	for before := log.Totals().Acknowledged; !enough(stored, waiting); {
		if time.Now().After(limit) {
			return "", fmt.Errorf("%d messages stored and %d records waiting %v after the cloud's sidecar ended", stored, waiting, catchUpLimit)
		}
		err := pause(ctx, 50*time.Millisecond)
		if err != nil {
			return "", err
		}
		if waiting, err = c.waiting(ctx); err != nil {
			return "", err
		}
		stored = log.Totals().Acknowledged - before
	}
	if err := s.Broker.Wipe(); err != nil {
		return "", err
	}
	err := restart(ctx, s.Broker.Process, time.Second, s.BrokerReady)
	return fmt.Sprintf("its data deleted, %d messages after the last delivery", stored), errors.Join(err, s.Cloud.Sidecar.Start())
}

func edgeSidecarKilled(ctx context.Context, c *course) (string, error) {
	away := c.either(3*time.Second, 20*time.Second)
	return fmt.Sprintf("away for %v", away), restart(ctx, c.stack.Edge.Sidecar, away, nil)
}

func cloudSidecarKilled(ctx context.Context, c *course) (string, error) {
	away := c.either(3*time.Second, 20*time.Second)
	return fmt.Sprintf("away for %v", away), restart(ctx, c.stack.Cloud.Sidecar, away, nil)
}

func agentKilled(ctx context.Context, c *course) (string, error) {
	for range 3 {
		if err := restart(ctx, c.stack.Edge.Agent, 200*time.Millisecond, c.stack.AgentReady); err != nil {
			return "", err
		}
		if err := pause(ctx, time.Second); err != nil {
			return "", err
		}
	}
	return "3 kills", nil
}

// cloudKilled holds the receipts back, so that the next commit is surely one
// without a receipt, and kills the cloud as soon as that commit shows.
func cloudKilled(ctx context.Context, c *course) (string, error) {
	const kills = 3
	for range kills {
		if err := c.killAfterCommit(ctx); err != nil {
			return "", err
		}
		if err := c.stack.Cloud.API.Start(); err != nil {
			return "", err
		}
		if err := c.stack.CloudReady(ctx); err != nil {
			return "", err
		}
		if err := pause(ctx, time.Second); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d kills, each with commits that no receipt told of", kills), nil
}

func (c *course) killAfterCommit(ctx context.Context) error {
	s := c.stack
	if err := s.Cloud.Receipts.Cut(); err != nil {
		return err
	}
	before, err := c.held(ctx)
	for held := before; err == nil && held == before; {
		// The API answers no more than 50 calls a second in the long run.
		if err = pause(ctx, 50*time.Millisecond); err == nil {
			held, err = c.held(ctx)
		}
	}
	err = errors.Join(err, s.Cloud.API.Kill())
	if err != nil {
		return err
	}
	waiting, err := c.waiting(ctx)
	if err == nil && waiting == 0 {
		err = errors.New("the device had a receipt for everything: the kill would prove nothing")
	}
	return errors.Join(err, s.Cloud.Receipts.Heal())
}

// restart kills p, leaves it away for a while, starts it and waits until it is
// ready; nil: that is not waited for.
func restart(ctx context.Context, p *process.Process, away time.Duration, ready func(context.Context) error) error {
	if err := p.Kill(); err != nil {
		return err
	}
	if err := pause(ctx, away); err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	if ready == nil {
		return nil
	}
	return ready(ctx)
}
