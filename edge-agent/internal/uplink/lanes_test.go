package uplink

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// latencies notes how long each reading with a payload of size bytes takes from
// its commit to the cloud. It is read after the agent was stopped.
func (w *world) latencies(size int) *[]time.Duration {
	var all []time.Duration
	w.lock(func() {
		w.seen = func(_ sealed, r telemetry.Record) {
			if r.Reading != nil && len(r.Reading.Payload) == size {
				all = append(all, w.box.now().Boot-r.At.Boot)
			}
		}
	})
	return &all
}

func p99(all []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(all))
	return s[len(s)*99/100]
}

// Online, a reading is at the cloud within 500 ms at p99, at one a second as at
// a thousand; and a thousand a second travel in ten frames, not in a thousand.
func TestOnlineReadingsArePrompt(t *testing.T) {
	for _, rate := range []int{1, 1000} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			all := w.latencies(100)
			w.run()
			for range 60 * rate {
				w.box.readings(1, 100)
				time.Sleep(time.Second / time.Duration(rate))
			}
			w.settle(time.Second)
			w.stop()
			if got := p99(*all); got > 500*time.Millisecond {
				t.Errorf("%d a second: p99 %s", rate, got)
			}
			if w.calls > 60*12 {
				t.Errorf("%d a second: %d frames in a minute", rate, w.calls)
			}
		})
	}
}

// A lone reading does not wait for company.
func TestALoneReadingGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		all := w.latencies(100)
		w.run()
		time.Sleep(10 * time.Second)
		w.box.readings(1, 100)
		w.settle(time.Second)
		w.stop()
		if got := (*all)[0]; got > 20*time.Millisecond {
			t.Errorf("took %s on a link with a delay of at most 20 ms", got)
		}
	})
}

// After an outage new readings are at the cloud within seconds, on the live
// topic, while the backlog follows on its own; a backlog of 4 MB over
// a link of 40 kB a second takes its two minutes all the same.
func TestNewReadingsPassTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.speed = 40_000
		w.run()
		w.lock(func() { w.bad.cut = true })
		for range 1200 {
			w.box.readings(100, 100)
			time.Sleep(time.Second)
		}
		w.lock(func() { w.bad.cut = false })
		time.Sleep(35 * time.Second) // the wait between two tries is at most 30 s
		all := w.latencies(99)
		behind := 0
		for range 120 {
			w.box.readings(100, 99)
			time.Sleep(time.Second)
			if !w.done() && w.up.Status().Mode == CatchingUp {
				behind++
			}
		}
		w.settle(10 * time.Minute)
		w.stop()
		if got := p99(*all); got > 8*time.Second {
			t.Errorf("new readings took %s at p99 while the backlog drained", got)
		}
		if behind < 20 || w.topics[TopicBacklog] < 5 {
			t.Errorf("behind for %d s with %d frames of backlog: not much of a test", behind, w.topics[TopicBacklog])
		}
	})
}

// On a fast link new readings stay under 2 s old at p99 while 600 000 drain.
func TestNewReadingsStayFreshOnAFastLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.box.begin()
		w.box.readings(600_000, 20)
		w.speed = 2_000_000
		all := w.latencies(50)
		w.run()
		for range 60 {
			w.box.readings(100, 50)
			time.Sleep(100 * time.Millisecond)
		}
		w.settle(time.Minute)
		w.stop()
		if got := p99(*all); got > 2*time.Second {
			t.Errorf("new readings took %s at p99", got)
		}
		if w.topics[TopicBacklog] < 20 {
			t.Errorf("%d frames of backlog: not much of a test", w.topics[TopicBacklog])
		}
	})
}

// While the cloud asks to wait, nothing is published; then it goes on.
func TestRetryAfterIsRespected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.sky.wait = 10 * time.Second
		var times []time.Time
		w.onFrame = func(sealed, string) { times = append(times, time.Now()) }
		w.run()
		for range 60 {
			w.box.readings(10, 100)
			time.Sleep(time.Second)
		}
		w.lock(func() { w.sky.wait = 0 })
		w.settle(time.Minute)
		w.stop()
		// A frame that leaves before the receipt came is not covered by it.
		bursts := 1
		for i := 1; i < len(times) && times[i].Before(times[0].Add(time.Minute)); i++ {
			switch gap := times[i].Sub(times[i-1]); {
			case gap >= 9500*time.Millisecond:
				bursts++
			case gap > 200*time.Millisecond:
				t.Errorf("published %s after the last, within the wait of 10 s", gap)
			}
		}
		if bursts < 5 {
			t.Errorf("%d bursts in a minute, want one every 10 s", bursts)
		}
	})
}

// Bytes in flight stay within what the cloud allows, also when it allows little.
func TestInFlightStaysWithinTheCloudsWindow(t *testing.T) {
	for _, window := range []uint64{20_000, 200_000} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			w.sky.window = window
			w.flush = time.Second
			w.run()
			time.Sleep(5 * time.Second) // the first receipt tells the window
			out, most := map[telemetry.Range]int{}, 0
			w.lock(func() {
				w.onFrame = func(f sealed, _ string) {
					if f.h.First > 0 {
						out[telemetry.Range{First: f.h.First, Last: f.h.Last}] = f.size
					}
					sum := 0
					for r, size := range out {
						if !w.told[f.h.Epoch].Covers(r) {
							sum += size
						}
					}
					most = max(most, sum)
				}
			})
			w.box.readings(20_000, 100)
			w.settle(time.Hour)
			w.stop()
			if most > int(window) || most < int(window)/3 {
				t.Errorf("at most %d bytes in flight, of %d allowed", most, window)
			}
		})
	}
}

// A record larger than the window travels alone, and does not wait for ever
// behind small ones.
func TestALargeRecordGetsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.sky.window, w.code.ratio = 16<<10, 1
		w.run()
		time.Sleep(3 * time.Second)
		for range 20 {
			w.box.readings(5, 100)
			w.box.readings(1, 400<<10)
			time.Sleep(500 * time.Millisecond)
		}
		w.settle(30 * time.Second)
		w.stop()
	})
}

// When more is new than the link carries, the backlog still gets its turns: the
// watermark moves, and the disk can be given back.
func TestOverloadDoesNotStarveTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.speed = 10_000
		w.box.begin()
		first := w.box.own()
		w.box.readings(5000, 100) // 160 kB
		w.run()
		for range 300 {
			w.box.readings(500, 100) // 16 kB a second
			time.Sleep(time.Second)
		}
		w.stop()
		if l := w.box.epochs[first]; l.trimmed < l.durable {
			t.Errorf("%d of %d old records were receipted in 5 minutes of overload", l.trimmed, l.durable)
		}
	})
}

// Frames cut for a fast link are cut smaller when it turns out slow: at 1 kB a
// second, where a large one never comes through, everything still arrives.
func TestAFastLinkThatBecomesSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.code.ratio = 1
		w.speed = 1 << 20
		w.run()
		for range 20 {
			w.box.readings(1000, 200)
			time.Sleep(time.Second)
		}
		w.settle(time.Minute)
		w.box.readings(1000, 200)
		w.lock(func() { w.speed = 1000 })
		w.settle(20 * time.Minute) // 225 kB take 4 minutes
		w.stop()
	})
}
