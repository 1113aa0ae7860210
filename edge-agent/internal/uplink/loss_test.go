package uplink

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// alternate has every second frame with records lost on the way, and no receipt
// arrive: the worst there is for the number of open ranges.
func (w *world) alternate() (frames func() int) {
	n := 0
	w.loses = func(f sealed) bool {
		if f.h.First == 0 {
			return false
		}
		n++
		return n%2 == 1
	}
	w.bad.deaf = true
	return func() int { return n }
}

// tiny makes the window large and the frames small, as a long way round does.
func tiny(u *Uplink) { u.win.size, u.win.rate = 1<<20, 1 }

// However many small frames the window has room for, and if every second is
// lost, no more than 16 ranges open; on either lane.
func TestRangesAreBoundedWhenEverySecondFrameIsLost(t *testing.T) {
	for _, in := range []lane{live, backlog} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			w.tune = tiny
			if in == backlog {
				w.box.begin()
				w.box.readings(20_000, 100)
			}
			frames := w.alternate()
			w.run()
			if in == live {
				w.box.readings(20_000, 100)
			}
			time.Sleep(4 * time.Second)
			w.lock(func() {
				if n := frames(); n < 2*telemetry.MaxHeld-4 {
					t.Errorf("%s: %d frames: the bound was not reached", in, n)
				}
				w.loses, w.bad.deaf = nil, false
			})
			w.settle(10 * time.Minute)
			w.stop()
		})
	}
}

// One frame lost among others is sent again as soon as a later one has its
// receipt, without waiting for the timeout.
func TestAnOvertakenFrameIsSentAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		all := w.latencies(100)
		w.run()
		time.Sleep(3 * time.Second)
		n := 0
		w.lock(func() {
			w.loses = func(sealed) bool {
				n++
				return n%10 == 5
			}
		})
		for range 300 {
			w.box.readings(10, 100)
			time.Sleep(100 * time.Millisecond)
		}
		w.settle(5 * time.Second)
		w.stop()
		if got := p99(*all); got > 700*time.Millisecond {
			t.Errorf("with every tenth frame lost: p99 %s, and a timeout is a second at least", got)
		}
	})
}

// A large record at the head of the backlog gets its turn although the live lane
// always has something in flight, the first time and when it was lost.
func TestALargeRecordOfTheBacklogGetsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.sky.window, w.code.ratio, w.bad.delay = 16<<10, 1, 600*time.Millisecond
		old := w.box.begin()
		w.box.readings(1, 300<<10)
		lost := false
		w.loses = func(f sealed) bool {
			first := f.h.Epoch == old && f.h.Last == 2 && !lost
			lost = lost || first
			return first
		}
		w.run()
		for range 600 {
			w.box.readings(2, 100)
			time.Sleep(50 * time.Millisecond)
		}
		w.stop()
		if got := w.sky.row(old).held.Len(); got != 2 || !lost {
			t.Errorf("after 30 s the cloud holds %d of 2 old records; lost once: %v", got, lost)
		}
	})
}

// Records that were off the shelf for a while, as those of a damaged segment
// are, travel when they are back, and are nobody's loss.
func TestRecordsThatComeBackAreSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.lock(func() { w.bad.cut = true })
		w.run()
		w.box.readings(1000, 10)
		own := w.box.own()
		back := w.box.hide(own, telemetry.Range{First: 300, Last: 500})
		time.Sleep(time.Second)
		w.lock(func() { w.bad.cut = false })
		time.Sleep(30 * time.Second)
		back()
		w.settle(3 * time.Minute)
		w.stop()
		if row := w.sky.row(own); len(row.explained) > 0 || row.held.Len() != 1001 {
			t.Errorf("held %v, given up %v", row.held, row.explained)
		}
	})
}

// A question that did not leave is asked again: what the cloud has is not sent
// twice because the broker was away when the agent started.
func TestAQuestionThatFailedIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.run()
		w.lock(func() { w.bad.deaf = true })
		w.box.readings(1000, 100)
		time.Sleep(4 * time.Second)
		w.stop()
		old, sentOld := w.box.own(), 0
		w.lock(func() {
			w.bad.deaf, w.bad.cut = false, true
			w.onFrame = func(f sealed, _ string) {
				if f.h.Epoch == old && !w.bad.cut {
					sentOld += len(f.recs)
				}
			}
		})
		w.run()
		time.Sleep(10 * time.Second)
		w.lock(func() { w.bad.cut = false })
		w.settle(time.Minute)
		w.stop()
		if sentOld > 0 {
			t.Errorf("%d records were sent that the cloud had", sentOld)
		}
	})
}

// A receipt that comes while publishing fails ends the wait: the way is open.
func TestAReceiptEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.run()
		time.Sleep(5 * time.Second)
		w.lock(func() { w.bad.cut = true })
		for range 20 {
			w.box.readings(1, 10)
			time.Sleep(10 * time.Second)
			w.mu.Lock()
			before := w.calls
			b := w.code.receipt(w.sky.receipt(w.agent))
			w.mu.Unlock()
			if err := w.up.HandleReceipt(b); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			w.lock(func() {
				if w.calls == before {
					t.Error("no probe within 10 ms of the receipt")
				}
			})
		}
		w.lock(func() { w.bad.cut = false })
		w.settle(30 * time.Second)
		w.stop()
	})
}

// After an outage no more is under way at first than a new agent would send,
// however large the window was before.
func TestAnOutageRestartsTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.run()
		for range 60 {
			w.box.readings(5000, 100)
			time.Sleep(500 * time.Millisecond)
		}
		w.settle(time.Minute)
		if n := w.up.Status().Window; n < 3*firstWindow {
			t.Errorf("a window of %d before the outage: not much of a test", n)
		}
		w.lock(func() { w.bad.cut = true })
		w.box.readings(50_000, 100)
		time.Sleep(time.Minute)
		burst, seen := 0, map[uint64]bool{}
		w.lock(func() {
			w.bad.cut, w.bad.deaf = false, true
			w.onFrame = func(f sealed, _ string) {
				if !seen[f.h.First] { // the second time it is in flight already
					burst += f.size
				}
				seen[f.h.First] = true
			}
		})
		time.Sleep(9 * time.Second)
		w.lock(func() { w.bad.deaf = false })
		if burst > 2*firstWindow || burst == 0 {
			t.Errorf("%d bytes before the first receipt", burst)
		}
		w.settle(2 * time.Minute)
		w.stop()
	})
}

// While a large backlog goes over a slow link, a new reading finds at most a few
// seconds of it ahead of it, also when four frames could be under way.
func TestBacklogLeavesTheLinkFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.code.ratio = 1
		w.speed = 20_000
		w.box.begin()
		w.box.readings(40_000, 100) // 5 MB
		w.run()
		time.Sleep(2 * time.Minute)
		all := w.latencies(99)
		for range 100 {
			w.box.readings(1, 99)
			time.Sleep(time.Second)
		}
		w.stop()
		if got := p99(*all); got > 8*time.Second {
			t.Errorf("p99 %s, with frames of 5 s", got)
		}
	})
}
