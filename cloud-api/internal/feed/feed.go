// Package feed shows readings as they come in, to any number of watchers up to a
// bound. It asks the store a few times a second which epochs grew, so it shows
// what every replica stored, and nobody who watches slowly holds up another.
package feed

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

var (
	// ErrFull is returned by Watch when there are as many watchers as there may be.
	ErrFull = errors.New("as many are watching as can")
	// ErrClosed is returned by Watch while the server stops.
	ErrClosed = errors.New("feed is closed")
)

const (
	// Interval is how often the store is asked while somebody watches.
	Interval = 300 * time.Millisecond
	// epochs is how many epochs are looked at: with one live epoch an agent, so
	// many agents that send within an interval.
	epochs = 200
	// burst is how many readings of one epoch are shown after an interval; of a
	// faster one only the newest. A person reads fewer.
	burst = 200
	// buffer is how many batches a watcher may be behind before it is dropped.
	buffer = 64
	// maxResume bounds what is repeated to a watcher that comes back.
	maxResume = 2000
)

// Store is what the feed reads.
type Store interface {
	Newest(ctx context.Context, limit int) ([]store.EpochRef, error)
	Readings(ctx context.Context, q store.Query) (store.Page, error)
}

// Options is what a Feed needs.
type Options struct {
	Store      Store
	Watchers   int // at most; 0: 500
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Feed is the one loop that all watchers share.
type Feed struct {
	opt      Options
	watching prometheus.Gauge
	dropped  prometheus.Counter

	mu       sync.Mutex
	watchers map[*Watcher]struct{}
	closed   bool
	wake     chan struct{} // capacity 1: the first watcher came
	top      map[int64]uint64
}

// Watcher gets batches of readings in the order they were received. C is closed
// when the watcher was too slow, or the feed ends.
type Watcher struct {
	C    <-chan []store.Reading
	c    chan []store.Reading
	feed *Feed
}

// New returns a Feed; Run makes it work.
func New(o Options) *Feed {
	if o.Watchers <= 0 {
		o.Watchers = 500
	}
	f := &Feed{
		opt: o, watchers: map[*Watcher]struct{}{}, wake: make(chan struct{}, 1),
		watching: prometheus.NewGauge(prometheus.GaugeOpts{Name: "cloud_feed_watchers", Help: "Connections that watch live readings."}),
		dropped:  prometheus.NewCounter(prometheus.CounterOpts{Name: "cloud_feed_dropped_total", Help: "Watchers dropped because they read too slowly."}),
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(f.watching, f.dropped)
	}
	return f
}

// Watch begins to watch. since is the received time, in Unix nanoseconds, of the
// last reading that the caller has; what came after it is repeated as far as it
// is recent. 0: only what comes from now on. It returns ErrFull or ErrClosed.
func (f *Feed) Watch(ctx context.Context, since int64) (*Watcher, error) {
	c := make(chan []store.Reading, buffer)
	w := &Watcher{C: c, c: c, feed: f}
	if since > 0 {
		// Read before joining: one reading may come twice, none is left out.
		missed, err := f.missed(ctx, since)
		if err != nil {
			return nil, err
		}
		if len(missed) > 0 {
			c <- missed
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, ErrClosed
	case len(f.watchers) >= f.opt.Watchers:
		return nil, ErrFull
	}
	f.watchers[w] = struct{}{}
	f.watching.Set(float64(len(f.watchers)))
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return w, nil
}

// Close ends the watcher. It may be called more than once.
func (w *Watcher) Close() {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	w.feed.remove(w)
}

// remove closes a watcher that is there; f.mu is held.
func (f *Feed) remove(w *Watcher) {
	if _, ok := f.watchers[w]; ok {
		delete(f.watchers, w)
		close(w.c)
		f.watching.Set(float64(len(f.watchers)))
	}
}

// Run asks the store while somebody watches, until ctx ends. It then ends every
// watcher and returns nil.
func (f *Feed) Run(ctx context.Context) error {
	defer f.end()
	t := time.NewTicker(Interval)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if !f.wanted() {
			f.top = nil
			select { // sleep until somebody watches
			case <-ctx.Done():
				return nil
			case <-f.wake:
			}
		}
		err := f.poll(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			f.opt.Logger.Warn("feed: cannot read, retrying", "error", err)
		}
		failing = err != nil
	}
}

func (f *Feed) wanted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.watchers) > 0
}

func (f *Feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for w := range f.watchers {
		f.remove(w)
	}
}

// poll shows what is new above the highest seq that was seen of each epoch. What
// is seen for the first time when the loop begins is not new.
func (f *Feed) poll(ctx context.Context) error {
	list, err := f.opt.Store.Newest(ctx, epochs)
	if err != nil {
		return err
	}
	first := f.top == nil
	if first {
		f.top = map[int64]uint64{}
	}
	var fresh []store.Reading
	for _, e := range list {
		was := f.top[e.ID]
		if !first && e.Top > was {
			got, err := f.above(ctx, e, was)
			if err != nil {
				return err
			}
			fresh = append(fresh, got...)
		}
		f.top[e.ID] = max(was, e.Top)
	}
	if len(fresh) > 0 {
		f.show(inOrder(fresh))
	}
	return nil
}

// above returns the newest readings of an epoch above seq.
func (f *Feed) above(ctx context.Context, e store.EpochRef, seq uint64) ([]store.Reading, error) {
	p, err := f.opt.Store.Readings(ctx, store.Query{Agent: e.Agent, Epoch: e.Epoch, Desc: true, Limit: burst})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(p.Readings, func(r store.Reading) bool { return r.Seq <= seq }), nil
}

// inOrder sorts by received time, then by place.
func inOrder(list []store.Reading) []store.Reading {
	slices.SortFunc(list, func(a, b store.Reading) int {
		return cmp.Or(cmp.Compare(a.Received, b.Received), cmp.Compare(a.Agent, b.Agent), telemetry.Epoch.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq))
	})
	return list
}

// show hands a batch to every watcher, and drops those that are too far behind.
func (f *Feed) show(batch []store.Reading) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		select {
		case w.c <- batch:
		default:
			f.dropped.Inc()
			f.remove(w)
		}
	}
}

// missed returns what was received after since, the newest first cut.
func (f *Feed) missed(ctx context.Context, since int64) ([]store.Reading, error) {
	list, err := f.opt.Store.Newest(ctx, epochs)
	if err != nil {
		return nil, err
	}
	var out []store.Reading
	for _, e := range list {
		if e.Last <= since {
			break // the rest was heard of before
		}
		got, err := f.above(ctx, e, 0)
		if err != nil {
			return nil, err
		}
		out = append(out, slices.DeleteFunc(got, func(r store.Reading) bool { return r.Received <= since })...)
	}
	out = inOrder(out)
	return out[max(0, len(out)-maxResume):], nil
}
