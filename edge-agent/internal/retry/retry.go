// Package retry is the pause between two tries of what is tried for ever.
package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// Pause grows from First by doubling to Last. Half of each is random, so that
// devices which lost the same thing at the same moment do not come back in step.
// First and Last must be positive. A Pause is one goroutine's alone.
type Pause struct {
	First, Last time.Duration

	next time.Duration
}

// Next returns the longest that the next Sleep may take.
func (p *Pause) Next() time.Duration {
	if p.next == 0 {
		return p.First
	}
	return p.next
}

// Sleep pauses, for longer the next time. It reports whether ctx goes on.
func (p *Pause) Sleep(ctx context.Context) bool {
	d := p.Next()
	p.next = min(2*d, p.Last)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Reset begins with First again.
func (p *Pause) Reset() { p.next = 0 }

// Longest goes on with Last: nothing will change by itself.
func (p *Pause) Longest() { p.next = p.Last }
