package patient

import (
	"context"
	"math/rand/v2"
	"time"

	mdutils "github.com/dapr/components-contrib/metadata"
)

const (
	firstWait = 500 * time.Millisecond
	maxWait   = 30 * time.Second
)

// backoff is full jitter: a wait of anything up to a bound that doubles. Its zero value is ready.
type backoff struct{ bound time.Duration }

func (b *backoff) reset() { b.bound = 0 }

func (b *backoff) sleep(ctx context.Context) {
	b.bound = min(max(2*b.bound, firstWait), maxWait)
	t := time.NewTimer(rand.N(b.bound))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func base(props map[string]string) mdutils.Base { return mdutils.Base{Properties: props} }
