package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/disorder"
	"github.com/holdfast-edge/holdfast/scripts/internal/link"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// Suite are the faults that are played over every broker, in this order: such of
// the drill's as a broker can make a difference to, and some that take longer
// than a drill has time for. The last one is a control.
func Suite() []Fault {
	var all []Fault
	for _, name := range []string{
		"boot-without-broker", "broker-killed", "broker-wiped", "edge-sidecar-killed", "cloud-sidecar-killed", "agent-killed", "cloud-killed",
		"card-rolled-back", "image-put-back", "card-cloned", "database-restored", "frames-disordered", "answers-stopped",
		"uplink-away", "uplink-half-open", "outbox-deleted",
	} {
		f, ok := Find(name)
		if !ok {
			panic("BUG: the suite has no fault " + name)
		}
		all = append(all, f)
	}
	return all
}

// thorough are the faults that a drill does not have.
func thorough() []Fault {
	return []Fault{
		{Name: "boot-without-broker", About: "agent and sidecars start with no broker there", Does: bootWithoutBroker},
		{Name: "frames-disordered", About: "frames repeated, delayed, overtaken; answers to them lost", Does: framesDisordered},
		{Name: "answers-stopped", About: "the cloud takes frames and answers none of them", Does: answersStopped},
		{Name: "uplink-away", About: "the edge's network refuses and resets for more than two minutes", Does: uplinkAway},
		{Name: "outbox-deleted", About: "control: what waits on the device is deleted, and must be found missing", Control: true, Does: outboxDeleted},
		{Name: "delete-on-publish", About: "control: broker-wiped with an agent that deletes what it published, and must be found out", Control: true, Does: brokerWipedBelieved},
	}
}

func bootWithoutBroker(ctx context.Context, t *Target) (string, error) {
	s := t.Stack
	programs := append(t.sidecars(), s.Edge.Sidecar, s.Edge.Agent)
	if err := errors.Join(each(programs, (*process.Process).Kill), s.Broker.Wipe(), each(programs, (*process.Process).Start)); err != nil {
		return "", err
	}
	if err := s.AgentReady(ctx); err != nil {
		return "", err
	}
	away := t.some(4*time.Second, 5*time.Second)
	if err := pause(ctx, away); err != nil {
		return "", err
	}
	waiting, err := t.waiting(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d records waited after %v", waiting, away), errors.Join(s.Broker.Start(), s.BrokerReady(ctx))
}

func framesDisordered(ctx context.Context, t *Target) (string, error) {
	return t.unruly(ctx, disorder.Habits{Repeat: 0.4, Delay: 0.5, Unanswer: 0.2, Hold: 2 * time.Second})
}

// answersStopped lasts, in the suite, longer than any component waits before it
// delivers again.
func answersStopped(ctx context.Context, t *Target) (string, error) {
	return t.unruly(ctx, disorder.Habits{Unanswer: 1})
}

// uplinkAway lasts more than two minutes, stretched or not: after them NATS' own
// client gives up for good, and what is built on it must not.
func uplinkAway(ctx context.Context, t *Target) (string, error) {
	return t.disconnected(ctx, link.Condition{Down: true}, 2*time.Minute+t.some(3*time.Second, 18*time.Second))
}

// outboxDeleted is a card that dies with unsent messages on it.
func outboxDeleted(ctx context.Context, t *Target) (string, error) {
	edge := t.Stack.Edge
	if err := edge.Link.Cut(); err != nil {
		return "", err
	}
	if err := pause(ctx, t.some(time.Second, 2*time.Second)); err != nil {
		return "", err
	}
	waiting, err := t.waiting(ctx)
	if err != nil {
		return "", err
	}
	err = t.between(ctx, func() error { return os.RemoveAll(filepath.Join(edge.Data, "outbox")) })
	return fmt.Sprintf("%d records deleted", waiting), errors.Join(err, edge.Link.Heal())
}

// brokerWipedBelieved is broker-wiped for an agent that takes the broker's word
// for the cloud's: it is sure that the agent has deleted messages whose frames are
// in the broker alone.
func brokerWipedBelieved(ctx context.Context, t *Target) (string, error) {
	return t.wipeUnread(ctx, func(stored, waiting uint64) bool { return stored >= uint64(t.Rate)+waiting })
}
