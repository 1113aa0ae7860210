package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/guest"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
)

const (
	sensorCount = 4
	rate        = 40 // messages a second: an emulated Pi has little to give
	// bootLimit is for one boot: minutes on a machine that does other things too.
	bootLimit = 15 * time.Minute
	// stepLimit is for anything else that is waited for.
	stepLimit = 4 * time.Minute
)

// firstBoot flashes a card and pulls the plug in the middle of its first boot, twice.
func (r *rig) firstBoot(ctx context.Context) error {
	return r.newCard(ctx, "holdfast: step: install the package", "holdfast: step: remove secrets")
}

// newCard flashes a card, pulls the plug when the console says one of these, and
// has it running in the end.
func (r *rig) newCard(ctx context.Context, cuts ...string) error {
	r.card = filepath.Join(r.dir, "card.img")
	if err := r.write(ctx, r.images.cloudInit, agent); err != nil {
		return err
	}
	for _, step := range cuts {
		if err := r.boot(ctx, step); err != nil {
			return err
		}
		r.screen.Event("plug pulled at %q", step)
		if err := r.off(); err != nil {
			return err
		}
	}
	if err := r.boot(ctx, "holdfast: this card is a node"); err != nil {
		return err
	}
	r.publish(ctx)
	if err := r.flows(ctx); err != nil {
		return err
	}
	if err := r.settledIn(ctx); err != nil {
		return err
	}
	return r.finish(ctx)
}

// settledIn waits until the guest is what the flags asked for, and looks for what
// must not stay on its boot partition.
func (r *rig) settledIn(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := r.guest.Reachable(wait); err != nil {
		return err
	}
	return r.until(ctx, bootLimit, func() error {
		out, err := r.guest.Run(wait, "ls /boot/firmware; hostname; cat /etc/timezone; stat -c %a:%U /var/lib/holdfast; ls /etc/systemd/system", nil)
		if err != nil {
			return err
		}
		for _, want := range []string{agent, "Europe/Berlin", "700:holdfast"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("no %q in:\n%s", want, out)
			}
		}
		for _, not := range []string{"holdfast.tar", "holdfast-first-boot.service"} {
			if strings.Contains(out, not) {
				return fmt.Errorf("%s is still there:\n%s", not, out)
			}
		}
		return nil
	})
}

// load pulls the plug while sensors publish and nothing can be sent.
func (r *rig) load(ctx context.Context) error {
	if err := r.ensure(ctx); err != nil {
		return err
	}
	r.publish(ctx)
	if err := r.flows(ctx); err != nil {
		return err
	}
	if err := r.cloud.Edge.Link.Cut(); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, 10*rate); err != nil {
		return err
	}
	r.screen.Event("plug pulled under load, network cut")
	if err := r.off(); err != nil {
		return err
	}
	if err := r.boot(ctx, ""); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, rate); err != nil {
		return err
	}
	if err := r.control(ctx); err != nil {
		return err
	}
	if err := r.cloud.Edge.Link.Heal(); err != nil {
		return err
	}
	return r.finish(ctx)
}

// offline starts the card with the cable pulled and the clock at 1970.
func (r *rig) offline(ctx context.Context) error {
	if err := r.ensure(ctx); err != nil {
		return err
	}
	if err := r.off(); err != nil {
		return err
	}
	if err := r.cloud.Edge.Link.Cut(); err != nil {
		return err
	}
	r.publish(ctx)
	o := r.machine()
	o.Cut, o.Clock, o.Command = true, "1970-01-01", "test.clock1970"
	if err := r.start(o); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := r.guest.Await(wait, "Started holdfast-agent.service"); err != nil {
		return err
	}
	r.screen.Event("the agent runs with no network; now the cable goes in, the cloud stays away")
	if err := r.guest.Plug(); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, 5*rate); err != nil {
		return err
	}
	if err := r.guest.Reachable(wait); err != nil {
		return err
	}
	year, err := r.guest.Run(wait, "date +%Y", nil)
	if err != nil {
		return err
	}
	if year != "1970" {
		return fmt.Errorf("the guest's clock says %s: it was to be 1970", year)
	}
	if err := r.control(ctx); err != nil {
		return err
	}
	if err := r.cloud.Edge.Link.Heal(); err != nil {
		return err
	}
	return r.finish(ctx)
}

// upgrade installs a later package under load, and then the one before again.
func (r *rig) upgrade(ctx context.Context) error {
	if err := r.ensure(ctx); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := r.guest.Reachable(wait); err != nil {
		return err
	}
	for name, path := range map[string]string{"old.deb": r.old, "new.deb": r.new} {
		if err := r.copy(wait, path, "/var/tmp/"+name); err != nil {
			return err
		}
	}
	if _, err := r.guest.Run(wait, "echo '# mine' >>/etc/holdfast/agent.yaml", nil); err != nil {
		return err
	}
	r.publish(ctx)
	for _, step := range []struct{ name, path string }{{"new.deb", r.new}, {"old.deb", r.old}} {
		if err := r.acknowledged(ctx, 2*rate); err != nil {
			return err
		}
		if err := r.install(wait, step.name, step.path); err != nil {
			return err
		}
	}
	if err := r.acknowledged(ctx, 2*rate); err != nil {
		return err
	}
	return r.finish(ctx)
}

// install installs a package in the guest and looks at what came of it.
func (r *rig) install(ctx context.Context, name, path string) error {
	version := strings.Split(filepath.Base(path), "_")[1]
	out, err := r.guest.Run(ctx, "DEBIAN_FRONTEND=noninteractive dpkg -i --force-confold /var/tmp/"+name+
		" && dpkg-query -W -f '${Status} ${Version}\\n' holdfast-edge && edge-agent version && tail -n 1 /etc/holdfast/agent.yaml", nil)
	if err != nil {
		return err
	}
	for _, want := range []string{"install ok installed " + version, "\n" + version, "# mine"} {
		if !strings.Contains(out, want) {
			return fmt.Errorf("after installing %s there is no %q in:\n%s", filepath.Base(path), want, out)
		}
	}
	r.screen.Event("under load: installed %s", version)
	return nil
}

// reflash writes the card anew while readings that are nowhere else are on it.
func (r *rig) reflash(ctx context.Context) error {
	if err := r.ensure(ctx); err != nil {
		return err
	}
	r.publish(ctx)
	if err := r.flows(ctx); err != nil {
		return err
	}
	if err := r.cloud.Edge.Link.Cut(); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, 5*rate); err != nil {
		return err
	}
	if err := r.off(); err != nil {
		return err
	}
	if err := r.write(ctx, r.images.cloudInit, agent, "--keep-identity"); err != nil {
		return err
	}
	if err := r.boot(ctx, "holdfast: step: restore"); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, rate); err != nil {
		return err
	}
	if err := r.control(ctx); err != nil {
		return err
	}
	if err := r.cloud.Edge.Link.Heal(); err != nil {
		return err
	}
	return r.finish(ctx)
}

// firstRun boots an image without cloud-init. It restarts by itself in between.
func (r *rig) firstRun(ctx context.Context) error {
	if r.guest != nil {
		if err := r.off(); err != nil {
			return err
		}
	}
	r.card = filepath.Join(r.dir, "firstrun.img")
	if err := r.write(ctx, r.images.firstRun, "greenhouse-2"); err != nil {
		return err
	}
	if err := r.boot(ctx, ""); err != nil {
		return err
	}
	select {
	case <-r.guest.Done():
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(bootLimit):
		return errors.New("it did not restart after firstrun; end of the console:\n" + r.guest.Tail(25))
	}
	line, err := guest.BootFile(r.card, "cmdline.txt")
	if err != nil || strings.Contains(string(line), "systemd.run") {
		return fmt.Errorf("cmdline.txt after firstrun: %q (%w)", line, err)
	}
	if err := r.boot(ctx, "holdfast: this card is a node"); err != nil {
		return err
	}
	before := r.acked()
	r.publish(ctx)
	if err := r.acknowledged(ctx, 2*rate); err != nil {
		return err
	}
	if err := r.quiet(ctx); err != nil {
		return err
	}
	r.screen.Event("firstrun: %d readings acknowledged", r.acked()-before)
	return r.settled(ctx, "greenhouse-2")
}

// --- what the cases are made of ---

func (r *rig) machine() guest.Options {
	return guest.Options{Group: r.group, Card: r.card, Dir: r.dir, MQTT: r.ports.mqtt, SSH: r.ports.ssh, Key: r.key}
}

func (r *rig) start(o guest.Options) (err error) {
	r.boots++
	o.Name = fmt.Sprintf("boot-%d", r.boots)
	r.guest, err = guest.Start(o)
	return err
}

// boot switches the card on and waits until the console says text, if any.
func (r *rig) boot(ctx context.Context, text string) error {
	begin := time.Now()
	if err := r.start(r.machine()); err != nil || text == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := r.guest.Await(ctx, text); err != nil {
		return err
	}
	r.screen.Event("boot %d: %q after %.0f s", r.boots, text, time.Since(begin).Seconds())
	return nil
}

// off pulls the plug.
func (r *rig) off() error {
	g := r.guest
	r.guest = nil
	return g.Kill()
}

// ensure has a card running that was set up.
func (r *rig) ensure(ctx context.Context) error {
	switch {
	case r.card == "":
		return r.newCard(ctx)
	case r.guest == nil:
		return r.boot(ctx, "")
	}
	return nil
}

// publish lets the sensors run until quiet.
func (r *rig) publish(ctx context.Context) {
	if r.stopped != nil {
		return
	}
	shape := sensors.Shape{Prefix: fmt.Sprintf("flash-%d", len(r.oracles)), Seed: uint64(len(r.oracles))}
	log := oracle.New(shape, sensorCount)
	r.oracles = append(r.oracles, log)
	fleet := &sensors.Fleet{
		Shape: shape, Addr: r.ports.mqtt, Sensors: sensorCount, Rate: rate, Log: log, Username: "sensors", Password: r.password,
	}
	stopped, done := make(chan struct{}), make(chan error, 1)
	r.stopped, r.done = stopped, done
	go func() { done <- fleet.Run(ctx, stopped) }()
}

// acked returns how many messages were acknowledged so far.
func (r *rig) acked() (n uint64) {
	for _, o := range r.oracles {
		n += o.Totals().Acknowledged
	}
	return n
}

// quiet ends publishing, when everything sent was acknowledged.
func (r *rig) quiet(ctx context.Context) error {
	close(r.stopped)
	r.stopped = nil
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(stepLimit):
		return errors.New("the sensors still wait for acknowledgements")
	}
}

// acknowledged waits until so many more messages were.
func (r *rig) acknowledged(ctx context.Context, more uint64) error {
	want := r.acked() + more
	return r.until(ctx, bootLimit, func() error {
		if n := r.acked(); n < want {
			return fmt.Errorf("%d messages are acknowledged, waiting for %d", n, want)
		}
		return nil
	})
}

// flows waits until readings come in at the cloud.
func (r *rig) flows(ctx context.Context) error {
	before := uint64(0)
	if a, err := r.cloud.Client().Agent(ctx, agent); err == nil {
		before = a.Held
	}
	return r.until(ctx, bootLimit, func() error {
		a, err := r.cloud.Client().Agent(ctx, agent)
		if err == nil && a.Held < before+rate {
			err = fmt.Errorf("the cloud holds %d records, waiting for %d", a.Held, before+rate)
		}
		return err
	})
}

// control is the proof that the count can tell: while the network is cut, what
// was acknowledged is on the card alone.
func (r *rig) control(ctx context.Context) error {
	found, err := r.count(ctx, agent)
	if err != nil {
		return err
	}
	if found.Missing == 0 {
		return errors.New("the network is cut and yet nothing acknowledged is missing in the cloud: the count cannot tell")
	}
	r.screen.Event("control: %d acknowledged readings are on the card alone", found.Missing)
	return nil
}

// finish ends publishing and judges.
func (r *rig) finish(ctx context.Context) error {
	if err := r.quiet(ctx); err != nil {
		return err
	}
	return r.settled(ctx, agent)
}

func (r *rig) settled(ctx context.Context, names ...string) error {
	var found oracle.Findings
	all := names
	if names[0] != agent {
		all = append([]string{agent}, names...)
	}
	err := r.until(ctx, stepLimit, func() (err error) {
		for _, name := range names {
			a, err := r.cloud.Client().Agent(ctx, name)
			if err != nil {
				return err
			}
			if a.OnDevice > 0 || a.Unexplained > 0 {
				return fmt.Errorf("%s has %d records on the device and %d unexplained", name, a.OnDevice, a.Unexplained)
			}
		}
		if found, err = r.count(ctx, all...); err == nil && found.Missing > 0 {
			err = fmt.Errorf("%d acknowledged readings are missing: %q", found.Missing, found.Examples)
		}
		return err
	})
	r.screen.Event("counted: published %d, acknowledged %d, stored %d, missing %d, doubled %d, altered %d, redelivered %d",
		found.Published, found.Acknowledged, found.Stored, found.Missing, found.Duplicates, found.Altered, found.Redelivered)
	if err == nil && found.Duplicates+found.Altered > 0 {
		err = fmt.Errorf("doubled or altered: %q", found.Examples)
	}
	return err
}

// count reads everything back and compares it with every publication so far.
func (r *rig) count(ctx context.Context, names ...string) (sum oracle.Findings, err error) {
	var checks []*oracle.Check
	for _, o := range r.oracles {
		checks = append(checks, o.Check())
	}
	for _, name := range names {
		err := r.cloud.Client().Readings(ctx, name, func(reading cloud.Reading) error {
			for i, c := range checks {
				if strings.HasPrefix(reading.Topic, fmt.Sprintf("flash-%d/", i)) {
					return c.Add(reading)
				}
			}
			return fmt.Errorf("topic %s is nobody's", reading.Topic)
		})
		if err != nil {
			return sum, err
		}
	}
	for _, c := range checks {
		f := c.Findings()
		sum.Published += f.Published
		sum.Acknowledged += f.Acknowledged
		sum.Stored += f.Stored
		sum.Missing += f.Missing
		sum.Duplicates += f.Duplicates
		sum.Redelivered += f.Redelivered
		sum.Altered += f.Altered
		sum.Examples = append(sum.Examples, f.Examples...)
	}
	return sum, nil
}

// until asks again and again. It ends early when the guest went off by itself or
// the cloud failed.
func (r *rig) until(ctx context.Context, limit time.Duration, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %v: %w; end of the console:\n%s", limit, err, r.guest.Tail(25))
		case <-r.guest.Done():
			return fmt.Errorf("the guest went off: %w; end of the console:\n%s", err, r.guest.Tail(25))
		case failed := <-r.cloud.Failed():
			return failed
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// copy puts a file of this machine into the guest.
func (r *rig) copy(ctx context.Context, path, to string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = r.guest.Run(ctx, "cat >"+to, f)
	return err
}
