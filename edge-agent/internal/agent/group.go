package agent

import (
	"context"
	"errors"
	"fmt"
)

// part is one long-lived thing with a name for its errors.
type part struct {
	name string
	run  func(context.Context) error
}

// runAll runs the parts together and returns when all of them have returned. The
// first that returns stops the others; what they return then is joined, but for
// context.Canceled, which says nothing.
func runAll(ctx context.Context, parts ...part) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, len(parts))
	for _, p := range parts {
		go func() {
			err := p.run(ctx)
			cancel()
			if err != nil && !errors.Is(err, context.Canceled) {
				err = fmt.Errorf("%s: %w", p.name, err)
			} else {
				err = nil
			}
			results <- err
		}()
	}
	var all []error
	for range parts {
		all = append(all, <-results)
	}
	return errors.Join(all...)
}
