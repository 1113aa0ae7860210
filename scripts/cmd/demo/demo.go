package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// demo is one run.
type demo struct {
	options
	screen *term.Screen
	stack  *stack.Stack
	fleet  *sensors.Fleet
	oracle *oracle.Oracle

	caughtUp chan time.Duration // how long it took; -1: never
}

// run builds, starts, plays, judges, and ends everything.
func (d *demo) run(ctx context.Context) (verdict oracle.Verdict, err error) {
	root, err := repo.Root()
	if err != nil {
		return verdict, err
	}
	paths, err := build.Builder{Root: root, Out: d.screen, TTY: d.screen.TTY()}.Build(ctx, stack.Programs()...)
	if err != nil {
		return verdict, err
	}
	dir, temporary, err := d.folder()
	if err != nil {
		return verdict, err
	}
	d.screen.Restart()
	d.screen.Event("starting NATS, two sidecars, the cloud and the agent (data and logs: %s)", dir)
	d.stack, err = stack.Start(ctx, stack.Options{Root: root, Dir: dir, Programs: paths})
	if err == nil {
		verdict, err = d.watched(ctx)
		err = errors.Join(err, d.stack.Stop())
	}
	d.screen.Status("")
	switch failed := err != nil || !verdict.Passed; {
	case failed && ctx.Err() == nil:
		d.screen.Print(fmt.Sprintf("data and logs are kept in %s\n", dir))
	case temporary:
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return verdict, err
}

func (d *demo) folder() (dir string, temporary bool, err error) {
	if d.dir == "" {
		dir, err = os.MkdirTemp("", "holdfast-demo-")
		return dir, true, err
	}
	if dir, err = filepath.Abs(d.dir); err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if entries, readErr := os.ReadDir(dir); err == nil && readErr == nil && len(entries) > 0 {
		err = fmt.Errorf("--dir %s: want an empty folder", dir)
	}
	return dir, false, err
}

// watched plays while the programs run: when one of them ends by itself, the
// rest is pointless.
func (d *demo) watched(ctx context.Context) (oracle.Verdict, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	failed := d.stack.Failed()
	go func() {
		select {
		case err := <-failed:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	verdict, err := d.play(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return verdict, err
}

func (d *demo) play(ctx context.Context) (oracle.Verdict, error) {
	d.prepare("demo")
	d.caughtUp = make(chan time.Duration, 1)
	d.screen.Print(fmt.Sprintf("\n  dashboard     %s\n  agent status  %s\n  MQTT          %s (try: mosquitto_pub -p %s -q 1 -t test -m hello)\n\n",
		d.stack.Cloud.URL, d.stack.Edge.Status, d.stack.Edge.MQTT, loopback.Port(d.stack.Edge.MQTT)))
	d.screen.Event("%d sensors publish %v messages a second at QoS 1 for %v", d.sensors, d.rate, d.length)
	if err := d.scenario(ctx); err != nil {
		return oracle.Verdict{}, err
	}
	verdict, err := d.judge(ctx)
	if err != nil {
		return verdict, err
	}
	d.screen.Print(report(verdict))
	if d.keep {
		d.goOn(ctx)
	}
	return verdict, nil
}

// prepare makes a fleet and the oracle that watches it.
func (d *demo) prepare(prefix string) {
	shape := sensors.Shape{Prefix: prefix, Seed: rand.Uint64()}
	d.oracle = oracle.New(shape, d.sensors)
	d.fleet = &sensors.Fleet{
		Shape: shape, Addr: d.stack.Edge.MQTT, Sensors: d.sensors,
		Rate: d.rate, For: d.length, Log: d.oracle,
	}
}

// goOn keeps everything alive for someone who looks at the dashboard. What is
// published now is no part of the verdict.
func (d *demo) goOn(ctx context.Context) {
	d.prepare("keep")
	d.fleet.For = 0
	d.screen.Event("going on until Ctrl-C; dashboard: %s", d.stack.Cloud.URL)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go d.showProgress(ctx)
	_ = d.fleet.Run(ctx, nil) // it ends with ctx and says so
}
