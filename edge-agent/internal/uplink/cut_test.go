package uplink

import (
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// bare returns an uplink on w's outbox whose loop does not run.
func bare(w *world) *Uplink {
	w.box.begin()
	up, err := New(Options{Agent: w.agent, Key: w.key, Root: func() ed25519.PublicKey { return nil }, Outbox: w.box, Publisher: w, Now: w.box.now})
	if err != nil {
		w.t.Fatal(err)
	}
	up.look(time.Now())
	return up
}

// A frame is never larger than asked for, whatever the readings compress to,
// and once the ratio is learnt it is not much smaller either. These are real
// frames, of payloads that compress well or not at all.
func TestFramesFitTheSizeAskedFor(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for _, noise := range []bool{false, true} {
		w := newWorld(t, 1)
		up := bare(w)
		for range 5000 {
			payload := make([]byte, r.IntN(200))
			for i := range payload {
				payload[i] = 'a'
				if noise {
					payload[i] = byte(r.Uint32())
				}
			}
			w.box.append(telemetry.Record{Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "t", Payload: payload}})
		}
		up.look(time.Now())
		e := up.epochs.own()
		at, frames := uint64(1), 0
		for at < e.Durable {
			size := 4<<10 + r.IntN(60<<10)
			f, err := up.cutFrame(t.Context(), e, telemetry.Range{First: at, Last: e.Durable}, size, size)
			if err != nil {
				t.Fatalf("noise %v, from %d: %v", noise, at, err)
			}
			if len(f.data) > size || f.seqs.First != at {
				t.Fatalf("noise %v: %d bytes for %v, at most %d asked for from %d", noise, len(f.data), f.seqs, size, at)
			}
			if noise && frames > 5 && f.seqs.Last < e.Durable && len(f.data) < size/2 {
				t.Errorf("%d bytes of %d used", len(f.data), size)
			}
			at, frames = f.seqs.Last+1, frames+1
		}
	}
}

// One record that is larger than the room waits, unless nothing else is in flight.
func TestALargeRecordNeedsRoomOrSolitude(t *testing.T) {
	w := newWorld(t, 1)
	up := bare(w)
	payload := make([]byte, telemetry.MaxPayload)
	for i := range payload {
		payload[i] = byte(rand.Uint32())
	}
	w.box.append(telemetry.Record{Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "t", Payload: payload}})
	want := telemetry.Range{First: 2, Last: 2}
	if _, err := up.cutFrame(t.Context(), up.epochs.own(), want, 10_000, 10_000); !errors.Is(err, errRoom) {
		t.Errorf("in company: %v", err)
	}
	f, err := up.cutFrame(t.Context(), up.epochs.own(), want, 10_000, telemetry.MaxFrame)
	if err != nil || len(f.data) < len(payload) || len(f.data) > telemetry.MaxFrame {
		t.Errorf("alone: %d bytes, %v", len(f.data), err)
	}
}

// What is not on the device is nothing to cut, also when something above is.
func TestNothingIsCutOfWhatIsGone(t *testing.T) {
	w := newWorld(t, 1)
	up := bare(w)
	w.box.readings(20, 10)
	w.box.drop(w.box.own(), telemetry.Range{First: 5, Last: 9}, false)
	up.look(time.Now())
	e := up.epochs.own()
	if _, err := up.cutFrame(t.Context(), e, telemetry.Range{First: 5, Last: 9}, 10_000, telemetry.MaxFrame); !errors.Is(err, errNothing) {
		t.Errorf("a hole: %v", err)
	}
	f, err := up.cutFrame(t.Context(), e, telemetry.Range{First: 8, Last: 12}, 10_000, telemetry.MaxFrame)
	if err != nil || f.seqs != (telemetry.Range{First: 10, Last: 12}) {
		t.Errorf("half a hole: %v, %v", f.seqs, err)
	}
}

// Every frame says who sent it, what the device has of the frame's epoch and of
// its newest, how many epochs there are, and carries a trace context of its own.
func TestHeadersSayWhatIsOnTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		old := w.box.begin()
		w.box.readings(30, 10)
		traces := map[string]bool{}
		form := regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`)
		w.onFrame = func(f sealed, _ string) {
			h, own := f.h, w.box.own()
			traces[h.Traceparent] = true
			if h.Agent != w.agent || !form.MatchString(h.Traceparent) || h.Open[0].Epoch != h.Epoch || len(h.Open) > telemetry.MaxOpen {
				t.Errorf("header %+v", h)
			}
			newest := h.Open[0]
			for _, o := range h.Open {
				if o.Epoch.Compare(newest.Epoch) > 0 {
					newest = o
				}
				if o.Lowest > o.Durable+1 || o.Trimmed > o.Durable {
					t.Errorf("claims %+v", o)
				}
			}
			if newest.Epoch != own || h.Open[0].Durable < h.Last {
				t.Errorf("frame of %s up to %d names %+v", h.Epoch, h.Last, h.Open)
			}
			if want := uint64(2); h.OpenTotal != want && h.OpenTotal != 1 {
				t.Errorf("%d epochs, want %d", h.OpenTotal, want)
			}
			if h.Sent.Boot == 0 && h.Sent.Wall == 0 {
				t.Error("no time of sending")
			}
		}
		w.run()
		w.box.readings(30, 10)
		w.settle(10 * time.Second)
		w.stop()
		if len(traces) != w.calls || w.calls < 3 {
			t.Errorf("%d traces of %d frames", len(traces), w.calls)
		}
		if l := w.box.epochs[old]; l.trimmed != 31 {
			t.Errorf("old epoch trimmed to %d", l.trimmed)
		}
	})
}

// Records that the device drops while their frame is in flight, or due again,
// end the flight: nothing waits for them.
func TestRecordsDroppedInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.run()
		time.Sleep(time.Second)
		w.lock(func() { w.bad.drop = 1 })
		w.box.readings(3000, 100)
		time.Sleep(time.Second)
		own := w.box.own()
		w.box.drop(own, telemetry.Range{First: 1, Last: 1500}, true)
		time.Sleep(10 * time.Second)
		w.lock(func() { w.bad.drop = 0 })
		w.settle(2 * time.Minute)
		w.stop()
		if a := w.up.Status().Alarms; len(a) > 0 {
			t.Errorf("alarms: %+v", a)
		}
	})
}

// Receipts that come faster than the loop takes them are dropped, never waited
// for: the pub/sub's goroutine is not ours to hold.
func TestHandleReceiptNeverBlocks(t *testing.T) {
	w := newWorld(t, 1)
	up := bare(w)
	up.o.Root = func() ed25519.PublicKey { return w.root }
	up.open = w.code.open
	b := w.code.receipt(telemetry.Receipt{Cloud: "cloud", Agent: w.agent})
	for range 10 * mailbox { // nobody runs
		if err := up.HandleReceipt(b); err != nil {
			t.Fatal(err)
		}
	}
	if len(up.receipts) != mailbox {
		t.Errorf("%d receipts wait", len(up.receipts))
	}
}

// Run ends with ctx, also while Publish is under way, and nothing stays behind.
func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.speed = 1
		w.run()
		w.box.readings(10, 10)
		time.Sleep(time.Second)
		start := time.Now()
		w.stop()
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// The link flaps for an hour while readings come in: never more than 16 ranges
// are open, and in the end all is there.
func TestAFlappingLinkKeepsTheRangesFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.speed = 3000
		w.bad = faults{drop: 0.3, delay: time.Second}
		w.run()
		most := 0
		for range 100 {
			w.lock(func() { w.bad.cut = !w.bad.cut })
			for range 36 {
				w.box.readings(20, 100)
				time.Sleep(time.Second)
			}
			w.lock(func() { most = max(most, len(w.sky.row(w.box.own()).held)) })
		}
		w.lock(func() { w.bad, w.speed = faults{}, 100_000 })
		w.settle(time.Hour)
		w.stop()
		if most < 4 {
			t.Errorf("at most %d ranges were open: not much of a test", most)
		}
	})
}
