package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// suite is all brokers.
type suite struct {
	options
	screen   *term.Screen
	agentEnv []string // of the agent, in addition
	root     string
	programs build.Paths
}

// run builds, plays and judges everything.
func (s *suite) run(ctx context.Context) (result, error) {
	var err error
	if s.root, err = repo.Root(); err != nil {
		return result{}, err
	}
	if err := s.build(ctx); err != nil {
		return result{}, err
	}
	dir, err := os.MkdirTemp("", "holdfast-conformance-")
	if err != nil {
		return result{}, err
	}
	s.screen.Restart()
	begin := time.Now()
	res := result{Rate: s.rate, Stock: s.stock, Brokers: s.over(ctx, dir)}
	if ctx.Err() != nil {
		return res, errors.Join(ctx.Err(), os.RemoveAll(dir))
	}
	res.Seconds = time.Since(begin).Seconds()
	res.judge(s.enough())
	s.screen.Print(report(res))
	if s.keep || !res.Passed {
		s.screen.Print(fmt.Sprintf("data and logs are kept in %s\n", dir))
		return res, nil
	}
	return res, os.RemoveAll(dir)
}

// stockDaprd is the sidecar that the Dapr project ships, at the version whose
// runtime ours is.
var stockDaprd = build.Program{
	Name: "daprd-stock", Dir: "scripts/tools/daprd-stock",
	Package: "github.com/dapr/dapr/cmd/daprd", Tags: "stablecomponents",
}

// build compiles what the stack runs.
func (s *suite) build(ctx context.Context) (err error) {
	programs := stack.Programs()
	if s.control {
		programs = append(programs, stack.FaultyAgent)
	}
	if s.stock {
		programs = append(programs, stockDaprd)
	}
	s.programs, err = build.Builder{Root: s.root, Out: s.screen, TTY: s.screen.TTY()}.Build(ctx, programs...)
	if err == nil && s.stock {
		s.programs[build.Daprd.Name] = s.programs[stockDaprd.Name]
	}
	return err
}

// enough is how many messages each broker must carry in the whole suite.
func (s *suite) enough() uint64 {
	if len(s.faults) < len(regular()) {
		return 0
	}
	return 20_000
}

// over runs each broker, so many at a time, and beside the first ones the control.
func (s *suite) over(ctx context.Context, dir string) []brokerResult {
	results := make([]brokerResult, len(s.brokers))
	var control brokerResult
	var beside sync.WaitGroup
	if s.control {
		beside.Go(func() { control = s.convict(ctx, filepath.Join(dir, "control")) })
	}
	slots := make(chan struct{}, s.parallel)
	var all sync.WaitGroup
	for i, kind := range s.brokers {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i] = s.broker(ctx, kind, filepath.Join(dir, kind.Name))
		})
	}
	all.Wait()
	beside.Wait()
	if s.control {
		results = append(results, control)
	}
	return results
}

// convict runs the control over the first broker that is installed: the whole
// suite is worth nothing if an agent that deletes too early passes it.
func (s *suite) convict(ctx context.Context, dir string) brokerResult {
	deleteOnPublish, _ := faults.Find("delete-on-publish")
	c := *s
	c.faults = []faults.Fault{deleteOnPublish}
	c.programs = maps.Clone(s.programs)
	c.programs[build.EdgeAgent.Name] = s.programs[stack.FaultyAgent.Name]
	c.agentEnv = []string{"HOLDFAST_FAULT_DELETE_ON=publish"}
	var res brokerResult
	for _, kind := range s.brokers {
		if res = c.broker(ctx, kind, dir); res.Skipped == "" {
			break
		}
	}
	res.Control = true
	return res
}

// broker runs every fault over one broker.
func (s *suite) broker(ctx context.Context, kind broker.Kind, dir string) brokerResult {
	res := brokerResult{Broker: kind.Name}
	if kind.Program != "" {
		if _, err := kind.Find(); err != nil {
			s.absent(&res, kind, err)
			return res
		}
	}
	if ctx.Err() != nil {
		return res
	}
	s.screen.Event("%-9s starting it, two sidecars, the cloud and the agent", kind.Name)
	r, err := s.start(ctx, kind, dir)
	if err == nil {
		res.Rows, err = r.watched(ctx)
		err = errors.Join(err, r.stop())
	}
	if err != nil {
		res.Error = err.Error()
		s.screen.Event("%-9s ended early: %v", kind.Name, err)
	}
	return res
}

// absent skips a broker, unless HOLDFAST_TEST_REQUIRE names it, as for tests.
func (s *suite) absent(res *brokerResult, kind broker.Kind, why error) {
	required := strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ",")
	if slices.Contains(required, kind.Name) || slices.Contains(required, strings.TrimSuffix(kind.Program, "-server")) {
		res.Error = why.Error() + ", but HOLDFAST_TEST_REQUIRE names it"
		s.screen.Event("%-9s FAILED: %s", kind.Name, res.Error)
		return
	}
	res.Skipped = why.Error()
	s.screen.Event("%-9s SKIP: %v", kind.Name, why)
}

func (s *suite) start(ctx context.Context, kind broker.Kind, dir string) (*course, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	o := stack.Options{Root: s.root, Dir: dir, Programs: s.programs, Agent: "conformance", Broker: kind, Exposed: true, AgentEnv: s.agentEnv}
	if s.stock {
		o.Restart = time.Second
		// It reads an absent variable as an empty word, which is no bool.
		o.Env = []string{"HOLDFAST_REDIS_TLS=false"}
	}
	st, err := stack.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	intake, err := st.Link(st.Edge.MQTT)
	if err != nil {
		return nil, errors.Join(err, st.Stop())
	}
	c := &course{suite: s, kind: kind, stack: st}
	c.target = &faults.Target{
		Stack: st, Intake: intake, Rate: s.rate, Stretch: stretch,
		Rand: rand.New(rand.NewPCG(rand.Uint64(), 0)), Acknowledged: c.acknowledged, Publish: c.publish,
	}
	if s.long {
		c.target.Stretch = stretchLong
	}
	return c, nil
}
