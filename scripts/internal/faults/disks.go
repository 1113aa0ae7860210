package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/device"
)

func disks() []Fault {
	return []Fault{
		{Name: "card-full", About: "no room on the device's disk, and no network; sensors are kept waiting", Needs: []Need{PowerCuts}, Does: cardFull},
		{Name: "outbox-full", About: "the outbox at its limit, and no network; sensors are kept waiting", Does: outboxFull},
	}
}

func cardFull(ctx context.Context, t *Target) (string, error) {
	if err := t.Card.Fill(0); err != nil {
		return "", err
	}
	words, err := t.full(ctx)
	return words, errors.Join(err, t.Card.Free())
}

func outboxFull(ctx context.Context, t *Target) (string, error) { return t.full(ctx) }

// full cuts the network and sends large messages until the device takes no more.
func (t *Target) full(ctx context.Context) (string, error) {
	e := t.Stack.Edge
	if err := e.Link.Cut(); err != nil {
		return "", err
	}
	begin := time.Now()
	end := t.Publish(ctx, "large", t.Intake.Addr(), Load{Rate: 300, Size: 48 << 10})
	waiting := uint64(0)
	err := until(ctx, "a full outbox", func() (bool, error) {
		status, err := device.Get(ctx, e.Status)
		waiting = status.Waiting
		return status.Full, err
	})
	if err != nil {
		return "", err
	}
	words := fmt.Sprintf("full after %.1f s, with %d records", time.Since(begin).Seconds(), waiting)
	if err := pause(ctx, t.some(time.Second, 2*time.Second)); err != nil {
		return "", err
	}
	if t.Card != nil {
		if err := t.Card.Free(); err != nil {
			return "", err
		}
	}
	return words, errors.Join(e.Link.Heal(), end())
}
