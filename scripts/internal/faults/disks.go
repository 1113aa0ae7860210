package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/device"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
)

func disks() []Fault {
	return []Fault{
		{Name: "card-full", About: "no room on the device's disk, and no network; sensors are kept waiting", Needs: []Need{PowerCuts}, Does: cardFull},
		{Name: "outbox-full", About: "the outbox at its limit, and no network; sensors are kept waiting", Does: outboxFull},
		{Name: "outbox-overflows", About: "a second device gives up its oldest readings, and the ledger names each", Does: outboxOverflows},
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

// overflow is how long a device goes on dropping: it gives up more than it holds.
const overflow = 4 * time.Second

// outboxOverflows runs a device that is told to drop the oldest, until it did so
// again and again. What it dropped is lost, on purpose: the ledger must say so of
// every number, and of none that is there; nor is it an alarm.
func outboxOverflows(ctx context.Context, t *Target) (words string, err error) {
	s := t.Stack
	id := fmt.Sprintf("overflow-%d", time.Now().UnixNano())
	e, err := s.Device(ctx, id, id, filepath.Join(s.Dir(), "edge", id), "outbox: {max_bytes: 16MiB, keep_bytes: 0, reserve_bytes: 4MiB, full: drop-oldest}\n")
	if err != nil {
		return "", err
	}
	if err := e.Link.Cut(); err != nil {
		return "", err
	}
	end, count := t.Apart(ctx, "overflow", e.MQTT, Load{Rate: 300, Size: 48 << 10})
	err = until(ctx, "an outbox that drops its oldest", func() (bool, error) {
		status, err := device.Get(ctx, e.Status)
		return status.Lost != "nothing" && status.Lost != "", err
	})
	if err == nil {
		err = pause(ctx, overflow)
	}
	if err := errors.Join(err, end(), e.Link.Heal()); err != nil {
		return "", err
	}
	if err := emptied(ctx, e); err != nil {
		return "", err
	}
	var found oracle.Findings
	var ledger cloud.Agent
	err = until(ctx, "a ledger that explains every number", func() (_ bool, err error) {
		if ledger, err = s.Client().Agent(ctx, id); err != nil {
			return false, err
		}
		return ledger.OnDevice == 0 && ledger.Unexplained == 0 && ledger.Lost > 0, nil
	})
	if err == nil {
		found, err = count(ctx, id)
	}
	if err != nil {
		return "", err
	}
	return named(found, ledger), errors.Join(judgeLoss(found, ledger), e.Agent.Kill(), e.Sidecar.Kill(), os.RemoveAll(e.Data))
}

func named(f oracle.Findings, a cloud.Agent) string {
	return fmt.Sprintf("%d of %d messages given up, %d numbers named in the ledger", f.Missing, f.Acknowledged, a.Lost)
}

// own returns how many of a device's own records may have been in what it
// dropped: anchors, and in each segment some losses that are told again. A segment
// holds some eighty messages of this size.
func own(messages uint64) uint64 { return 32 + messages/10 }

func judgeLoss(f oracle.Findings, a cloud.Agent) error {
	switch {
	case f.Missing == 0:
		return errors.New("nothing was lost: the outbox did not overflow")
	case f.Missing > a.Lost:
		return fmt.Errorf("%d messages are missing, and the ledger names %d only", f.Missing, a.Lost)
	case a.Lost > f.Missing+f.Redelivered+own(f.Missing):
		return fmt.Errorf("%d messages are missing, and the ledger calls %d lost", f.Missing, a.Lost)
	case f.Duplicates+f.Altered > 0:
		return fmt.Errorf("%d readings doubled, %d altered", f.Duplicates, f.Altered)
	case len(a.Alarms) > 0:
		return fmt.Errorf("what a device gave up on purpose raised %+v", a.Alarms)
	}
	return nil
}
