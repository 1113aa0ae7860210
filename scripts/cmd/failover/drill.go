package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
	"github.com/holdfast-edge/holdfast/scripts/internal/postgres"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// perRound is after how many faults everything is counted and begun afresh: what
// is kept of a round, in memory and on the disk, is bounded by it.
const perRound = 40

// drill is one run of this program.
type drill struct {
	options
	screen   *term.Screen
	root     string
	programs build.Paths
	postgres *postgres.Programs // nil: SQLite
	lacks    map[faults.Need]error
	rand     *rand.Rand
}

// run builds, plays rounds, and judges.
func (d *drill) run(ctx context.Context) (res result, err error) {
	if d.root, err = repo.Root(); err != nil {
		return res, err
	}
	if err := d.survey(); err != nil {
		return res, err
	}
	if err := d.build(ctx); err != nil {
		return res, err
	}
	res = result{Seed: d.seed, Broker: d.broker.Name, Store: d.storeName(), Rate: d.rate, Control: d.control}
	d.rand = rand.New(rand.NewPCG(d.seed, 0))
	d.screen.Restart()
	begin := time.Now()
	kinds, skipped := d.kinds()
	res.Skipped = skipped
	if len(kinds) == 0 {
		return res, errors.New("none of the faults can be played here")
	}
	d.screen.Event("seed %d, over %s and %s", d.seed, d.broker.Name, d.storeName())
	for _, s := range skipped {
		d.screen.Event("SKIP %s: %s", s.Fault, s.Why)
	}
	for number, hand := range d.hands(kinds, begin) {
		r, err := d.round(ctx, number, hand)
		if err != nil {
			return res, err
		}
		res.Rounds = append(res.Rounds, r)
		if !r.Passed {
			break
		}
	}
	res.Seconds = time.Since(begin).Seconds()
	res.judge()
	d.screen.Print(report(res))
	return res, nil
}

// hands yields what is played in each round.
func (d *drill) hands(kinds []faults.Fault, begin time.Time) func(func(int, []faults.Fault) bool) {
	return func(yield func(int, []faults.Fault) bool) {
		if d.length == 0 {
			all := draw(kinds, d.count, d.seed, d.rand)
			if d.control != "" {
				all = kinds
			}
			number := 1
			for hand := range slices.Chunk(all, perRound) {
				if !yield(number, hand) {
					return
				}
				number++
			}
			return
		}
		for number := 1; time.Since(begin) < d.length; number++ {
			if !yield(number, draw(kinds, min(perRound, len(kinds)), d.seed, d.rand)) {
				return
			}
		}
	}
}

// survey finds out what this machine has.
func (d *drill) survey() (err error) {
	d.lacks = map[faults.Need]error{}
	if d.broker.Name == broker.Mosquitto().Name {
		d.lacks[faults.KeptFrames] = errors.New("over MQTT the sidecars' sessions are clean ones, for which a broker keeps nothing")
	}
	if d.store != "sqlite" {
		found, err := postgres.Find()
		switch {
		case err == nil:
			d.postgres = &found
		case d.store == "postgres" || required("postgresql"):
			return err
		}
	}
	if d.postgres == nil {
		err := errors.New("the store is SQLite")
		d.lacks[faults.Postgres], d.lacks[faults.Replicas] = err, err
	}
	probe, err := os.MkdirTemp("", "holdfast-failover-probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(probe)) }()
	if small, err := disk.Bound(filepath.Join(probe, "small"), 1<<20); err != nil {
		d.lacks[faults.SmallDisks] = err
	} else if err := small.Close(); err != nil {
		return err
	}
	if card, err := disk.Power(filepath.Join(probe, "card"), 1); err != nil {
		d.lacks[faults.PowerCuts] = err
	} else if err := card.Close(); err != nil {
		return err
	}
	if err := errors.Join(d.lacks[faults.PowerCuts], d.lacks[faults.SmallDisks]); err != nil && required("fuse") {
		return err
	}
	return nil
}

// required reports whether HOLDFAST_TEST_REQUIRE has the name.
func required(name string) bool {
	return slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), name)
}

func (d *drill) build(ctx context.Context) (err error) {
	programs := slices.DeleteFunc(stack.Programs(), func(p build.Program) bool { return p == build.EdgeAgent })
	d.programs, err = build.Builder{Root: d.root, Out: d.screen, TTY: d.screen.TTY()}.Build(ctx, append(programs, stack.FaultyAgent)...)
	if err == nil {
		d.programs[build.EdgeAgent.Name] = d.programs[stack.FaultyAgent.Name]
	}
	return err
}

func (d *drill) storeName() string {
	if d.postgres == nil {
		return "sqlite"
	}
	return "postgres"
}

// kinds are the faults that can be played here, and those that cannot.
func (d *drill) kinds() (kinds []faults.Fault, skipped []skip) {
	skipped = []skip{} // in JSON a list, also when it is empty
	names := d.only
	if d.control != "" {
		// What the broker has taken must be gone while only the broker has it.
		names = []string{"broker-wiped", "cloud-sidecar-killed", "broker-wiped"}
	}
	all := faults.All()
	if len(names) > 0 {
		all = nil
		for _, name := range names {
			f, _ := faults.Find(name) // the flags were checked
			all = append(all, f)
		}
	}
	for _, f := range all {
		i := slices.IndexFunc(f.Needs, func(n faults.Need) bool { return d.lacks[n] != nil })
		if i < 0 {
			kinds = append(kinds, f)
			continue
		}
		skipped = append(skipped, skip{f.Name, fmt.Sprintf("it needs %s: %v", f.Needs[i], d.lacks[f.Needs[i]])})
	}
	return kinds, skipped
}
