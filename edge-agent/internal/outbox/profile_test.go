package outbox

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// commits returns how many commits an outbox made, and of how many records.
func commits(tb testing.TB, reg *prometheus.Registry) (count uint64, records float64) {
	tb.Helper()
	all, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == "edge_outbox_commit_records" {
			h := f.GetMetric()[0].GetHistogram()
			return h.GetSampleCount(), h.GetSampleSum()
		}
	}
	tb.Fatal("no such metric")
	return 0, 0
}

// wearing is an outbox with the wear profile, in a bubble where time is the test's.
func wearing(t *testing.T, dir string, change func(*Options)) (x *opened, reg *prometheus.Registry) {
	t.Helper()
	reg = prometheus.NewRegistry()
	o := Options{Dir: dir, Profile: Wear, Registerer: reg, noSync: true}
	change(&o)
	x = open(t, o)
	x.append(reading("t", "first"))
	time.Sleep(time.Second)
	return x, reg
}

// With the wear profile a steady trickle is committed once in an interval, whatever
// the interval, and nothing waits for longer than that.
func TestWearCommitsOnceInAnInterval(t *testing.T) {
	for _, interval := range []time.Duration{0, 50 * time.Millisecond, time.Second, 10 * time.Second} {
		dir := memoryDir(t)
		synctest.Test(t, func(t *testing.T) {
			x, reg := wearing(t, dir, func(o *Options) { o.Interval = interval })
			want := interval
			if want == 0 {
				want = 250 * time.Millisecond
			}
			before, _ := commits(t, reg)
			var mu sync.Mutex
			var longest time.Duration
			const rounds = 20
			for start := time.Now(); time.Since(start) < rounds*want; time.Sleep(want / 25) {
				from := time.Now()
				if err := x.Submit(t.Context(), reading("t", "drop by drop"), func(uint64, error) {
					mu.Lock()
					defer mu.Unlock()
					longest = max(longest, time.Since(from))
				}); err != nil {
					t.Fatal(err)
				}
			}
			after, _ := commits(t, reg)
			if n := after - before; n < rounds-2 || n > rounds+2 {
				t.Errorf("interval %s: %d commits in %d intervals", want, n, rounds)
			}
			mu.Lock()
			defer mu.Unlock()
			if longest > want+want/10 {
				t.Errorf("interval %s: an acknowledgement took %s", want, longest)
			}
		})
	}
}

// A commit's worth of bytes does not wait for the interval, nor do records that
// somebody waits behind, nor what is queued when the outbox ends.
func TestWearDoesNotWaitForNothing(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Options)
		act    func(t *testing.T, x *opened) (acknowledged func() int)
		want   int
	}{
		"a commit's worth of bytes": {
			func(o *Options) { o.QueueBytes = 64 << 20 },
			func(t *testing.T, x *opened) func() int { return submit(t, x, 5, batchBytes/4) }, 3,
		},
		"a commit's worth of records": {
			func(o *Options) { o.QueueRecords = 3 * batchRecords },
			func(t *testing.T, x *opened) func() int { return submit(t, x, batchRecords+1, 1) }, batchRecords,
		},
		"somebody waits for room in the queue": {
			func(o *Options) { o.QueueRecords = 10 },
			func(t *testing.T, x *opened) func() int {
				n := submit(t, x, 10, 1)
				go func() { _, _ = x.Append(t.Context(), reading("t", "behind them")) }()
				return n
			}, 10,
		},
		"Flush": {
			func(*Options) {},
			func(t *testing.T, x *opened) func() int { n := submit(t, x, 7, 1); x.Flush(); return n }, 7,
		},
		"the end": {
			func(*Options) {},
			func(t *testing.T, x *opened) func() int { n := submit(t, x, 7, 1); x.end(); return n }, 7,
		},
	} {
		dir := memoryDir(t)
		synctest.Test(t, func(t *testing.T) {
			x, _ := wearing(t, dir, func(o *Options) { o.Interval = time.Hour; c.change(o) })
			start := time.Now()
			acknowledged := c.act(t, x)
			synctest.Wait()
			if n := acknowledged(); n < c.want || time.Since(start) > time.Second {
				t.Errorf("%s: %d of %d are acknowledged after %s", name, n, c.want, time.Since(start))
			}
		})
	}
}

// submit submits n readings of some size, and returns what tells how many of them are
// acknowledged.
func submit(tb testing.TB, x *opened, n, size int) func() int {
	tb.Helper()
	var mu sync.Mutex
	done := 0
	for range n {
		if err := x.Submit(tb.Context(), reading("t", strings.Repeat("s", size)), func(_ uint64, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done++
			}
		}); err != nil {
			tb.Fatal(err)
		}
	}
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return done
	}
}

// The latency profile never waits: one record alone is committed at once, and those
// that came meanwhile together, in commits of bounded size.
func TestLatencyCommitsAtOnceAndTogether(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		x, reg := wearing(t, dir, func(o *Options) { o.Profile, o.QueueRecords = Latency, 20_000 })
		before, _ := commits(t, reg)
		for range 5 {
			start := time.Now()
			x.append(reading("t", "alone"))
			if d := time.Since(start); d > 0 {
				t.Errorf("one alone waited %s", d)
			}
		}
		alone, _ := commits(t, reg)
		if n := alone - before; n != 5 {
			t.Errorf("5 records, each alone, took %d commits", n)
		}
		drafts := make([]Draft, 10_000)
		for i := range drafts {
			drafts[i] = reading("t", fmt.Sprint(i))
		}
		x.append(drafts...)
		all, _ := commits(t, reg)
		if n := all - alone; n < 3 || n > 4 { // 4096 a commit
			t.Errorf("10 000 records at once took %d commits", n)
		}
	})
}

// The time to full is that of the bytes that come in: an hour's worth of room lasts
// about an hour, is never more than there is, and grows when receipts give room back.
func TestTimeToFullFollowsWhatComesIn(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		x := open(t, Options{Dir: dir, MaxBytes: 8 << 20, SegmentBytes: 512 << 10, noSync: true})
		const size, every = 4000, 4 * time.Second // 1 000 bytes a second, and what a record takes besides
		for start := time.Now(); time.Since(start) < 20*time.Minute; time.Sleep(every) {
			x.append(reading("t", strings.Repeat("f", size)))
		}
		s := x.Stats()
		left := time.Duration(float64(s.MaxBytes-s.Unreceipted) / (float64(size) / every.Seconds()) * float64(time.Second))
		if s.TimeToFull < left*7/10 || s.TimeToFull > left*15/10 {
			t.Errorf("full in %s; at 1 000 bytes a second there is room for %s", s.TimeToFull, left)
		}
		x.receipt(s.Durable, issued)
		synctest.Wait()
		if more := x.Stats().TimeToFull; more <= s.TimeToFull {
			t.Errorf("full in %s, and in %s after all of it was receipted", s.TimeToFull, more)
		}
		time.Sleep(time.Hour)
		if s := x.Stats(); s.TimeToFull >= 0 {
			t.Errorf("full in %s, and nothing came in for an hour", s.TimeToFull)
		}
	})
}

// However many producers there are and however long the disk takes, no more is held
// in memory than the queue's bounds: the rest wait, and go when their context ends.
func TestIntakeIsBounded(t *testing.T) {
	for _, c := range []struct {
		records int
		bytes   int64
		size    int
	}{{50, 1 << 30, 10}, {1 << 20, 200_000, 10_000}, {3, 1 << 20, 300_000}} {
		dir := memoryDir(t)
		synctest.Test(t, func(t *testing.T) {
			box := still(t, Options{Dir: dir, QueueRecords: c.records, QueueBytes: c.bytes}) // its disk never answers
			const producers = 100
			results := make(chan error, producers)
			for range producers {
				go func() { // each of them until it is stopped
					for {
						err := box.Submit(t.Context(), reading("t", strings.Repeat("i", c.size)), func(uint64, error) {})
						if err != nil {
							results <- err
							return
						}
					}
				}()
			}
			synctest.Wait()
			s := box.Stats()
			if s.Queued > c.records || s.QueuedBytes > c.bytes || s.Queued == 0 {
				t.Errorf("%d records of %d bytes are queued, the bounds are %d and %d", s.Queued, s.QueuedBytes, c.records, c.bytes)
			}
			if len(results) > 0 {
				t.Errorf("%d producers gave up", len(results))
			}
			if err := box.Close(); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if len(results) != producers {
				t.Errorf("%d of %d producers were told", len(results), producers)
			}
		})
	}
}
