package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/link"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// suite is all brokers.
type suite struct {
	options
	screen   *term.Screen
	root     string
	programs build.Paths
}

// run builds, plays and judges everything.
func (s *suite) run(ctx context.Context) (result, error) {
	var err error
	if s.root, err = repo.Root(); err != nil {
		return result{}, err
	}
	s.programs, err = build.Builder{Root: s.root, Out: s.screen, TTY: s.screen.TTY()}.Build(ctx, stack.Programs()...)
	if err != nil {
		return result{}, err
	}
	dir, err := os.MkdirTemp("", "holdfast-conformance-")
	if err != nil {
		return result{}, err
	}
	s.screen.Restart()
	begin := time.Now()
	res := result{Rate: s.rate, Brokers: s.over(ctx, dir)}
	if ctx.Err() != nil {
		return res, errors.Join(ctx.Err(), os.RemoveAll(dir))
	}
	res.Seconds = time.Since(begin).Seconds()
	res.judge()
	s.screen.Print(report(res))
	if s.keep || !res.Passed {
		s.screen.Print(fmt.Sprintf("data and logs are kept in %s\n", dir))
		return res, nil
	}
	return res, os.RemoveAll(dir)
}

// over runs each broker, so many at a time.
func (s *suite) over(ctx context.Context, dir string) []brokerResult {
	results := make([]brokerResult, len(s.brokers))
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
	return results
}

// broker runs every fault over one broker.
func (s *suite) broker(ctx context.Context, kind broker.Kind, dir string) brokerResult {
	res := brokerResult{Broker: kind.Name}
	if kind.Program != "" {
		if _, err := kind.Find(); err != nil {
			res.Skipped = err.Error()
			s.screen.Event("%-9s SKIP: %v", kind.Name, err)
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
		s.screen.Event("%-9s %v", kind.Name, err)
	}
	return res
}

func (s *suite) start(ctx context.Context, kind broker.Kind, dir string) (*course, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	st, err := stack.Start(ctx, stack.Options{
		Root: s.root, Dir: dir, Programs: s.programs, Agent: "conformance", Broker: kind, Exposed: true,
	})
	if err != nil {
		return nil, err
	}
	intake, err := link.Listen("127.0.0.1:0", st.Edge.MQTT)
	if err != nil {
		return nil, errors.Join(err, st.Stop())
	}
	return &course{suite: s, kind: kind, stack: st, intake: intake}, nil
}
