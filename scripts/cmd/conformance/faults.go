package main

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// fault is something that may happen.
type fault struct {
	name   string
	about  string
	alarms []string // kinds that the cloud must raise; it must raise no others
	// does it all, and returns when it is over, with words that prove it.
	does func(ctx context.Context, c *course) (evidence string, err error)
}

// faults are all that the suite knows, in the order in which they are run.
func faults() []fault {
	return []fault{
		{name: "broker-killed", about: "SIGKILL, started again after a while", does: brokerKilled},
		{name: "broker-wiped", about: "killed, and started again with nothing of what it held", does: brokerWiped},
		{name: "agent-killed", about: "SIGKILL three times", does: agentKilled},
	}
}

func brokerKilled(ctx context.Context, c *course) (string, error) {
	away := c.either(5*time.Second, 35*time.Second)
	return fmt.Sprintf("away for %v", away), restart(ctx, c.stack.Broker.Process, away, c.stack.BrokerReady)
}

func brokerWiped(ctx context.Context, c *course) (string, error) {
	if err := c.stack.Broker.Wipe(); err != nil {
		return "", err
	}
	return "its data deleted", restart(ctx, c.stack.Broker.Process, time.Second, c.stack.BrokerReady)
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

// either returns what fits the form of the suite that is run.
func (c *course) either(short, long time.Duration) time.Duration {
	if c.long {
		return long
	}
	return short
}
