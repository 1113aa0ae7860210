package uplink

import (
	"crypto/ed25519"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// New names the option that is missing or wrong.
func TestNewRefusesBadOptions(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(nil)
	good := Options{
		Agent: "pi-1", Key: key, Root: func() ed25519.PublicKey { return nil }, Outbox: newMemory(),
		Publisher: &world{}, Now: func() telemetry.Instant { return telemetry.Instant{} },
	}
	if _, err := New(good); err != nil {
		t.Fatalf("good options: %v", err)
	}
	for want, spoil := range map[string]func(*Options){
		"agent":    func(o *Options) { o.Agent = "Pi 1" },
		"key":      func(o *Options) { o.Key = nil },
		"Root":     func(o *Options) { o.Root = nil },
		"Outbox":   func(o *Options) { o.Outbox = nil },
		"negative": func(o *Options) { o.MaxWindow = -1 },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// An agent that is not enrolled sends nothing and believes no receipt; once it
// is, everything goes.
func TestNothingLeavesBeforeEnrolment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		var root atomic.Pointer[ed25519.PublicKey]
		w.opts = func(o *Options) {
			o.Root = func() ed25519.PublicKey {
				if p := root.Load(); p != nil {
					return *p
				}
				return nil
			}
		}
		w.run()
		w.box.readings(100, 10)
		time.Sleep(time.Minute)
		if w.calls > 0 {
			t.Errorf("%d frames left", w.calls)
		}
		if err := w.up.HandleReceipt([]byte("receipt")); !errors.Is(err, ErrNotEnrolled) {
			t.Errorf("receipt: %v", err)
		}
		s := w.up.Status()
		if s.Mode != Unenrolled || s.Unconfirmed != 101 || s.OldestUnsentAge < 50*time.Second {
			t.Errorf("status: %+v", s)
		}
		root.Store(&w.root)
		w.settle(5 * time.Second)
		w.stop()
	})
}

// A process that starts with records of an earlier one asks before it sends
// them: what the cloud has already is not paid for twice.
func TestARestartSendsNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.run()
		w.lock(func() { w.bad.deaf = true })
		w.box.readings(1500, 100)
		time.Sleep(4 * time.Second) // the cloud has it, the agent does not know
		w.stop()
		w.lock(func() { w.bad.deaf = false })
		records := 0
		w.lock(func() { w.onFrame = func(f sealed, _ string) { records += len(f.recs) } })
		w.run()
		w.settle(3 * time.Second)
		w.stop()
		if records > 1 {
			t.Errorf("%d records were sent, want the new epoch's first alone", records)
		}
	})
}

// When nobody answers the question, the records of the earlier process are sent
// all the same, after 2 s.
func TestARestartDoesNotWaitForAnAnswerForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.box.begin()
		w.box.readings(100, 10)
		w.lock(func() { w.bad.deaf = true })
		start := time.Now()
		var at time.Duration
		old := w.box.own()
		w.onFrame = func(f sealed, topic string) {
			if f.h.Epoch == old && at == 0 {
				at = time.Since(start)
				if topic != TopicBacklog {
					t.Errorf("old records travel on %s", topic)
				}
			}
		}
		w.run()
		time.Sleep(10 * time.Second)
		w.stop()
		if at < answerWait || at > answerWait+time.Second {
			t.Errorf("old records left after %s, want %s", at, answerWait)
		}
	})
}

// An idle agent sends an empty frame each minute, and the pages of its open
// epochs come round.
func TestIdleFramesNameAllEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.box.keep = 1000
		for range 40 {
			w.box.begin()
			w.box.readings(3, 10)
		}
		w.run()
		w.settle(time.Minute)
		named, frames := map[telemetry.Epoch]bool{}, 0
		w.lock(func() {
			w.onFrame = func(f sealed, _ string) {
				frames++
				if len(f.recs) > 0 || f.h.Epoch != w.box.own() || f.h.Open[0].Epoch != w.box.own() || len(f.h.Open) > telemetry.MaxOpen {
					t.Errorf("idle frame %+v", f.h)
				}
				for _, o := range f.h.Open {
					named[o.Epoch] = true
				}
				if f.h.OpenTotal != 41 {
					t.Errorf("%d epochs in all, want 41", f.h.OpenTotal)
				}
			}
		})
		time.Sleep(3*time.Minute + 10*time.Second)
		w.stop()
		if frames != 3 || len(named) != 41 {
			t.Errorf("%d frames named %d epochs, want 3 and 41", frames, len(named))
		}
	})
}

// Ten thousand epochs with a few records each, as a year of restarts offline
// leaves them, are through in minutes; a handful is worked on at a time.
func TestTenThousandEpochs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a few seconds")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.sky.dry = true
		for range 10_000 {
			w.box.begin()
			w.box.readings(3, 50)
		}
		start := time.Now()
		w.run()
		all := w.latencies(51)
		for range 60 {
			w.box.readings(1, 51)
			time.Sleep(time.Second)
			if n := len(w.up.Status().Alarms); n > 0 {
				t.Fatalf("alarms: %+v", w.up.Status().Alarms)
			}
		}
		w.settle(4 * time.Minute)
		t.Logf("through in %s", time.Since(start))
		w.stop()
		if n := len(w.up.epochs.all); n > working+1 {
			t.Errorf("%d epochs in the working set", n)
		}
		if got := p99(*all); got > 2*time.Second {
			t.Errorf("new readings took %s at p99", got)
		}
	})
}

// Hundreds of epochs of which nothing is left, explained by loss records in the
// epoch that follows them, do not keep those from being sent.
func TestEmptyEpochsDoNotBlockTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		for range 500 {
			w.box.begin()
			w.box.readings(3, 50)
		}
		gone := append([]telemetry.Epoch(nil), w.box.order...)
		w.box.begin()
		for _, e := range gone {
			w.box.drop(e, telemetry.Range{First: 1, Last: 4}, true)
		}
		w.run()
		w.settle(2 * time.Minute)
		w.stop()
		if a := w.up.Status().Alarms; len(a) > 0 {
			t.Errorf("alarms: %+v", a)
		}
	})
}

// An outbox that cannot be read for a while stops nothing but itself: the
// uplink says so and goes on when it can.
func TestAnOutboxErrorIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.run()
		w.box.mu.Lock()
		w.box.fail = errors.New("too many open files")
		w.box.mu.Unlock()
		w.box.readings(10, 10)
		time.Sleep(time.Minute)
		if a := w.up.Status().Alarms; len(a) != 1 || a[0].Kind != AlarmOutbox || a[0].Count > 70 {
			t.Errorf("alarms: %+v", a)
		}
		w.box.mu.Lock()
		w.box.fail = nil
		w.box.mu.Unlock()
		w.settle(5 * time.Second)
		w.stop()
		if a := w.up.Status().Alarms; len(a) != 0 {
			t.Errorf("alarms that stayed: %+v", a)
		}
	})
}

// An outage of an hour is two lines in the log: gone, and back.
func TestAnOutageIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		var log strings.Builder
		w.opts = func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) }
		w.run()
		w.box.readings(10, 10)
		time.Sleep(10 * time.Second)
		w.lock(func() { w.bad.cut = true })
		for range 60 {
			w.box.readings(10, 10)
			time.Sleep(time.Minute)
		}
		w.lock(func() { w.bad.cut = false })
		w.settle(2 * time.Minute)
		w.stop()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "cannot publish") || !strings.Contains(lines[1], "recovered") {
			t.Errorf("log:\n%s", log.String())
		}
	})
}

// A process that has not heard from its cloud does not claim to catch up with it,
// whatever its earlier lives left on the disk: a drill, which trusts the mode, would
// begin in the middle of an outage.
func TestNoReceiptIsNoCatchingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.lock(func() { w.bad.deaf = true })
		w.run()
		w.box.readings(500, 100)
		time.Sleep(time.Second)
		w.stop()
		w.run()
		w.box.readings(500, 100)
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if m := w.up.Status().Mode; m != Starting && m != Unanswered {
				t.Fatalf("mode %q without a receipt", m)
			}
		}
		w.lock(func() { w.bad.deaf = false })
		w.settle(2 * time.Minute)
		time.Sleep(2 * time.Second)
		if m := w.up.Status().Mode; m != Current {
			t.Errorf("mode %q with everything receipted", m)
		}
		w.stop()
	})
}

// The status says how far behind the cloud is, and when it will have caught up.
func TestStatusWhileCatchingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.speed = 20_000
		reg := prometheus.NewPedanticRegistry()
		w.opts = func(o *Options) { o.Registerer = reg }
		w.run()
		time.Sleep(3 * time.Second)
		w.lock(func() { w.bad.cut = true })
		for range 300 {
			w.box.readings(100, 100)
			time.Sleep(time.Second)
		}
		s := w.up.Status()
		if s.Mode != Offline || s.Error == "" || s.Unconfirmed != 30_000 || s.OldestUnconfirmedAge < 295*time.Second || s.ConfirmedThrough.Seq != 1 {
			t.Errorf("offline: %+v", s)
		}
		w.lock(func() { w.bad.cut = false })
		for w.up.Status().Mode != CatchingUp {
			time.Sleep(time.Second)
		}
		time.Sleep(15 * time.Second)
		s = w.up.Status()
		start, eta := time.Now(), s.CaughtUpIn
		w.settle(10 * time.Minute)
		time.Sleep(2 * time.Second)
		if took := time.Since(start); eta < took/2 || eta > took*2 {
			t.Errorf("said %s, took %s: %+v", eta, took, s)
		}
		s = w.up.Status()
		if s.Mode != Current || s.CaughtUpIn != 0 || s.Unconfirmed != 0 || s.OldestUnsentAge != 0 || s.InFlight != 0 || s.LastReceipt.IsZero() {
			t.Errorf("caught up: %+v", s)
		}
		w.stop()
		if families, err := reg.Gather(); err != nil || len(families) < 15 {
			t.Errorf("%d metrics, %v", len(families), err)
		}
	})
}
