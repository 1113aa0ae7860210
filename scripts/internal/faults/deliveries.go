package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/disorder"
)

func deliveries() []Fault {
	return []Fault{
		{Name: "frames-repeated", About: "half of the frames are delivered twice, up to two seconds apart", Does: framesRepeated},
		{Name: "frames-reordered", About: "frames are held back and overtaken", Does: framesReordered},
		{Name: "answers-lost", About: "the cloud takes frames, and the sidecar hears nothing of it", Does: answersLost},
		{Name: "receipts-lost", About: "the cloud cannot hand its receipts over", Does: receiptsLost},
	}
}

func framesRepeated(ctx context.Context, t *Target) (string, error) {
	return t.unruly(ctx, disorder.Habits{Repeat: 0.5, Hold: 2 * time.Second})
}

func framesReordered(ctx context.Context, t *Target) (string, error) {
	return t.unruly(ctx, disorder.Habits{Delay: 0.6, Hold: 2 * time.Second})
}

func answersLost(ctx context.Context, t *Target) (string, error) {
	return t.unruly(ctx, disorder.Habits{Unanswer: 0.7})
}

// unruly lets the proxies before the cloud misbehave until it shows.
func (t *Target) unruly(ctx context.Context, habits disorder.Habits) (string, error) {
	const enough = 3
	before := t.disorders()
	t.habits(habits)
	defer t.habits(disorder.Habits{})
	if err := pause(ctx, t.some(3*time.Second, 5*time.Second)); err != nil {
		return "", err
	}
	var now disorder.Stats
	err := until(ctx, "frames to disorder", func() (bool, error) {
		now = t.disorders()
		return now.Repeated+now.Delayed+now.Unanswered >= before.Repeated+before.Delayed+before.Unanswered+enough, nil
	})
	return fmt.Sprintf("of %d deliveries %d repeated, %d delayed, %d without an answer", now.Delivered-before.Delivered,
		now.Repeated-before.Repeated, now.Delayed-before.Delayed, now.Unanswered-before.Unanswered), err
}

func (t *Target) habits(h disorder.Habits) {
	for _, r := range t.Stack.Cloud.Replicas() {
		r.Door.Set(h)
	}
}

func (t *Target) disorders() (sum disorder.Stats) {
	for _, r := range t.Stack.Cloud.Replicas() {
		s := r.Door.Stats()
		sum.Delivered += s.Delivered
		sum.Repeated += s.Repeated
		sum.Delayed += s.Delayed
		sum.Unanswered += s.Unanswered
		sum.Refused += s.Refused
	}
	return sum
}

func receiptsLost(ctx context.Context, t *Target) (string, error) {
	if err := t.receipts(false); err != nil {
		return "", err
	}
	long := t.some(3*time.Second, 5*time.Second)
	if err := pause(ctx, long); err != nil {
		return "", err
	}
	waiting, err := t.waiting(ctx)
	return fmt.Sprintf("%d records without a receipt after %v", waiting, long), errors.Join(err, t.receipts(true))
}
