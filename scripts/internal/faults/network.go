package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/link"
)

func network() []Fault {
	return []Fault{
		{Name: "uplink-cut", About: "the edge's network refuses and resets connections", Does: uplinkCut},
		{Name: "uplink-half-open", About: "the edge's network carries nothing and says nothing", Does: uplinkHalfOpen},
		{Name: "uplink-slow", About: "the edge's network carries 4 KiB/s, 300 ms late", Does: uplinkSlow},
		{Name: "uplink-lossy", About: "the edge's connections are reset at random, with what was on them", Does: uplinkLossy},
		{Name: "uplink-flapping", About: "the edge's network comes and goes every second", Does: uplinkFlapping},
	}
}

func uplinkCut(ctx context.Context, t *Target) (string, error) {
	return t.disconnected(ctx, link.Condition{Down: true}, t.some(3*time.Second, 5*time.Second))
}

func uplinkHalfOpen(ctx context.Context, t *Target) (string, error) {
	return t.disconnected(ctx, link.Condition{Silent: true}, t.some(4*time.Second, 7*time.Second))
}

func (t *Target) disconnected(ctx context.Context, how link.Condition, long time.Duration) (string, error) {
	if err := t.Stack.Edge.Link.Set(how); err != nil {
		return "", err
	}
	if err := pause(ctx, long); err != nil {
		return "", err
	}
	waiting, err := t.waiting(ctx)
	if err == nil && float64(waiting) < t.Rate*long.Seconds()/4 {
		err = fmt.Errorf("only %d records wait on the device after %v without a network", waiting, long)
	}
	return fmt.Sprintf("%d records waited after %v", waiting, long), errors.Join(err, t.Stack.Edge.Link.Heal())
}

func uplinkSlow(ctx context.Context, t *Target) (string, error) {
	l, long := t.Stack.Edge.Link, t.some(4*time.Second, 6*time.Second)
	before := l.Stats()
	if err := l.Set(link.Condition{BytesPerSecond: 4 << 10, Latency: 300 * time.Millisecond}); err != nil {
		return "", err
	}
	if err := pause(ctx, long); err != nil {
		return "", err
	}
	waiting, err := t.waiting(ctx)
	return fmt.Sprintf("%d bytes went up in %v, %d records waited", l.Stats().Up-before.Up, long, waiting), errors.Join(err, l.Heal())
}

// uplinkLossy lasts until connections were reset.
func uplinkLossy(ctx context.Context, t *Target) (string, error) {
	const enough = 3
	l := t.Stack.Edge.Link
	before := l.Stats().Connections
	if err := l.Set(link.Condition{Resets: 0.1, Latency: 50 * time.Millisecond}); err != nil {
		return "", err
	}
	if err := pause(ctx, t.some(4*time.Second, 6*time.Second)); err != nil {
		return "", err
	}
	resets := int64(0)
	err := until(ctx, "connections that are reset", func() (bool, error) {
		resets = l.Stats().Connections - before
		return resets >= enough, nil
	})
	return fmt.Sprintf("%d new connections", resets), errors.Join(err, l.Heal())
}

func uplinkFlapping(ctx context.Context, t *Target) (string, error) {
	l, long := t.Stack.Edge.Link, t.some(5*time.Second, 7*time.Second)
	before := l.Stats().Connections
	flapping, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	err := l.Flap(flapping, time.Second)
	return fmt.Sprintf("%d connections in %v", l.Stats().Connections-before, long), errors.Join(err, ctx.Err())
}
