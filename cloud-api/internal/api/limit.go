package api

import (
	"sync"
	"time"
)

const (
	// callsPerSecond is what a caller may ask for in the long run, and burst how
	// much at once: a page of the dashboard makes some ten calls.
	callsPerSecond = 50
	burst          = 200
	// maxBuckets bounds the callers remembered.
	maxBuckets = 20_000
)

// limiter is a token bucket for each caller.
type limiter struct {
	mu      sync.Mutex
	buckets map[string]*bucket
}

type bucket struct {
	calls float64
	at    time.Time
}

func newLimiter() *limiter { return &limiter{buckets: map[string]*bucket{}} }

// allow takes one call from the caller's bucket and reports whether there was one.
func (l *limiter) allow(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	b, ok := l.buckets[key]
	if !ok {
		if len(l.buckets) >= maxBuckets {
			l.forget(now)
		}
		b = &bucket{calls: burst, at: now}
		l.buckets[key] = b
	}
	b.calls = min(burst, b.calls+now.Sub(b.at).Seconds()*callsPerSecond)
	b.at = now
	if b.calls < 1 {
		return false
	}
	b.calls--
	return true
}

// forget drops the buckets that are full again: they are as good as new. If none
// is, all go: so many callers at once are no caller's fault.
func (l *limiter) forget(now time.Time) {
	for k, b := range l.buckets {
		if b.calls+now.Sub(b.at).Seconds()*callsPerSecond >= burst {
			delete(l.buckets, k)
		}
	}
	if len(l.buckets) >= maxBuckets {
		clear(l.buckets)
	}
}
