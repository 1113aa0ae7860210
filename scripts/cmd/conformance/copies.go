package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/copies"
	"github.com/holdfast-edge/holdfast/scripts/internal/device"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

// cardRolledBack copies the folder of an agent that stands still, as a snapshot
// of the card would, and puts it back later.
func cardRolledBack(ctx context.Context, c *course) (string, error) {
	agent, data := c.stack.Edge.Agent, c.stack.Edge.Data
	return c.rollBack(ctx, func(to string) error {
		if err := agent.Freeze(); err != nil {
			return err
		}
		return errors.Join(copies.Folder(to, data), agent.Thaw())
	})
}

// imagePutBack copies the folder between two lives of the agent, as an image of
// a card is made of a device that is off.
func imagePutBack(ctx context.Context, c *course) (string, error) {
	return c.rollBack(ctx, func(to string) error {
		return c.between(ctx, func() error { return copies.Folder(to, c.stack.Edge.Data) })
	})
}

// rollBack copies the agent's folder, lets it store more, and puts the copy
// back. What was acknowledged in between lived on that card alone until it was
// in the cloud; so it is put back only when all of it is, while the sensors are
// cut off and the next message is not taken yet.
func (c *course) rollBack(ctx context.Context, snapshot func(to string) error) (string, error) {
	s := c.stack
	older := filepath.Join(s.Dir(), "edge", "older")
	if err := snapshot(older); err != nil {
		return "", err
	}
	before, err := c.held(ctx)
	if err == nil {
		err = pause(ctx, 3*time.Second)
	}
	if err != nil {
		return "", err
	}
	if err := c.intake.Cut(); err != nil {
		return "", err
	}
	if err := s.Settle(ctx, 0, catchUpLimit); err != nil {
		return "", err
	}
	after, err := c.held(ctx)
	if err != nil {
		return "", err
	}
	err = c.between(ctx, func() error { return replaceFolder(s.Edge.Data, older) })
	return fmt.Sprintf("%d records newer than the card", after-before), errors.Join(err, c.intake.Heal())
}

// between kills the agent, does something, and starts it.
func (c *course) between(ctx context.Context, do func() error) error {
	agent := c.stack.Edge.Agent
	if err := agent.Kill(); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := agent.Start(); err != nil {
		return err
	}
	return c.stack.AgentReady(ctx)
}

// agentCloned runs both for a while, each with sensors of its own, until both
// have sent everything; then the clone is gone for good.
func agentCloned(ctx context.Context, c *course) (string, error) {
	s := c.stack
	folder := filepath.Join(s.Dir(), "edge", "clone")
	if err := c.between(ctx, func() error { return copies.Folder(folder, s.Edge.Data) }); err != nil {
		return "", err
	}
	clone, err := s.Clone(ctx, "clone", folder)
	if err != nil {
		return "", err
	}
	load := c.publish(ctx, "clone", clone.MQTT, c.rate/2)
	if err := pause(ctx, c.either(6*time.Second, 30*time.Second)); err != nil {
		return "", err
	}
	if err := load.end(); err != nil {
		return "", err
	}
	if err := emptied(ctx, clone); err != nil {
		return "", err
	}
	stored := load.log.Totals().Acknowledged
	return fmt.Sprintf("%d messages to the clone", stored), errors.Join(clone.Agent.Kill(), clone.Sidecar.Kill())
}

// emptied waits until a device has nothing left to send.
func emptied(ctx context.Context, e *stack.Edge) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpLimit)
	defer cancel()
	for {
		status, err := device.Get(ctx, e.Status)
		if err == nil && status.Waiting == 0 {
			return nil
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("%d records wait on the clone after %v: %w", status.Waiting, catchUpLimit, errors.Join(ctx.Err(), err))
		}
	}
}

// outboxDeleted is a card that dies with unsent messages on it.
func outboxDeleted(ctx context.Context, c *course) (string, error) {
	if err := c.stack.Edge.Link.Cut(); err != nil {
		return "", err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return "", err
	}
	waiting, err := c.waiting(ctx)
	if err != nil {
		return "", err
	}
	err = c.between(ctx, func() error { return os.RemoveAll(filepath.Join(c.stack.Edge.Data, "outbox")) })
	return fmt.Sprintf("%d records deleted", waiting), errors.Join(err, c.stack.Edge.Link.Heal())
}

// cloudRolledBack puts back what a backup of the database would: everything as
// it was a while ago. The keys are no part of it.
func cloudRolledBack(ctx context.Context, c *course) (string, error) {
	s := c.stack
	older := filepath.Join(s.Dir(), "cloud", "older")
	err := c.aside(ctx, func(database string) error { return copies.Database(older, database) })
	if err != nil {
		return "", err
	}
	if err := pause(ctx, 4*time.Second); err != nil {
		return "", err
	}
	before, err := c.held(ctx)
	if err != nil {
		return "", err
	}
	err = c.aside(ctx, func(database string) error {
		return errors.Join(copies.RemoveDatabase(database), copies.Database(filepath.Dir(database), filepath.Join(older, filepath.Base(database))))
	})
	if err != nil {
		return "", err
	}
	after, err := c.held(ctx)
	if err == nil && after >= before {
		err = fmt.Errorf("the cloud held %d records before and %d after: it did not go back", before, after)
	}
	return fmt.Sprintf("it held %d records fewer", before-after), err
}

// aside kills the cloud, does something to its database, and starts it.
func (c *course) aside(ctx context.Context, do func(database string) error) error {
	api := c.stack.Cloud.API
	if err := api.Kill(); err != nil {
		return err
	}
	if err := do(c.stack.Database()); err != nil {
		return err
	}
	if err := api.Start(); err != nil {
		return err
	}
	return c.stack.CloudReady(ctx)
}

func (c *course) held(ctx context.Context) (uint64, error) {
	agent, err := c.stack.Client().Agent(ctx, c.stack.Edge.ID)
	return agent.Held, err
}

// waiting is how many records on the device no receipt covers.
func (c *course) waiting(ctx context.Context) (uint64, error) {
	status, err := device.Get(ctx, c.stack.Edge.Status)
	return status.Waiting, err
}

// either returns what fits the form of the suite that is run.
func (c *course) either(short, long time.Duration) time.Duration {
	if c.long {
		return long
	}
	return short
}

func replaceFolder(folder, by string) error {
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	return os.Rename(by, folder)
}
