package patient

import (
	"context"
	"math/rand/v2"
	"time"

	mdutils "github.com/dapr/components-contrib/metadata"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/retry"
)

const (
	firstWait = 500 * time.Millisecond
	maxWait   = 10 * time.Second // people wait for the end of an outage; a thousand edges are then 200 attempts a second

	firstPause = 250 * time.Millisecond
	maxPause   = 5 * time.Second
)

// backoff is full jitter: a wait of anything up to a bound that doubles. Its zero value is ready.
type backoff struct{ bound time.Duration }

func (b *backoff) reset() { b.bound = 0 }

func (b *backoff) sleep(ctx context.Context) {
	b.bound = min(max(2*b.bound, firstWait), maxWait)
	retry.Sleep(ctx, rand.N(b.bound))
}

// pause is how long the n-th refusal in a row is held back: 125 to 250 ms, doubling up to 2.5 to 5 s.
func pause(n int32) time.Duration {
	d := maxPause
	if n < 8 {
		d = min(firstPause<<max(n-1, 0), maxPause)
	}
	return d/2 + rand.N(d/2)
}

func base(props map[string]string) mdutils.Base { return mdutils.Base{Properties: props} }
