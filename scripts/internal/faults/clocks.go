package faults

import (
	"context"
	"errors"
	"os"
	"time"
)

func clocks() []Fault {
	needs := []Need{SteeredClock}
	return []Fault{
		{Name: "clock-forward", About: "the device's clock jumps two hours ahead, and back", Needs: needs, Does: clockForward},
		{Name: "clock-back", About: "the device's clock jumps two hours back, and ahead again", Needs: needs, Does: clockBack},
		{Name: "clock-1970", About: "the device boots in 1970, and learns the time later", Needs: needs, Does: clock1970},
	}
}

func clockForward(ctx context.Context, t *Target) (string, error) {
	return t.steer(ctx, `{"step": "2h"}`)
}

func clockBack(ctx context.Context, t *Target) (string, error) {
	return t.steer(ctx, `{"step": "-2h"}`)
}

func (t *Target) steer(ctx context.Context, orders string) (string, error) {
	if err := t.order(orders); err != nil {
		return "", err
	}
	long := t.some(2*time.Second, 3*time.Second)
	err := pause(ctx, long)
	return "for " + long.String(), errors.Join(err, t.order("{}"))
}

func clock1970(ctx context.Context, t *Target) (string, error) {
	err := t.between(ctx, func() error {
		return t.order(`{"wall": "1970-01-01T00:00:09Z", "synchronised": false}`)
	})
	if err != nil {
		return "", err
	}
	long := t.some(2*time.Second, 3*time.Second)
	err = pause(ctx, long)
	return "for " + long.String() + " after the boot", errors.Join(err, t.order("{}"))
}

// order writes what the agent's clock reads, whole at any moment.
func (t *Target) order(text string) error {
	next := t.Clock + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(next, t.Clock)
}
