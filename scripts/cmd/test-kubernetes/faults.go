package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/mqtt"
)

func cut(ctx context.Context, t *test) (note string, err error) {
	if err := shell(ctx, t.cut, t.node); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, shell(context.WithoutCancel(ctx), t.heal, t.node)) }()
	longest := t.standstill()
	pause(ctx, t.outage/4) // for what was already on its way
	before, err := t.cloudAgent(ctx)
	if err != nil {
		return "", err
	}
	pause(ctx, t.outage-t.outage/4)
	after, err := t.cloudAgent(ctx)
	if err == nil && after.Held != before.Held {
		err = fmt.Errorf("%d records passed the cut: it proves nothing", after.Held-before.Held)
	}
	still := figure{"the intake stood still for", longest(), wantStop}
	if still.late() {
		err = errors.Join(err, errors.New("sensors waited although nothing on the way to the disk was cut"))
	}
	return fmt.Sprintf("cut for %s, %s at most", t.outage, still), err
}

func power(ctx context.Context, t *test) (string, error) {
	if err := shell(ctx, t.kill, t.node); err != nil {
		return "", err
	}
	pause(ctx, 15*time.Second)
	if err := shell(context.WithoutCancel(ctx), t.start, t.node); err != nil {
		return "", err
	}
	begin := time.Now()
	took, err := t.acknowledges(ctx, 4*time.Minute)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("a PUBACK %.0f s after the node's start was asked for", took.Seconds()), t.edgeReady(ctx, 4*time.Minute-time.Since(begin))
}

// outboxFull shows that a full outbox stops acknowledging, and takes up again when there is room.
func outboxFull(ctx context.Context, t *test) (string, error) {
	return t.full(ctx, []string{"EDGE_OUTBOX__MAX_BYTES=16MiB", "EDGE_OUTBOX__KEEP_BYTES=0", "EDGE_OUTBOX__RESERVE_BYTES=0"}, nil, nil)
}

// diskFull shows the same of a disk that somebody else filled. What the agent has set aside is left out, or filling that would take minutes.
func diskFull(ctx context.Context, t *test) (string, error) {
	return t.full(ctx, []string{"EDGE_OUTBOX__KEEP_BYTES=0", "EDGE_OUTBOX__RESERVE_BYTES=0"},
		func() error { return shell(ctx, t.fill, t.data) },
		func() error { return shell(context.WithoutCancel(ctx), t.free, t.data) })
}

// full plays a time without room: with settings that leave little of it, and with the cloud away, so that nothing is trimmed.
func (t *test) full(ctx context.Context, settings []string, fill, free func() error) (string, error) {
	if err := t.setEdge(ctx, settings...); err != nil {
		return "", err
	}
	back, err := scaleDown(ctx, "deployment/cloud-api")
	stop := t.flood(ctx)
	if err == nil && fill != nil {
		err = fill()
	}
	if err == nil {
		err = t.stalls(ctx)
	}
	stop()
	if free != nil {
		err = errors.Join(err, free())
	}
	err = errors.Join(err, back(), t.resumes(ctx))
	for i, s := range settings {
		name, _, _ := strings.Cut(s, "=")
		settings[i] = name + "-" // kubectl's way to take one back
	}
	return "no PUBACK while it was full", errors.Join(err, t.setEdge(ctx, settings...))
}

// flood publishes large messages as fast as they are acknowledged, beside the sensors and counted by nobody: room is used up soon. They are
// easily compressed, so that what piled up is also sent soon.
func (t *test) flood(ctx context.Context) (stop func()) {
	payload := make([]byte, 128<<10)
	ctx, cancel := context.WithCancel(ctx)
	p := mqtt.New(mqtt.Options{
		Addr: t.relay.address(), ClientID: fmt.Sprintf("flood-%d", rand.Uint32()), Username: mqttUser, Password: t.password, Window: 4,
		Next:  func() (mqtt.Message, bool) { return mqtt.Message{Topic: "flood", Payload: payload}, true },
		Sent:  func(mqtt.Message, bool) {},
		Acked: func(mqtt.Message, time.Time) {},
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Run(ctx) // ends with ctx, and is only there to be in the way
	}()
	return func() {
		cancel()
		<-done
	}
}

// setEdge changes the agent's environment and waits for the pod that has it.
func (t *test) setEdge(ctx context.Context, settings ...string) error {
	args := append([]string{"-n", edgeNamespace, "set", "env", edgeOwner, "-c", "edge-agent"}, settings...)
	if _, err := kubectl(ctx, args...); err != nil {
		return err
	}
	_, err := settled(ctx, edgeHalf)
	return err
}

// stalls waits until no sensor has had an acknowledgement for ten seconds.
func (t *test) stalls(ctx context.Context) error {
	last, since := t.book.Totals().Acknowledged, time.Now()
	return until(ctx, 4*time.Minute, "acknowledgements stop", func() error {
		now := t.book.Totals().Acknowledged
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < 10*time.Second {
			return errors.New("they go on")
		}
		return nil
	})
}

// resumes waits until sensors are answered again.
func (t *test) resumes(ctx context.Context) error {
	before := t.book.Totals().Acknowledged
	return until(ctx, 4*time.Minute, "acknowledgements come again", func() error {
		if t.book.Totals().Acknowledged == before {
			return errors.New("none")
		}
		return nil
	})
}
