package uplink

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// verdict takes the failures of a run, so that a test can expect one.
type verdict struct {
	testing.TB
	failures []string
}

func (v *verdict) Errorf(format string, args ...any) {
	v.failures = append(v.failures, fmt.Sprintf(format, args...))
}

// hasty is a publisher that believes the broker: what was published is given
// back, as so many agents do.
type hasty struct{ w *world }

func (h hasty) Publish(ctx context.Context, topic string, data []byte) error {
	err := h.w.Publish(ctx, topic, data)
	if f := h.w.code.frame(data); err == nil && f.h.First > 0 {
		h.w.mu.Lock()
		defer h.w.mu.Unlock()
		_ = h.w.box.Trim(telemetry.Receipt{Epochs: []telemetry.EpochReceipt{{Epoch: f.h.Epoch, Watermark: f.h.Last}}})
	}
	return err
}

// Control: the oracle of the chaos test convicts an agent that gives back what
// the broker said it has.
func TestOracleConvictsTrimmingOnPublish(t *testing.T) {
	convicted := 0
	for seed := uint64(1); seed <= 20; seed++ {
		synctest.Test(t, func(t *testing.T) {
			v := &verdict{TB: t}
			chaosWith(v, seed, func(w *world) {
				w.opts = func(o *Options) { o.Publisher = hasty{w} }
			})
			if len(v.failures) > 0 {
				convicted++
			}
		})
	}
	if convicted < 15 {
		t.Errorf("%d of 20 runs convicted", convicted)
	}
}

// Control: the oracle convicts an agent that minds no window.
func TestOracleConvictsAWindowThatIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &verdict{TB: t}
		w := newWorld(v, 1)
		w.watchWindow()
		look := w.code.before
		w.code.before = func(h telemetry.Header, size int) {
			w.up.win.size = firstWindow // what it should be
			look(h, size)
			w.up.win.size = 1 << 30 // what the next frame is cut by
		}
		w.run()
		w.box.readings(50_000, 100)
		w.settle(time.Minute)
		w.stop()
		if len(v.failures) == 0 {
			t.Error("nothing was said of it")
		}
	})
}

// Two devices with one outbox, a cloned card: each epoch is another's to the
// other, nothing of either is given back that the cloud has not, and both arrive.
func TestAClonesReceiptsTouchNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newWorld(t, 1)
		b := newWorld(t, 2)
		b.mu, b.sky, b.code = a.mu, a.sky, a.code // one cloud
		b.box.ordinal = 100
		a.run()
		b.run()
		cross := func(from, to *world) {
			from.lock(func() { from.also = func(r []byte) { _ = to.up.HandleReceipt(r) } })
		}
		cross(a, b)
		cross(b, a)
		for range 60 {
			a.box.readings(20, 50)
			b.box.readings(20, 50)
			time.Sleep(time.Second)
		}
		a.settle(time.Minute)
		b.settle(time.Minute)
		a.stop()
		b.stop()
	})
}
