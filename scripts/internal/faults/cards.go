package faults

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/copies"
	"github.com/holdfast-edge/holdfast/scripts/internal/device"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

func cards() []Fault {
	return []Fault{
		{Name: "card-rolled-back", About: "a copy of the agent's folder, made while it ran, is put back", Must: []string{"went-back"}, Does: cardRolledBack},
		{Name: "image-put-back", About: "the same, but copied while the agent was off", Must: []string{"went-back"}, Does: imagePutBack},
		{Name: "card-cloned", About: "a copy of the agent's folder runs as a second agent for a while", Must: []string{"clone"}, May: []string{"went-back"}, Does: cardCloned},
		{Name: "power-cut", About: "the device's power is cut twice: what was not synced is gone or torn", Needs: []Need{PowerCuts}, Ends: []string{"edge-agent"}, Does: powerCut},
	}
}

// cardRolledBack copies the folder of an agent that stands still, as a snapshot
// of the card would, and puts it back later.
func cardRolledBack(ctx context.Context, t *Target) (string, error) {
	agent, data := t.Stack.Edge.Agent, t.Stack.Edge.Data
	return t.rollBack(ctx, func(to string) error {
		if err := agent.Freeze(); err != nil {
			return err
		}
		return errors.Join(copies.Folder(to, data), agent.Thaw())
	})
}

// imagePutBack copies the folder between two lives of the agent, as an image of
// a card is made of a device that is off.
func imagePutBack(ctx context.Context, t *Target) (string, error) {
	return t.rollBack(ctx, func(to string) error {
		return t.between(ctx, func() error { return copies.Folder(to, t.Stack.Edge.Data) })
	})
}

// rollBack copies the agent's folder, lets it store more, and puts the copy
// back. What was acknowledged in between lived on that card alone until it was
// in the cloud; so it is put back only when all of it is, while the sensors are
// cut off and the next message is not taken yet.
func (t *Target) rollBack(ctx context.Context, snapshot func(to string) error) (string, error) {
	s := t.Stack
	older := filepath.Join(s.Dir(), "edge", "older")
	if err := snapshot(older); err != nil {
		return "", err
	}
	before, err := t.held(ctx)
	if err == nil {
		err = pause(ctx, t.some(time.Second, 2*time.Second))
	}
	if err != nil {
		return "", err
	}
	if err := t.Intake.Cut(); err != nil {
		return "", err
	}
	if err := s.Settle(ctx, 0, CatchUp); err != nil {
		return "", err
	}
	after, err := t.held(ctx)
	if err != nil {
		return "", err
	}
	err = t.between(ctx, func() error { return replaceFolder(s.Edge.Data, older) })
	return fmt.Sprintf("%d records newer than the card", after-before), errors.Join(err, t.Intake.Heal())
}

// cardCloned runs both for a while, each with sensors of its own, until both
// have sent everything; then the clone is gone for good.
func cardCloned(ctx context.Context, t *Target) (string, error) {
	s := t.Stack
	folder := filepath.Join(s.Dir(), "edge", "clone")
	if err := t.between(ctx, func() error { return copies.Folder(folder, s.Edge.Data) }); err != nil {
		return "", err
	}
	clone, err := s.Clone(ctx, fmt.Sprintf("clone-%d", time.Now().UnixNano()), folder)
	if err != nil {
		return "", err
	}
	before := t.Acknowledged()
	end := t.Publish(ctx, "clone", clone.MQTT, Load{Rate: t.Rate / 2})
	long := t.some(4*time.Second, 6*time.Second)
	if err := pause(ctx, long); err != nil {
		return "", err
	}
	if err := end(); err != nil {
		return "", err
	}
	if err := emptied(ctx, clone); err != nil {
		return "", err
	}
	words := fmt.Sprintf("both for %v, %d messages to the two", long, t.Acknowledged()-before)
	return words, errors.Join(clone.Agent.Kill(), clone.Sidecar.Kill(), os.RemoveAll(folder))
}

// emptied waits until a device has nothing left to send.
func emptied(ctx context.Context, e *stack.Edge) error {
	return until(ctx, "the clone to have sent everything", func() (bool, error) {
		status, err := device.Get(ctx, e.Status)
		return status.Waiting == 0, err
	})
}

func powerCut(ctx context.Context, t *Target) (string, error) {
	const cuts = 2
	before := t.Acknowledged()
	for range cuts {
		t.Card.Cut()
		if err := t.between(ctx, t.Card.Boot); err != nil {
			return "", err
		}
		if err := pause(ctx, t.some(500*time.Millisecond, 1500*time.Millisecond)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d cuts, %d messages stored between them", cuts, t.Acknowledged()-before), nil
}

// replaceFolder puts the content of a folder in the place of another's, synced as
// a card is that was written elsewhere. The two may be on different disks.
func replaceFolder(folder, by string) error {
	if err := copies.Folder(folder, by); err != nil {
		return err
	}
	if err := os.RemoveAll(by); err != nil {
		return err
	}
	err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(path)
	})
	return errors.Join(err, syncPath(filepath.Dir(folder)))
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
