package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/guest"
)

// testCase is one thing that may happen to a card.
type testCase struct {
	name string
	run  func(*rig, context.Context) error
}

// cases, in the order in which they run: a later one goes on with the card of the
// one before.
var cases = []testCase{
	{"first-boot", (*rig).firstBoot},
	{"load", (*rig).load},
	{"offline", (*rig).offline},
	{"upgrade", (*rig).upgrade},
	{"reflash", (*rig).reflash},
	{"firstrun", (*rig).firstRun},
	{"by-hand", (*rig).byHand},
	{"control", (*rig).liar}, // last: what it loses stays missing
}

// What the console says.
const (
	agentStarted = "Started holdfast-agent.service"
	cardDone     = "holdfast: this card is a node"
)

// firstBoot flashes a card and pulls the plug in the middle of its first boot, twice.
func (r *rig) firstBoot(ctx context.Context) error {
	return r.newCard(ctx, "holdfast: step: install the package", "holdfast: step: remove secrets")
}

// newCard flashes a card, pulls the plug when the console says one of these, and
// has it running in the end.
func (r *rig) newCard(ctx context.Context, cuts ...string) error {
	if err := r.write(ctx, r.images.cloudInit, "greenhouse-1"); err != nil {
		return err
	}
	for _, step := range cuts {
		if err := r.boot(ctx, step); err != nil {
			return err
		}
		if err := r.off(); err != nil {
			return err
		}
		r.screen.Event("plug pulled at %q", step)
	}
	if err := r.boot(ctx, cardDone); err != nil {
		return err
	}
	if err := r.flows(ctx); err != nil {
		return err
	}
	if err := r.settledIn(ctx); err != nil {
		return err
	}
	return r.finish(ctx)
}

// reach waits until the guest takes commands, and gives them the time of a boot.
func (r *rig) reach(ctx context.Context) (context.Context, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	return ctx, cancel, r.guest.Reachable(ctx)
}

// settledIn waits until the guest is what the flags asked for, and looks for what
// must not stay on its boot partition.
func (r *rig) settledIn(ctx context.Context) error {
	wait, cancel, err := r.reach(ctx)
	defer cancel()
	if err != nil {
		return err
	}
	return r.until(ctx, bootLimit, "the settings of the card", func() error {
		out, err := r.guest.Run(wait, "ls /boot/firmware; hostname; cat /etc/timezone; stat -c %a:%U /var/lib/holdfast; ls /etc/systemd/system", nil)
		if err != nil {
			return err
		}
		for _, want := range []string{r.agent(), "Europe/Berlin", "700:holdfast"} {
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
	if err := r.flows(ctx); err != nil {
		return err
	}
	if err := r.unplugged(); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, 10*rate); err != nil {
		return err
	}
	if err := r.off(); err != nil {
		return err
	}
	r.screen.Event("plug pulled under load, with the network cut")
	if err := r.boot(ctx, agentStarted); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, rate); err != nil {
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
	if err := r.unplugged(); err != nil {
		return err
	}
	r.publish(ctx)
	o := r.machine()
	// systemd-timesyncd would raise the clock to when it last ran.
	o.Unplugged, o.Clock, o.Command = true, "1970-01-01", "test.clock1970 systemd.mask=systemd-timesyncd.service"
	if err := r.start(o); err != nil {
		return err
	}
	if err := r.says(ctx, agentStarted); err != nil {
		return err
	}
	r.screen.Event("the agent runs with no network; now the cable goes in, the cloud stays away")
	if err := r.guest.Plug(); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, 5*rate); err != nil {
		return err
	}
	wait, cancel, err := r.reach(ctx)
	defer cancel()
	if err != nil {
		return err
	}
	year, err := r.guest.Run(wait, "date +%Y", nil)
	if err != nil {
		return err
	}
	if year != "1970" {
		return fmt.Errorf("the guest's clock says %s: it was to be 1970", year)
	}
	return r.finish(ctx)
}

// upgrade installs a later package under load, and then the one before again.
func (r *rig) upgrade(ctx context.Context) error {
	if err := r.ensure(ctx); err != nil {
		return err
	}
	wait, cancel, err := r.reach(ctx)
	defer cancel()
	if err != nil {
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
	defer r.watch(time.Now(), "installing "+filepath.Base(path))()
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

// copy puts a file of this machine into the guest.
func (r *rig) copy(ctx context.Context, path, to string) error {
	defer r.watch(time.Now(), "copying "+filepath.Base(path))()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = r.guest.Run(ctx, "cat >"+to, f)
	return err
}

// reflash writes the card anew while readings that are nowhere else are on it.
func (r *rig) reflash(ctx context.Context) error {
	if err := r.ensure(ctx); err != nil {
		return err
	}
	if err := r.flows(ctx); err != nil {
		return err
	}
	if err := r.unplugged(); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, 5*rate); err != nil {
		return err
	}
	if err := r.off(); err != nil {
		return err
	}
	if err := r.write(ctx, r.images.cloudInit, r.agent(), "--keep-identity"); err != nil {
		return err
	}
	if err := r.boot(ctx, "holdfast: step: restore"); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, rate); err != nil {
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
	if err := r.write(ctx, r.images.firstRun, "greenhouse-2"); err != nil {
		return err
	}
	if err := r.boot(ctx, "kernel-command-line.service"); err != nil {
		return err
	}
	if err := r.restarts(ctx); err != nil {
		return err
	}
	line, err := guest.BootFile(r.card, "cmdline.txt")
	if err != nil || strings.Contains(string(line), "systemd.run") {
		return fmt.Errorf("cmdline.txt after firstrun: %q (%w)", line, err)
	}
	if err := r.boot(ctx, cardDone); err != nil {
		return err
	}
	if err := r.flows(ctx); err != nil {
		return err
	}
	if err := r.settledIn(ctx); err != nil {
		return err
	}
	return r.finish(ctx)
}

// liar does what load does with a card that forgets what it said it had: what was
// acknowledged must be found missing, or all of the above proves nothing.
func (r *rig) liar(ctx context.Context) error {
	r.now.Control = true
	if err := r.ensure(ctx); err != nil {
		return err
	}
	if err := r.off(); err != nil {
		return err
	}
	if err := r.unplugged(); err != nil {
		return err
	}
	before := r.acked()
	r.publish(ctx)
	o := r.machine()
	o.Forgets = true
	if err := r.start(o); err != nil {
		return err
	}
	if err := r.says(ctx, agentStarted); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, 10*rate); err != nil {
		return err
	}
	if err := r.off(); err != nil {
		return err
	}
	lost := r.acked() - before
	r.screen.Event("plug pulled from a card that forgets: it takes %d acknowledged readings with it", lost)
	if err := r.boot(ctx, agentStarted); err != nil {
		return err
	}
	if err := r.acknowledged(ctx, rate); err != nil {
		return err
	}
	return r.convicted(ctx, lost)
}

// restarts waits until the guest went off by itself: this emulator ends where a
// board starts again.
func (r *rig) restarts(ctx context.Context) error {
	defer r.watch(time.Now(), "waiting for its restart")()
	select {
	case <-r.guest.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(bootLimit):
		return errors.New("it did not restart after firstrun; end of the console:\n" + r.guest.Tail(25))
	}
}
