package main

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/disorder"
	"github.com/holdfast-edge/holdfast/scripts/internal/link"
)

// networkCut lasts more than two minutes over NATS in any case: after them NATS'
// own client gives up for good, and what is built on it must not.
func networkCut(ctx context.Context, c *course) (string, error) {
	return c.disconnected(ctx, link.Condition{Down: true}, c.either(125*time.Second, 5*time.Minute))
}

func networkSilent(ctx context.Context, c *course) (string, error) {
	return c.disconnected(ctx, link.Condition{Silent: true}, c.either(10*time.Second, 60*time.Second))
}

func (c *course) disconnected(ctx context.Context, how link.Condition, long time.Duration) (string, error) {
	if err := c.stack.Edge.Link.Set(how); err != nil {
		return "", err
	}
	if err := pause(ctx, long); err != nil {
		return "", err
	}
	waiting, err := c.waiting(ctx)
	if err != nil {
		return "", err
	}
	if float64(waiting) < c.rate*long.Seconds()/2 {
		return "", fmt.Errorf("only %d records wait on the device after %v without a network", waiting, long)
	}
	return fmt.Sprintf("%d records waited after %v", waiting, long), c.stack.Edge.Link.Heal()
}

func framesDisordered(ctx context.Context, c *course) (string, error) {
	return c.unruly(ctx, disorder.Habits{Repeat: 0.4, Delay: 0.5, Unanswer: 0.2, Hold: 2 * time.Second},
		c.either(10*time.Second, 60*time.Second))
}

func answersStopped(ctx context.Context, c *course) (string, error) {
	// Longer than any component waits before it delivers again.
	return c.unruly(ctx, disorder.Habits{Unanswer: 1}, c.either(6*time.Second, 40*time.Second))
}

// unruly lets the proxy before the cloud misbehave for a while.
func (c *course) unruly(ctx context.Context, habits disorder.Habits, long time.Duration) (string, error) {
	door := c.stack.Cloud.Door
	before := door.Stats()
	door.Set(habits)
	err := pause(ctx, long)
	door.Set(disorder.Habits{})
	if err != nil {
		return "", err
	}
	now := door.Stats()
	repeated, delayed, unanswered := now.Repeated-before.Repeated, now.Delayed-before.Delayed, now.Unanswered-before.Unanswered
	if repeated+delayed+unanswered == 0 {
		return "", fmt.Errorf("no frame came by in %v", long)
	}
	return fmt.Sprintf("of %d deliveries %d repeated, %d delayed, %d without an answer",
		now.Delivered-before.Delivered, repeated, delayed, unanswered), nil
}
