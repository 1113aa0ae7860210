package uplink

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

var (
	chaosSeed = flag.Uint64("chaos.seed", 0, "run only this seed of the chaos test")
	chaosRuns = flag.Int("chaos.runs", 300, "how many seeds the chaos test runs")
)

// Whatever the way does to frames and receipts, and whatever becomes of agent
// and cloud, nothing is given back that the cloud never held, no more than 16
// ranges are open, the window is kept, and in the end all is there.
func TestChaos(t *testing.T) {
	first, n := uint64(1), *chaosRuns
	if *chaosSeed != 0 {
		first, n = *chaosSeed, 1
	}
	for seed := first; seed < first+uint64(n); seed++ {
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chaos(t, seed) })
		})
		if !ok {
			t.Fatalf("run again with: go test ./internal/uplink -run TestChaos -chaos.seed=%d", seed)
		}
	}
}

// chaos is one run: a few minutes of faults, then peace.
func chaos(t testing.TB, seed uint64) { chaosWith(t, seed, func(*world) {}) }

func chaosWith(t testing.TB, seed uint64, prepare func(*world)) {
	w := newWorld(t, seed)
	prepare(w)
	r := rand.New(rand.NewPCG(seed, 3))
	w.box.keep = uint64(r.IntN(3)) * 500
	w.sky.window = uint64(16<<10) << r.IntN(6)
	w.code.ratio = []float64{0.05, 0.25, 1}[r.IntN(3)]
	w.watchWindow()
	w.run()
	defer func() { w.stop() }()
	for range 20 + r.IntN(30) {
		w.mishap(r)
		w.box.readings(1+r.IntN(200), r.IntN(300))
		time.Sleep(time.Duration(r.Int64N(int64(8 * time.Second))))
	}
	w.lock(func() {
		w.bad = faults{delay: 20 * time.Millisecond}
		w.sky.wait = 0
	})
	w.settle(time.Hour)
}

// mishap changes something for the worse or the better.
func (w *world) mishap(r *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := r.IntN(14)
	w.note("mishap %d", n)
	switch n {
	case 0:
		w.bad = faults{delay: time.Duration(r.Int64N(int64(3 * time.Second)))}
	case 1:
		w.bad.drop = r.Float64() / 2
	case 2:
		w.bad.double = r.Float64() / 2
	case 3:
		w.bad.refuse = r.Float64()
	case 4:
		w.bad.cut = !w.bad.cut
	case 5:
		w.bad.deaf = !w.bad.deaf
	case 6:
		w.bad = faults{delay: 20 * time.Millisecond}
	case 7:
		w.sky.wait = time.Duration(r.Int64N(int64(5 * time.Second)))
	case 8:
		w.snapshot()
	case 9:
		w.restore()
	case 10:
		w.restart()
	case 11:
		w.foreign()
	case 12:
		if w.last != nil { // the broker gives out what it kept
			b := w.last
			w.later(func() { w.deliver(b) })
		}
	case 13:
		w.lose(r)
	}
}

func (w *world) lock(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) snapshot() {
	if w.sky.saved == nil {
		w.sky.saved, w.sky.savedRevision = w.sky.backup(), w.sky.revision
	}
}

// restore puts the cloud back to its backup.
func (w *world) restore() {
	if w.sky.saved == nil {
		return
	}
	w.loose, w.restored = true, true
	w.sky.ledger, w.sky.revision = w.sky.saved, w.sky.savedRevision
	w.sky.saved = nil
}

// restart ends the agent's process and starts another.
func (w *world) restart() {
	w.loose = true // frames of the old process may still arrive
	w.mu.Unlock()
	w.stop()
	w.run()
	w.mu.Lock()
}

// foreign delivers a receipt for seqs that the device never made.
func (w *world) foreign() {
	own := w.box.own()
	b := w.code.receipt(telemetry.Receipt{
		Cloud: "cloud", Agent: w.agent, Revision: w.sky.revision + 1, Issued: time.Now(), Window: 1 << 30,
		Epochs: []telemetry.EpochReceipt{{Epoch: own, Watermark: 1 << 40}},
	})
	w.later(func() { w.deliver(b) })
}

// lose takes records from the device, with a loss record.
func (w *world) lose(r *rand.Rand) {
	w.box.mu.Lock()
	e := w.box.order[r.IntN(len(w.box.order))]
	l := w.box.epochs[e]
	from, to := l.trimmed+1+uint64(r.IntN(50)), l.durable
	w.box.mu.Unlock()
	if from <= to {
		w.box.drop(e, telemetry.Range{First: from, Last: min(to, from+uint64(r.IntN(100)))}, r.IntN(4) > 0)
	}
}

// watchWindow checks at each frame that is published that it fits into the
// window, is alone, or was missed.
func (w *world) watchWindow() {
	type note struct {
		busy, limit int
		missed      bool // sent again for want of a receipt: its bytes are counted already
	}
	notes := map[string]note{}
	key := func(h telemetry.Header) string { return h.Traceparent }
	w.code.before = func(h telemetry.Header, _ int) {
		// Called by the loop itself, so that its state may be read.
		f := w.up.find(h.Epoch, h.First)
		notes[key(h)] = note{w.up.inFlight(), int(w.up.win.limit()), f != nil && f.state == sent}
	}
	w.onFrame = func(f sealed, _ string) {
		w.code.mu.Lock()
		n := notes[key(f.h)]
		w.code.mu.Unlock()
		if f.h.First > 0 && !n.missed && n.busy > 0 && n.busy+f.size > n.limit {
			w.t.Errorf("a frame of %d bytes with %d in flight and a window of %d", f.size, n.busy, n.limit)
		}
	}
}

// find returns the flight that carries seq, or nil.
func (u *Uplink) find(id telemetry.Epoch, seq uint64) *flight {
	if e := u.epochs.find(id); e != nil {
		for _, f := range e.flights {
			if f.seqs.First <= seq && seq <= f.seqs.Last {
				return f
			}
		}
	}
	return nil
}
