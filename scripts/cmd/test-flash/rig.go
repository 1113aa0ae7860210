package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/guest"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const (
	// bootLimit is for one boot: minutes on a machine that does other things too.
	bootLimit = 20 * time.Minute
	// stepLimit is for anything else that is waited for.
	stepLimit = 10 * time.Minute
)

// rig is what the cases have in common.
type rig struct {
	options
	screen *term.Screen
	result result
	now    caseResult // the case that runs

	root  string
	group *process.Group // of guests
	cloud *stack.Stack
	cut   bool // the network between sidecar and broker

	flash    string // our program
	images   struct{ cloudInit, firstRun string }
	key      string // private SSH key
	password string
	ports    struct{ mqtt, ssh string }

	disk   *disk.Cuttable // what the card's flash memory is
	card   string         // on it
	agents []string       // that have been on a card; the last one is on it now
	guest  *guest.Guest   // nil: switched off
	boots  int

	oracles []*oracle.Oracle // one a publication
	stopped chan struct{}    // nil: nobody publishes
	done    chan error
}

// all runs the cases, and ends everything.
func (r *rig) all(ctx context.Context) (err error) {
	begin := time.Now()
	defer func() {
		r.result.Passed, r.result.Seconds = err == nil, time.Since(begin).Seconds()
		if err != nil {
			r.result.Error = err.Error()
		}
	}()
	temporary := r.dir == ""
	if temporary {
		r.dir, err = os.MkdirTemp("", "holdfast-flash-")
	} else {
		r.dir, err = filepath.Abs(r.dir)
		err = errors.Join(err, os.MkdirAll(r.dir, 0o700))
	}
	if err != nil {
		return err
	}
	err = r.prepare(ctx)
	r.result.Prepared = time.Since(begin).Seconds()
	if err == nil {
		err = r.runCases(ctx)
	}
	err = errors.Join(err, r.group.Close(5*time.Second))
	if r.disk != nil {
		err = errors.Join(err, r.disk.Close())
	}
	if r.cloud != nil {
		err = errors.Join(err, r.cloud.Stop())
	}
	if err == nil && temporary {
		err = os.RemoveAll(r.dir)
	}
	return err
}

func (r *rig) runCases(ctx context.Context) error {
	for _, c := range cases {
		if len(r.only) > 0 && !slices.Contains(r.only, c.name) {
			continue
		}
		begin := time.Now()
		r.now = caseResult{Case: c.name}
		err := c.run(r, ctx)
		r.now.Passed, r.now.Seconds = err == nil, time.Since(begin).Seconds()
		r.result.Cases = append(r.result.Cases, r.now)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		r.screen.Event("%s: passed (%.0f s)", c.name, r.now.Seconds)
	}
	return nil
}

// machine is the card in its board.
func (r *rig) machine() guest.Options {
	return guest.Options{Group: r.group, Card: r.card, Dir: r.dir, MQTT: r.ports.mqtt, SSH: r.ports.ssh, Key: r.key}
}

func (r *rig) start(o guest.Options) (err error) {
	r.boots++
	o.Name = fmt.Sprintf("boot-%d", r.boots)
	r.guest, err = guest.Start(o)
	return err
}

// boot switches the card on and waits until the console says text.
func (r *rig) boot(ctx context.Context, text string) error {
	if err := r.start(r.machine()); err != nil {
		return err
	}
	return r.says(ctx, text)
}

// says waits until the console of the guest, which was just started, says text.
func (r *rig) says(ctx context.Context, text string) error {
	begin := time.Now()
	defer r.watch(begin, fmt.Sprintf("boot %d, waiting for %q", r.boots, text))()
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := r.guest.Await(ctx, text); err != nil {
		return err
	}
	took := time.Since(begin).Seconds()
	r.now.Boots = append(r.now.Boots, boot{Until: text, Seconds: took})
	r.screen.Event("boot %d: %q after %.0f s", r.boots, text, took)
	return nil
}

// off pulls the plug: of what the guest had not flushed, random sectors are left.
func (r *rig) off() error {
	g := r.guest
	r.guest = nil
	if err := g.Kill(); err != nil {
		return err
	}
	r.disk.Cut()
	return r.disk.Boot()
}

// ensure has a card running that was set up.
func (r *rig) ensure(ctx context.Context) error {
	switch {
	case len(r.agents) == 0:
		return r.newCard(ctx)
	case r.guest == nil:
		return r.boot(ctx, agentStarted)
	}
	return nil
}

// unplugged cuts the network between sidecar and broker.
func (r *rig) unplugged() error {
	r.cut = true
	return r.cloud.Edge.Link.Cut()
}

// until asks again and again. It ends early when the guest went off by itself or
// the cloud failed.
func (r *rig) until(ctx context.Context, limit time.Duration, what string, ready func() error) error {
	defer r.watch(time.Now(), "waiting for "+what)()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: after %v: %w; end of the console:\n%s", what, limit, err, r.guest.Tail(25))
		case <-r.guest.Done():
			return fmt.Errorf("%s: the guest went off: %w; end of the console:\n%s", what, err, r.guest.Tail(25))
		case failed := <-r.cloud.Failed():
			return failed
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// watch shows what is waited for, and how far the guest is. What it returns ends
// that.
func (r *rig) watch(begin time.Time, what string) (stop func()) {
	show, every := r.screen.Event, 30*time.Second // a log wants few lines
	if r.screen.TTY() {
		show, every = r.screen.Status, time.Second
	}
	line := func() string { return "" }
	if g := r.guest; g != nil {
		line = func() string { return "; the console: " + g.Tail(1) }
	}
	ended, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				show("  %s, %.0f s%s", what, time.Since(begin).Seconds(), line())
			}
		}
	}()
	return func() {
		close(ended)
		<-finished
		r.screen.Status("")
	}
}
