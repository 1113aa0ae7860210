// Package faults knows what may happen to a device, a network, a broker, a cloud
// and its database, and does it to a stack that is at work. Each fault makes good
// what it broke, as people, systemd and Kubernetes would, and brings evidence that
// it took place.
package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/device"
	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/link"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

// Fault is something that may happen.
type Fault struct {
	Name  string
	About string
	Needs []Need   // of the machine and the stack
	Must  []string // kinds of alarm that the cloud must raise
	May   []string // kinds that it may; it must raise no others
	Ends  []string // programs that may end by themselves, and are started again
	// Control: acknowledged messages must be found missing, for it does what
	// nothing can make good.
	Control bool

	// Does does it, and returns when it is over, with words that prove it.
	Does func(ctx context.Context, t *Target) (evidence string, err error)
}

// Need is something that not every machine or stack has.
type Need string

// The needs.
const (
	Postgres     Need = "PostgreSQL with a standby"
	Replicas     Need = "several replicas of the cloud"
	KeptFrames   Need = "a broker that stores on its disk"
	SmallDisks   Need = "disks of a bounded size"
	PowerCuts    Need = "a disk whose power can be cut"
	SteeredClock Need = "an agent whose clock can be steered (build tag faults)"
)

// Target is a stack under load.
type Target struct {
	Stack   *stack.Stack
	Intake  *link.Link // between the sensors and the agent
	Rate    float64    // messages a second
	Stretch float64    // faults last so many times as long; 0: once
	Rand    *rand.Rand

	Card     *disk.Cuttable // under the agent's data; nil: an ordinary one
	Broker   *disk.Small    // under the broker's; nil: an ordinary one
	Database *disk.Small    // under the cloud's; nil: an ordinary one
	Clock    string         // file that steers the agent's clock; empty: it cannot be

	// Acknowledged is how many messages sensors have a PUBACK for.
	Acknowledged func() uint64
	// Publish lets more sensors publish, at addr, until the load's end.
	Publish func(ctx context.Context, name, addr string, l Load) (end func() error)
	// Apart is the same with messages of which some will be lost on purpose: they
	// are no part of the count in the end, but counted by whoever asked for them.
	Apart func(ctx context.Context, name, addr string, l Load) (end func() error, count func(context.Context, string) (oracle.Findings, error))
}

// Load is what more sensors publish.
type Load struct {
	Rate float64 // messages a second
	Size int     // bytes a message; 0: as short as they come
}

// CatchUp is how long anything may take that is sure to come. It is long because
// it only decides how soon a failure is called one: on two cores with much else to
// do everything takes its time.
const CatchUp = 3 * time.Minute

// All are the faults of a drill, in no order that matters.
func All() []Fault {
	return slices.Concat(network(), brokers(), programs(), databases(), cards(), disks(), clocks(), deliveries())
}

// Find returns the fault with that name, of a drill or of the suite.
func Find(name string) (Fault, bool) {
	all := slices.Concat(All(), thorough())
	i := slices.IndexFunc(all, func(f Fault) bool { return f.Name == name })
	if i < 0 {
		return Fault{}, false
	}
	return all[i], true
}

// some returns a time from least to most.
func (t *Target) some(least, most time.Duration) time.Duration {
	d := least + time.Duration(t.Rand.Int64N(int64(most-least)+1))
	if t.Stretch > 0 {
		d = time.Duration(float64(d) * t.Stretch)
	}
	return d.Round(10 * time.Millisecond)
}

// waiting is how many records on the device no receipt covers.
func (t *Target) waiting(ctx context.Context) (uint64, error) {
	status, err := device.Get(ctx, t.Stack.Edge.Status)
	return status.Waiting, err
}

// held is how many records the cloud has.
func (t *Target) held(ctx context.Context) (uint64, error) {
	agent, err := t.Stack.Client().Agent(ctx, t.Stack.Edge.ID)
	return agent.Held, err
}

// until polls ok, whose errors pass with what was broken.
func until(ctx context.Context, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, CatchUp)
	defer cancel()
	for {
		done, err := ok()
		if done && err == nil {
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			if err == nil {
				err = ctx.Err()
			}
			return fmt.Errorf("waited %v for %s: %w", CatchUp, what, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// sidecars are those of the cloud.
func (t *Target) sidecars() (all []*process.Process) {
	for _, r := range t.Stack.Cloud.Replicas() {
		all = append(all, r.Sidecar)
	}
	return all
}

// clouds are the processes of all replicas.
func (t *Target) clouds() (all []*process.Process) {
	for _, r := range t.Stack.Cloud.Replicas() {
		all = append(all, r.API)
	}
	return all
}

// each does the same to several programs.
func each(programs []*process.Process, do func(*process.Process) error) error {
	for _, p := range programs {
		if err := do(p); err != nil {
			return err
		}
	}
	return nil
}
