package feed

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// table is a store of one agent with some epochs.
type table struct {
	mu     sync.Mutex
	rows   []store.Reading
	asked  int
	broken error
}

func epoch(n uint64) telemetry.Epoch { return telemetry.Epoch{Ordinal: n} }

func (s *table) add(e, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows = append(s.rows, store.Reading{Agent: "a", Epoch: epoch(e), Seq: seq, Received: time.Now().UnixNano()})
}

func (s *table) Newest(context.Context, int) ([]store.EpochRef, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	var out []store.EpochRef
	for _, r := range s.rows {
		i := slices.IndexFunc(out, func(e store.EpochRef) bool { return e.Epoch == r.Epoch })
		if i < 0 {
			out = append(out, store.EpochRef{ID: int64(r.Epoch.Ordinal), Agent: "a", Epoch: r.Epoch})
			i = len(out) - 1
		}
		out[i].Top, out[i].Last = max(out[i].Top, r.Seq), max(out[i].Last, r.Received)
	}
	slices.SortFunc(out, func(a, b store.EpochRef) int { return int(b.Last - a.Last) })
	return out, s.broken
}

func (s *table) Readings(_ context.Context, q store.Query) (p store.Page, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if r.Epoch == q.Epoch {
			p.Readings = append(p.Readings, r)
		}
	}
	slices.SortFunc(p.Readings, func(a, b store.Reading) int { return int(b.Seq) - int(a.Seq) })
	p.Readings = p.Readings[:min(len(p.Readings), q.Limit)]
	return p, nil
}

func run(t *testing.T, watchers int, f func(t *testing.T, s *table, feed *Feed)) {
	synctest.Test(t, func(t *testing.T) {
		s := &table{}
		feed := New(Options{Store: s, Watchers: watchers, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- feed.Run(ctx) }()
		f(t, s, feed)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func watch(t *testing.T, f *Feed, since int64) *Watcher {
	t.Helper()
	w, err := f.Watch(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * Interval)
	synctest.Wait()
	return w
}

// seqs waits and returns what a watcher got.
func seqs(w *Watcher) (out []uint64) {
	time.Sleep(2 * Interval)
	synctest.Wait()
	for {
		select {
		case batch, ok := <-w.C:
			if !ok {
				return append(out, 0)
			}
			for _, r := range batch {
				out = append(out, r.Seq)
			}
		default:
			return out
		}
	}
}

// A watcher sees what comes after it began, in order, once, and not what was
// there before.
func TestWatcherSeesWhatIsNew(t *testing.T) {
	run(t, 0, func(t *testing.T, s *table, f *Feed) {
		s.add(1, 1)
		w := watch(t, f, 0)
		s.add(1, 2)
		s.add(1, 3)
		if got := seqs(w); !slices.Equal(got, []uint64{2, 3}) {
			t.Errorf("%v", got)
		}
		s.add(2, 1) // a new epoch
		s.add(1, 4)
		if got := seqs(w); len(got) != 2 {
			t.Errorf("%v", got)
		}
		if got := seqs(w); len(got) != 0 {
			t.Errorf("again: %v", got)
		}
	})
}

// One that comes back gets what it missed.
func TestResumeRepeatsWhatWasMissed(t *testing.T) {
	run(t, 0, func(t *testing.T, s *table, f *Feed) {
		s.add(1, 1)
		time.Sleep(time.Second)
		since := time.Now().UnixNano()
		time.Sleep(time.Second)
		s.add(1, 2)
		s.add(1, 3)
		w := watch(t, f, since)
		if got := seqs(w); !slices.Equal(got, []uint64{2, 3}) {
			t.Errorf("%v", got)
		}
	})
}

// A watcher that does not read is dropped and holds up nobody.
func TestSlowWatcherIsDropped(t *testing.T) {
	run(t, 0, func(t *testing.T, s *table, f *Feed) {
		slow, fast := watch(t, f, 0), watch(t, f, 0)
		var got []uint64
		for seq := uint64(1); seq <= buffer+5; seq++ {
			s.add(1, seq)
			got = append(got, seqs(fast)...)
		}
		if len(got) != buffer+5 {
			t.Errorf("the fast one got %d", len(got))
		}
		if got := seqs(slow); len(got) != buffer+1 || got[buffer] != 0 {
			t.Errorf("the slow one got %d and then %v", len(got), got[len(got)-1])
		}
		if n := testutil.ToFloat64(f.dropped); n != 1 {
			t.Errorf("%v dropped", n)
		}
		slow.Close()
	})
}

// No more watch than may, and who goes makes room.
func TestWatchersAreBounded(t *testing.T) {
	run(t, 2, func(t *testing.T, _ *table, f *Feed) {
		a := watch(t, f, 0)
		watch(t, f, 0)
		if _, err := f.Watch(t.Context(), 0); !errors.Is(err, ErrFull) {
			t.Errorf("%v", err)
		}
		a.Close()
		a.Close()
		watch(t, f, 0)
	})
}

// While nobody watches the store is left alone.
func TestNobodyWatchesNobodyAsks(t *testing.T) {
	run(t, 0, func(t *testing.T, s *table, f *Feed) {
		time.Sleep(time.Minute)
		if s.asked != 0 {
			t.Errorf("asked %d times", s.asked)
		}
		w := watch(t, f, 0)
		w.Close()
		time.Sleep(time.Minute)
		if s.asked > 10 {
			t.Errorf("asked %d times after the last one went", s.asked)
		}
		// What came meanwhile is not new to the next one.
		s.add(1, 1)
		if got := seqs(watch(t, f, 0)); len(got) != 0 {
			t.Errorf("%v", got)
		}
	})
}

// A store that fails for a while is asked again.
func TestFailureIsTriedAgain(t *testing.T) {
	run(t, 0, func(t *testing.T, s *table, f *Feed) {
		w := watch(t, f, 0)
		s.mu.Lock()
		s.broken = errors.New("away")
		s.mu.Unlock()
		time.Sleep(time.Second)
		s.mu.Lock()
		s.broken = nil
		s.mu.Unlock()
		s.add(1, 1)
		if got := seqs(w); !slices.Equal(got, []uint64{1}) {
			t.Errorf("%v", got)
		}
	})
}

// The end closes every watcher, and nobody begins to watch after it.
func TestEndClosesWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(Options{Store: &table{}, Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = f.Run(ctx) }()
		w := watch(t, f, 0)
		cancel()
		if _, ok := <-w.C; ok {
			t.Error("still open")
		}
		if _, err := f.Watch(t.Context(), 0); !errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}
