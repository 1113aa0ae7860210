package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

// round is one stack, from its start to the count.
type round struct {
	*drill
	dir    string
	stack  *stack.Stack
	target *faults.Target
	mounts []mount

	fleets []*fleet
	calm   calm
	alarms map[string]uint64
	ends   map[string]int
	memory memory
}

// mount is a disk that ends with this program.
type mount struct {
	dir   string
	close func() error
}

const (
	// diskSize bounds the broker's disk and the database's.
	diskSize = 3 << 30
	// supervise is within how long a program that ended by itself is back.
	supervise = 500 * time.Millisecond
	// stretchLong is how many times as long faults last with --long.
	stretchLong = 4
)

// round plays a hand and counts. Its error is one of this machine; what the
// system did wrong is in the result.
func (d *drill) round(ctx context.Context, number int, hand []faults.Fault) (res roundResult, err error) {
	dir, err := os.MkdirTemp("", "holdfast-failover-")
	if err != nil {
		return res, err
	}
	r := &round{drill: d, dir: dir, alarms: map[string]uint64{}, ends: map[string]int{}}
	d.screen.Event("round %d: starting the stack; %d faults follow (data and logs: %s)", number, len(hand), dir)
	err = r.open(ctx)
	if err == nil {
		res, err = r.play(ctx, hand)
	}
	res.Number, res.Folder = number, dir
	keep := d.keep || (err != nil || !res.Passed) && ctx.Err() == nil
	err = errors.Join(err, r.close(keep))
	if keep {
		d.screen.Event("data and logs are kept in %s", dir)
	} else {
		res.Folder = ""
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return res, err
}

// open starts everything.
func (r *round) open(ctx context.Context) error {
	t := &faults.Target{Rate: r.rate, Rand: rand.New(rand.NewPCG(r.rand.Uint64(), 0))}
	if r.long {
		t.Stretch = stretchLong
	}
	t.Acknowledged, t.Publish, t.Apart = r.acknowledged, r.publish, r.apart
	r.target = t
	o, err := r.options(t)
	if err != nil {
		return err
	}
	if r.stack, err = stack.Start(ctx, o); err != nil {
		return err
	}
	t.Stack = r.stack
	t.Intake, err = r.stack.Link(r.stack.Edge.MQTT)
	return err
}

func (r *round) options(t *faults.Target) (stack.Options, error) {
	o := stack.Options{
		Root: r.root, Dir: r.dir, Programs: r.programs, Agent: "failover", Broker: r.broker, Exposed: true, Supervise: supervise,
		AgentConfig: r.outbox(),
	}
	if r.postgres != nil {
		o.Postgres, o.Replicas = r.postgres, 3
	}
	if r.control != "" {
		o.AgentEnv = append(o.AgentEnv, "HOLDFAST_FAULT_DELETE_ON=publish")
	}
	t.Clock = filepath.Join(r.dir, "clock.json")
	if err := os.WriteFile(t.Clock, []byte("{}"), 0o600); err != nil {
		return o, err
	}
	o.AgentEnv = append(o.AgentEnv, "HOLDFAST_FAULT_CLOCK="+t.Clock)
	return o, r.mount(t, &o.Volumes)
}

// outbox is small, so that it can be filled within seconds, and large enough for
// the messages of a minute.
func (r *round) outbox() string {
	size := max(24, int(r.rate/40))
	keep := size / 2
	if r.control != "" {
		keep = 0 // what was deleted is gone
	}
	return fmt.Sprintf("outbox: {max_bytes: %dMiB, keep_bytes: %dMiB, reserve_bytes: %dMiB}\n", size, keep, size/4)
}

// mount makes the disks that this machine can make.
func (r *round) mount(t *faults.Target, v *stack.Volumes) (err error) {
	// PostgreSQL, as its own user, passes through to its disk.
	if err := os.Chmod(r.dir, 0o711); err != nil {
		return err
	}
	if r.lacks[faults.SmallDisks] == nil {
		v.Broker, v.Database = filepath.Join(r.dir, "broker"), filepath.Join(r.dir, "database")
		if t.Broker, err = disk.Bound(v.Broker, diskSize); err != nil {
			return err
		}
		r.mounts = append(r.mounts, mount{v.Broker, t.Broker.Close})
		if t.Database, err = disk.Bound(v.Database, diskSize); err != nil {
			return err
		}
		r.mounts = append(r.mounts, mount{v.Database, t.Database.Close})
	}
	if r.lacks[faults.PowerCuts] != nil {
		return nil
	}
	v.Edge = filepath.Join(r.dir, "card")
	if t.Card, err = disk.Power(v.Edge, r.rand.Uint64()); err != nil {
		return err
	}
	r.mounts = append(r.mounts, mount{v.Edge, t.Card.Close})
	// The folder itself is there before the agent is, as on a device.
	return errors.Join(os.Mkdir(filepath.Join(v.Edge, "data"), 0o700), syncFolder(v.Edge))
}

// close ends everything. What is to be kept is copied from disks that end too.
func (r *round) close(keep bool) error {
	var errs []error
	if r.stack != nil {
		errs = append(errs, r.stack.Stop())
	}
	if r.target.Intake != nil {
		errs = append(errs, r.target.Intake.Close())
	}
	for _, m := range r.mounts {
		kept := m.dir + ".kept"
		if keep {
			errs = append(errs, os.CopyFS(kept, os.DirFS(m.dir)))
		}
		errs = append(errs, m.close())
		if keep {
			errs = append(errs, os.Remove(m.dir), os.Rename(kept, m.dir))
		}
	}
	return errors.Join(errs...)
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// play lets sensors publish through all faults, and counts. A program that ended
// by itself and is not started again ends it.
func (r *round) play(ctx context.Context, hand []faults.Fault) (res roundResult, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-r.stack.Failed():
			cancel(err)
		case <-ctx.Done():
		}
	}()
	go r.memory.watch(ctx, r.stack)
	load := r.launch(ctx, "main", r.target.Intake.Addr(), faults.Load{Rate: r.rate, Size: r.size})
	for _, f := range hand {
		row := r.trial(ctx, f)
		res.Faults = append(res.Faults, row)
		if ctx.Err() != nil {
			return res, context.Cause(ctx)
		}
		r.show(len(res.Faults), len(hand), row)
		if row.Broken != "" {
			break // what follows would meet a system that is not whole
		}
	}
	r.calm.begin()
	if err := pause(ctx, calmTime); err != nil {
		return res, err
	}
	r.calm.end()
	if err := load.end(); err != nil {
		res.Broken = append(res.Broken, err.Error())
	}
	if err := r.count(ctx, &res); err != nil {
		return res, err
	}
	res.judge(r.drill)
	return res, context.Cause(ctx)
}

func (r *round) show(number, of int, row row) {
	word := "recovered after " + fmt.Sprintf("%.1f s", row.Recovered)
	if row.Broken != "" {
		word = "FAILED: " + row.Broken
	}
	r.screen.Event("%3d/%d %-22s %s (%s)", number, of, row.Fault, word, row.Evidence)
}
