package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// part is one long-lived thing, with a name for its errors.
type part struct {
	name string
	run  func(context.Context) error
}

// runStages runs all parts together. When ctx ends or the first part returns,
// the stages stop one after the other, in the order given: each is told to, and
// has returned, before the next one is told. What parts return is joined, but
// for context.Canceled, which says nothing.
func runStages(ctx context.Context, stages ...[]part) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	var all []error
	ends := make([]func(), len(stages))
	for i, stage := range stages {
		stageCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		var group sync.WaitGroup
		for _, p := range stage {
			group.Go(func() {
				defer stop()
				if err := p.run(stageCtx); err != nil && !errors.Is(err, context.Canceled) {
					mu.Lock()
					defer mu.Unlock()
					all = append(all, fmt.Errorf("%s: %w", p.name, err))
				}
			})
		}
		ends[i] = func() { cancel(); group.Wait() }
	}
	<-ctx.Done()
	for _, end := range ends {
		end()
	}
	return errors.Join(all...)
}
