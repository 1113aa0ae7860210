package uplink

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Receipts are put in order by revision and time of issue: a replayed one is
// stale, one of a cloud that went back is not, and a cloud whose clock went back
// with it is believed after a minute.
func TestOrderOfReceipts(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) time.Time { return now.Add(d) }
	cases := []struct {
		what     string
		revision uint64
		issued   time.Time
		cloud    string
		back, ok bool
	}{
		{"the next one", 11, at(time.Second), "a", false, true},
		{"the same once more", 10, at(0), "a", false, true},
		{"a newer one of a replica whose clock is behind", 11, at(-time.Second), "a", false, true},
		{"an older one that was overtaken", 9, at(-time.Second), "a", false, false},
		{"an older one of a replica whose clock is ahead", 9, at(time.Second), "a", false, false},
		{"one replayed from an hour ago", 5, at(-time.Hour), "a", false, false},
		{"one replayed from before the cloud went back", 99, at(-time.Hour), "a", false, false},
		{"one of a cloud restored from a backup", 5, at(time.Minute), "a", true, true},
		{"one of another cloud", 5, at(-time.Hour), "b", true, true},
	}
	for _, c := range cases {
		s := cloudState{id: "a", revision: 10, issued: now, at: now}
		back, ok := s.order(telemetry.Receipt{Cloud: c.cloud, Revision: c.revision, Issued: c.issued}, now.Add(time.Minute))
		if back != c.back || ok != c.ok {
			t.Errorf("%s: went back %v, believed %v", c.what, back, ok)
		}
	}
	s := cloudState{id: "a", revision: 10, issued: now, at: now}
	believed := -1
	for i := range 100 {
		r := telemetry.Receipt{Cloud: "a", Revision: 3, Issued: at(-time.Hour + time.Duration(i)*time.Second)}
		if _, ok := s.order(r, at(time.Duration(i)*time.Second)); ok {
			believed = i
			break
		}
	}
	if believed < 60 || believed > 62 {
		t.Errorf("a cloud whose clock went back was believed after %d s, want 60", believed)
	}
}

// The very first receipt is believed, whatever it says of itself.
func TestFirstReceiptIsBelieved(t *testing.T) {
	var s cloudState
	if back, ok := s.order(telemetry.Receipt{Cloud: "a"}, time.Now()); back || !ok {
		t.Errorf("went back %v, believed %v", back, ok)
	}
}

// Bytes that are no receipt, or one for another agent, are refused and change nothing.
func TestForeignReceiptsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.run()
		defer w.stop()
		if err := w.up.HandleReceipt([]byte("hello")); !errors.Is(err, telemetry.ErrReceipt) {
			t.Errorf("garbage: %v", err)
		}
		other := w.code.receipt(telemetry.Receipt{Cloud: "cloud", Agent: "pi-2"})
		if err := w.up.HandleReceipt(other); !errors.Is(err, telemetry.ErrOtherAgent) {
			t.Errorf("another agent's: %v", err)
		}
	})
}

// A signed receipt for what the device never made trims nothing, moves nothing
// and raises an alarm, which the next good one ends.
func TestImpossibleReceiptIsAnAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.lock(func() { w.bad.cut = true })
		w.run()
		w.box.readings(100, 10)
		w.mu.Lock()
		b := w.code.receipt(telemetry.Receipt{
			Cloud: "cloud", Agent: w.agent, Revision: 7, Issued: time.Now(), Window: 1 << 20,
			Epochs: []telemetry.EpochReceipt{{Epoch: w.box.own(), Watermark: 1 << 30}},
		})
		w.mu.Unlock()
		if err := w.up.HandleReceipt(b); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if a := w.up.Status().Alarms; len(a) != 1 || a[0].Kind != AlarmReceipt {
			t.Errorf("alarms: %+v", a)
		}
		if l := w.box.epochs[w.box.own()]; l.trimmed != 0 {
			t.Errorf("trimmed %d", l.trimmed)
		}
		w.lock(func() { w.bad.cut = false })
		w.settle(time.Minute)
		w.stop()
		if a := w.up.Status().Alarms; len(a) != 0 {
			t.Errorf("alarms that stayed: %+v", a)
		}
	})
}

// A cloud restored from an old backup gets back what the device still has, and
// a loss record for what it has not.
func TestARestoredCloudIsFilledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.box.keep = 500
		w.run()
		w.box.readings(300, 10)
		w.settle(10 * time.Second)
		w.lock(w.snapshot)
		w.box.readings(1000, 10)
		w.settle(10 * time.Second)
		time.Sleep(10 * time.Second)
		w.lock(w.restore)
		time.Sleep(2 * time.Minute) // an idle agent speaks once a minute
		w.settle(time.Minute)
		w.stop()
		row := w.sky.row(w.box.own())
		if n := row.held.Len(); n < 301+500 {
			t.Errorf("the cloud holds %d records again, want the 301 of its backup and the 500 kept", n)
		}
		if n := row.explained.Len(); n < 490 || n > 500 {
			t.Errorf("%d records explained as lost, want the 500 that were not kept", n)
		}
	})
}

// A record that the cloud cannot take is found by halving, kept and tried now
// and then, and everything else arrives at once.
func TestARefusedRecordStallsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.sky.refuses = func(_ telemetry.Epoch, r telemetry.Record) string {
			if r.Seq == 777 {
				return "seq 777 is cursed"
			}
			return ""
		}
		w.run()
		w.box.readings(2000, 10)
		time.Sleep(30 * time.Second)
		w.mu.Lock()
		missing := w.sky.row(w.box.own()).held.Missing(telemetry.Range{First: 1, Last: 2001})
		frames := w.calls
		w.mu.Unlock()
		if len(missing) != 1 || missing[0] != (telemetry.Range{First: 777, Last: 777}) {
			t.Errorf("the cloud lacks %v, want 777 alone", missing)
		}
		if frames > 60 {
			t.Errorf("%d frames to find one record of 2000", frames)
		}
		a := w.up.Status().Alarms
		if len(a) != 1 || a[0].Kind != AlarmRefused || !strings.Contains(a[0].Text, "cursed") {
			t.Errorf("alarms: %+v", a)
		}
		time.Sleep(time.Hour)
		w.lock(func() {
			if w.calls > frames+80 {
				t.Errorf("%d frames in an hour for a record that is refused", w.calls-frames)
			}
			w.sky.refuses = nil // the cloud was mended
		})
		w.settle(20 * time.Minute)
		w.stop()
		if e := w.up.epochs.own(); len(e.parked) > 0 || len(e.limits) > 0 {
			t.Errorf("remembered for ever: %v %v", e.parked, e.limits)
		}
	})
}

// A revoked agent sends no reading, keeps everything, says so, and goes on when
// it is taken back.
func TestRevokedAgentKeepsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.sky.revoked = true
		w.run()
		time.Sleep(time.Second)
		before := 0
		w.lock(func() { before = w.calls })
		w.box.readings(1000, 10)
		time.Sleep(10 * time.Minute)
		w.lock(func() {
			if n := w.calls - before; n < 9 || n > 11 {
				t.Errorf("%d frames in ten minutes, want an empty one each minute", n)
			}
			if held := w.sky.row(w.box.own()).held.Len(); held > 1 {
				t.Errorf("the cloud got %d records", held)
			}
			w.sky.revoked = false
		})
		if s := w.up.Status(); s.Mode != Revoked || len(s.Alarms) != 1 {
			t.Errorf("status: %+v", s)
		}
		w.settle(2 * time.Minute)
		w.stop()
		if s := w.up.Status(); len(s.Alarms) != 0 {
			t.Errorf("alarms that stayed: %+v", s.Alarms)
		}
	})
}

// An agent that hears nothing sends its oldest frame again, ever more rarely,
// and keeps all: an hour of silence costs little.
func TestSilenceIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.run()
		time.Sleep(3 * time.Second)
		w.lock(func() { w.bad.deaf = true })
		w.box.readings(20_000, 100)
		time.Sleep(time.Minute)
		w.mu.Lock()
		calls, sent := w.calls, w.sent
		w.mu.Unlock()
		time.Sleep(time.Hour)
		w.lock(func() {
			if n := w.calls - calls; n > 130 || n < 30 {
				t.Errorf("%d frames in an hour of silence", n)
			}
			if n := w.sent - sent; n > 130*maxTarget/4 {
				t.Errorf("%d bytes in an hour of silence", n)
			}
			w.bad.deaf = false
		})
		if m := w.up.Status().Mode; m != Unanswered {
			t.Errorf("mode %q", m)
		}
		w.settle(2 * time.Minute)
		w.stop()
	})
}

// A broker that is wiped costs the frames in it one more way, within seconds.
func TestAWipedBrokerIsRefilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.run()
		w.box.readings(5000, 100)
		w.settle(10 * time.Second)
		w.lock(func() { w.bad.drop = 1 }) // takes everything and gives nothing
		w.box.readings(5000, 100)
		time.Sleep(20 * time.Second)
		w.lock(func() { w.bad.drop = 0 })
		w.settle(time.Minute)
		w.stop()
	})
}

// A hole that nothing on the device explains is answered with a loss record,
// reason unknown, once nothing is left that might explain it; and with an alarm.
func TestAnUnexplainedHoleIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.lock(func() { w.bad.cut = true })
		w.run()
		w.box.readings(100, 10)
		w.box.drop(w.box.own(), telemetry.Range{First: 40, Last: 60}, false)
		w.lock(func() { w.bad.cut = false })
		w.settle(10 * time.Minute)
		w.stop()
		if got := w.sky.row(w.box.own()).explained; !got.Covers(telemetry.Range{First: 40, Last: 60}) {
			t.Errorf("explained: %v", got)
		}
		if a := w.up.Status().Alarms; len(a) != 1 || a[0].Kind != AlarmHole {
			t.Errorf("alarms: %+v", a)
		}
	})
}

// A hole whose loss record is on its way is nobody's alarm.
func TestAnExplainedHoleIsNoAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.lock(func() { w.bad.cut = true })
		w.run()
		w.box.readings(100, 10)
		w.box.drop(w.box.own(), telemetry.Range{First: 1, Last: 60}, true)
		time.Sleep(5 * time.Minute)
		w.lock(func() { w.bad.cut = false })
		w.settle(2 * time.Minute)
		time.Sleep(10 * time.Minute)
		w.stop()
		if a := w.up.Status().Alarms; len(a) != 0 {
			t.Errorf("alarms: %+v", a)
		}
	})
}

// A cloud that went back and counts its revisions by the clock is noticed by
// what it says: less than before.
func TestALowerWatermarkMeansTheCloudWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.box.keep = 1000
		reg := prometheus.NewRegistry()
		w.opts = func(o *Options) { o.Registerer = reg }
		w.run()
		w.box.readings(100, 10)
		w.settle(10 * time.Second)
		w.lock(w.snapshot)
		w.box.readings(100, 10)
		w.settle(10 * time.Second)
		w.lock(func() {
			later := w.sky.revision + 1000
			w.restore()
			w.sky.revision = later
		})
		w.box.readings(1, 10)
		w.settle(time.Minute)
		w.stop()
		if held := w.sky.row(w.box.own()).held; len(held) != 1 || held[0].Last != 202 {
			t.Errorf("the cloud holds %v", held)
		}
		if got := counted(t, reg, "edge_uplink_cloud_went_back_total"); got != 1 {
			t.Errorf("went back %v times", got)
		}
	})
}

// counted returns the value of the counter of that name.
func counted(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
