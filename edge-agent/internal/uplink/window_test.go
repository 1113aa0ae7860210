package uplink

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// A window that receipts keep filling doubles, then adds a frame a round trip,
// and halves once when receipts stay out.
func TestWindowGrowsAndShrinks(t *testing.T) {
	w := newWindow(defaultMax)
	w.grow(firstWindow, true)
	if w.limit() != 2*firstWindow {
		t.Errorf("after a full window of receipts: %d, want %d", w.limit(), 2*firstWindow)
	}
	now := time.Now()
	w.shrink(now)
	w.shrink(now.Add(time.Millisecond))
	if w.limit() != firstWindow {
		t.Errorf("after one loss: %d, want %d", w.limit(), firstWindow)
	}
	w.grow(firstWindow, true)
	if got, want := w.limit(), int64(firstWindow+w.target()); got != want {
		t.Errorf("above the knee a window of receipts makes it %d, want %d", got, want)
	}
	w.shrink(now.Add(time.Hour))
	w.shrink(now.Add(2 * time.Hour))
	for i := range 20 {
		w.shrink(now.Add(time.Duration(3+i) * time.Hour))
	}
	if w.limit() != minWindow {
		t.Errorf("after many losses: %d, want %d", w.limit(), int64(minWindow))
	}
}

// A window that was not full does not grow, and none grows above the limits.
func TestWindowKeepsItsLimits(t *testing.T) {
	w := newWindow(100_000)
	w.grow(50_000, false)
	if w.limit() != firstWindow {
		t.Errorf("not full: %d, want %d", w.limit(), firstWindow)
	}
	for range 10 {
		w.grow(50_000, true)
	}
	if w.limit() != 100_000 {
		t.Errorf("configured limit: %d, want 100000", w.limit())
	}
	w.cloud = 20_000
	if w.limit() != 20_000 {
		t.Errorf("the cloud's limit: %d, want 20000", w.limit())
	}
	w.cloud = 0
	if w.limit() != 0 {
		t.Errorf("the cloud takes nothing: %d", w.limit())
	}
}

// Frames aim at what the link carries in 5 s, between 4 and 512 KiB.
func TestTargetFollowsTheLink(t *testing.T) {
	w := newWindow(defaultMax)
	if w.target() != firstTarget {
		t.Errorf("link unknown: %d, want %d", w.target(), firstTarget)
	}
	start := time.Now()
	for rate, want := range map[int]int{100: minTarget, 10_000: 50_000, 10_000_000: maxTarget} {
		w := newWindow(defaultMax)
		w.delivered = uint64(rate)
		w.sample(&flight{sentAt: start, takenAt: start, state: sent, tries: 1}, start.Add(time.Second))
		if w.target() != want {
			t.Errorf("%d bytes a second: %d, want %d", rate, w.target(), want)
		}
	}
}

// A link that became slower is noticed while it is busy, and one that merely
// had nothing to carry is not taken for slow.
func TestRateFallsOnlyOnABusyLink(t *testing.T) {
	w := newWindow(defaultMax)
	w.rate = 100_000
	start := time.Now()
	w.delivered = 1000
	w.sample(&flight{sentAt: start, takenAt: start, state: sent, tries: 1}, start.Add(time.Second))
	if w.rate != 100_000 {
		t.Errorf("idle link: %g", w.rate)
	}
	for range 30 {
		w.sample(&flight{sentAt: start, takenAt: start, state: sent, tries: 1, limited: true}, start.Add(time.Second))
	}
	if w.rate > 2000 {
		t.Errorf("busy link at 1000 bytes a second: %g", w.rate)
	}
}

// The timeout follows the round trip, and a resent frame teaches nothing.
func TestTimeoutFollowsTheRoundTrip(t *testing.T) {
	w := newWindow(defaultMax)
	if w.rto() != firstRTO {
		t.Errorf("before a receipt: %s", w.rto())
	}
	start := time.Now()
	w.sample(&flight{sentAt: start, takenAt: start, state: sent, tries: 2}, start.Add(time.Hour))
	if w.rto() != firstRTO {
		t.Errorf("after a resent frame: %s", w.rto())
	}
	for range 100 {
		w.sample(&flight{sentAt: start, takenAt: start, state: sent, tries: 1}, start.Add(3*time.Second))
	}
	if got := w.rto(); got < 3*time.Second || got > 4*time.Second {
		t.Errorf("round trips of 3 s: %s", got)
	}
	for range 100 {
		w.sample(&flight{sentAt: start, takenAt: start, state: sent, tries: 1}, start.Add(time.Millisecond))
	}
	if w.rto() != minRTO {
		t.Errorf("round trips of 1 ms: %s", w.rto())
	}
}

// The random wait doubles to its cap, and uses the whole of it.
func TestBackoffIsFullJitter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for n, limit := range map[int]time.Duration{0: time.Second, 2: 4 * time.Second, 60: 30 * time.Second} {
		var least, most time.Duration = time.Hour, 0
		for range 2000 {
			d := backoff(r, time.Second, 30*time.Second, n)
			least, most = min(least, d), max(most, d)
		}
		if least > limit/50 || most > limit || most < limit*49/50 {
			t.Errorf("after %d: from %s to %s, want 0 to %s", n, least, most, limit)
		}
	}
}

// A Publish that failed after a long while says what the link carries at most;
// one that was refused at once says nothing.
func TestFailedPublishesMakeFramesSmaller(t *testing.T) {
	w := newWindow(defaultMax)
	w.rate = 1e6
	w.slow(maxTarget, time.Millisecond)
	if w.target() != maxTarget {
		t.Errorf("refused at once: target %d", w.target())
	}
	w.slow(maxTarget, 64*time.Second)
	if got := w.target(); got > 5*maxTarget/64 {
		t.Errorf("no way in 64 s for %d bytes: target %d", maxTarget, got)
	}
	w = newWindow(defaultMax)
	w.slow(firstTarget, 12*time.Second)
	if w.target() >= firstTarget {
		t.Errorf("link unknown, and too slow: target %d", w.target())
	}
}

// After an outage the window begins small, and doubles to where it was.
func TestWindowRestartsSmall(t *testing.T) {
	w := newWindow(defaultMax)
	w.size = 1 << 20
	w.restart()
	if w.limit() != firstWindow {
		t.Errorf("after an outage: %d, want %d", w.limit(), firstWindow)
	}
	for range 4 {
		w.grow(int(w.limit()), true)
	}
	if w.limit() != 1<<20 {
		t.Errorf("after four full windows: %d, want %d", w.limit(), 1<<20)
	}
}

// An uplink that waits after failed publishes tries at once when the sidecar
// says that the broker is there again; however often it says so, a broker that
// is not there is asked no more than every two seconds.
func TestProbeWhenTheBrokerIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 11)
		w.run()
		defer func() { w.stop() }()
		w.box.readings(10, 10)
		time.Sleep(5 * time.Second)
		w.lock(func() { w.bad.cut = true })
		w.box.readings(10, 10)
		time.Sleep(5 * time.Minute)
		var calls int
		w.lock(func() { calls = w.calls })
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if err := w.up.HandleReceipt(nil); err != nil {
				t.Fatal(err)
			}
		}
		var n int
		w.lock(func() { n = w.calls - calls })
		if n > 5+5 {
			t.Errorf("%d probes in ten seconds of lies, want at most one every two seconds and those of before", n)
		}
		time.Sleep(time.Minute)
		w.lock(func() { w.bad.cut = false })
		if err := w.up.HandleReceipt(nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if left := w.left(); left != "" {
			t.Errorf("a second after the broker was back: %s", left)
		}
	})
}

// Records larger than the frames that the link is given travel side by side like
// others: whatever the window was, it grows for them, and they do not wait for
// each other's receipts.
func TestLargeRecordsFillTheWindow(t *testing.T) {
	for _, size := range []float64{minWindow, firstWindow, 100 << 10, 128 << 10, 256 << 10} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 12)
			w.code.ratio = 1 // as payloads that are compressed already
			w.tune = func(u *Uplink) { u.win.size = size }
			w.run()
			defer func() { w.stop() }()
			began := time.Now()
			w.box.readings(300, 64<<10)
			w.settle(time.Minute)
			// One after the other they would take 300 round trips of some 70 ms: 21 s.
			if took := time.Since(began); took > 6*time.Second {
				t.Errorf("from a window of %.0f KiB 300 records of 64 KiB took %s", size/1024, took)
			}
		})
	}
}
