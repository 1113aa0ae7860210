package uplink

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// faults say how bad the way is; zero is a perfect one.
type faults struct {
	drop, double float64       // of frames and receipts
	refuse       float64       // of publishes fail, half of them after the frame went
	delay        time.Duration // at most, each way: frames overtake one another
	cut          bool          // nothing passes, and publishing fails
	deaf         bool          // no receipt arrives
}

// world is one device, one broker and one cloud, all in memory and on the fake
// clock of a synctest bubble.
type world struct {
	t    testing.TB
	mu   *sync.Mutex
	rand *rand.Rand
	box  *memory
	code *codec
	sky  *cloud
	bad  faults

	up       *Uplink
	stop     func()
	agent    string
	key      ed25519.PrivateKey
	root     ed25519.PublicKey
	opts     func(*Options)
	calls    int
	sent     int // bytes
	topics   map[string]int
	last     []byte // the receipt that the broker keeps
	pending  bool   // a receipt is about to be made
	restored bool
	loose    bool                           // more than 16 ranges may be open: the cloud went back, or the agent started anew
	ever     map[telemetry.Epoch]ranges.Set // what the cloud ever held or could explain
	hadLock  sync.Mutex                     // guards ever: trims come with the outbox locked
	told     map[telemetry.Epoch]ranges.Set // what the last receipt said
	flush    time.Duration                  // receipts are coalesced for so long
	onFrame  func(f sealed, topic string)
	seen     func(f sealed, r telemetry.Record) // each reading when the cloud first has it

	loses func(f sealed) bool  // decides for each frame; nil: none
	tune  func(*Uplink)        // before Run
	also  func(receipt []byte) // hears every receipt too
	speed int                  // bytes a second that the link carries; 0: as much as you like
	free  time.Time            // when the link has carried what it was given
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{
		t: t, mu: new(sync.Mutex), rand: rand.New(rand.NewPCG(seed, 1)), box: newMemory(), code: &codec{ratio: 0.25}, sky: newCloud(),
		agent: "pi-1", topics: map[string]int{}, ever: map[telemetry.Epoch]ranges.Set{}, told: map[telemetry.Epoch]ranges.Set{}, flush: 50 * time.Millisecond,
		bad: faults{delay: 20 * time.Millisecond},
	}
	_, w.key, _ = ed25519.GenerateKey(nil)
	w.root = w.key.Public().(ed25519.PublicKey)
	w.box.trims = w.checkTrim
	return w
}

// run starts a new process of the agent: a new epoch and a new uplink.
func (w *world) run() {
	w.t.Helper()
	w.box.begin()
	o := Options{
		Agent: w.agent, Key: w.key, Root: func() ed25519.PublicKey { return w.root }, Outbox: w.box,
		Publisher: w, Now: w.box.now,
	}
	if w.opts != nil {
		w.opts(&o)
	}
	up, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	up.seal, up.open = w.code.seal, w.code.open
	up.rand = rand.New(rand.NewPCG(w.rand.Uint64(), 2))
	if w.tune != nil {
		w.tune(up)
	}
	w.mu.Lock()
	w.up = up
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := up.Run(ctx); err != nil {
			w.t.Errorf("Run returned %v", err)
		}
	}()
	w.stop = func() { cancel(); <-done }
}

var errCut = errors.New("no route to broker")

// Publish is the broker, with faults.
func (w *world) Publish(ctx context.Context, topic string, data []byte) error {
	if err := w.carry(ctx, len(data)); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	w.sent += len(data)
	w.note("publish %s %v", topic, w.code.frame(data).h)
	w.topics[topic]++
	f := w.code.frame(data)
	if w.onFrame != nil {
		w.onFrame(f, topic)
	}
	if w.bad.cut {
		return errCut
	}
	fail := w.chance(w.bad.refuse)
	if fail && w.chance(0.5) {
		return errors.New("broker is busy")
	}
	copies := 1
	if w.chance(w.bad.drop) || w.loses != nil && w.loses(f) {
		copies = 0
	} else if w.chance(w.bad.double) {
		copies = 2
	}
	for range copies {
		w.later(func() { w.arrive(f) })
	}
	if fail {
		return context.DeadlineExceeded
	}
	return nil
}

// carry takes as long as the link does, one frame after the other.
func (w *world) carry(ctx context.Context, size int) error {
	w.mu.Lock()
	if w.speed == 0 {
		w.mu.Unlock()
		return nil
	}
	if now := time.Now(); w.free.Before(now) {
		w.free = now
	}
	w.free = w.free.Add(time.Duration(float64(size) / float64(w.speed) * float64(time.Second)))
	wait := time.Until(w.free)
	late := 10*time.Second + time.Duration(size)*time.Second/(8<<10) // as the sidecar's client has it
	if wait > late {
		w.free = w.free.Add(late - wait) // the rest of it is never carried
	}
	w.mu.Unlock()
	if wait > late {
		time.Sleep(late)
		return context.DeadlineExceeded
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *world) chance(p float64) bool { return p > 0 && w.rand.Float64() < p }

// later runs f, with the world locked, after a random delay.
func (w *world) later(f func()) {
	d := time.Duration(1)
	if w.bad.delay > 0 {
		d += time.Duration(w.rand.Int64N(int64(w.bad.delay)))
	}
	time.AfterFunc(d, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		f()
	})
}

// arrive is a frame at the cloud.
func (w *world) arrive(f sealed) {
	if w.bad.cut {
		return
	}
	if w.seen != nil {
		for _, r := range f.recs {
			if !w.sky.row(f.h.Epoch).held.Covers(telemetry.Range{First: r.Seq, Last: r.Seq}) {
				w.seen(f, r)
			}
		}
	}
	w.sky.take(f)
	for e, a := range w.sky.ledger {
		if w.sky.dry && e != f.h.Epoch {
			continue
		}
		w.hadLock.Lock()
		for _, r := range a.all() {
			w.ever[e] = w.ever[e].Add(r)
		}
		w.hadLock.Unlock()
		if _, open := a.says(e); open > telemetry.MaxHeld && !w.loose {
			w.t.Errorf("%d ranges open in epoch %s: %v", open, e, a.all())
		}
	}
	if !w.pending {
		w.pending = true
		time.AfterFunc(w.flush, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.pending = false
			w.answer()
		})
	}
}

// answer makes a receipt and sends it down.
func (w *world) answer() {
	b := w.code.receipt(w.sky.receipt(w.agent))
	w.last = b
	if w.bad.cut || w.bad.deaf {
		return
	}
	copies := 1
	if w.chance(w.bad.drop) {
		copies = 0
	} else if w.chance(w.bad.double) {
		copies = 2
	}
	for range copies {
		w.later(func() { w.deliver(b) })
	}
}

// note keeps what happened, for -chaos.seed.
func (w *world) note(format string, args ...any) {
	if *chaosSeed != 0 {
		w.t.Logf(time.Now().Format("04:05.000 ")+format, args...)
	}
}

func (w *world) deliver(b []byte) {
	if w.bad.cut || w.bad.deaf {
		return
	}
	if r, err := w.code.open(b, w.agent, nil, time.Time{}); err == nil {
		for _, e := range r.Epochs {
			w.told[e.Epoch] = ranges.Set(e.Held).Add(telemetry.Range{First: 1, Last: e.Watermark})
		}
		w.note("receipt rev %d issued %s %v again %v", r.Revision, r.Issued.Format("04:05.000"), r.Epochs, r.Again)
	}
	if w.also != nil {
		w.also(b)
	}
	if err := w.up.HandleReceipt(b); err != nil {
		w.t.Errorf("receipt refused: %v", err)
	}
}

// checkTrim holds the promise: what is given back was held by the cloud.
func (w *world) checkTrim(e telemetry.Epoch, r telemetry.Range) {
	w.hadLock.Lock()
	defer w.hadLock.Unlock()
	if !w.ever[e].Covers(r) {
		w.t.Errorf("trimmed %s %v, but the cloud only ever had %v", e, r, w.ever[e])
	}
}

// done reports whether the cloud holds or can explain all that was appended,
// and the device knows it.
func (w *world) done() bool { return w.left() == "" }

// left says what is missing for done.
func (w *world) left() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.box.mu.Lock()
	defer w.box.mu.Unlock()
	for e, l := range w.box.epochs {
		all := telemetry.Range{First: 1, Last: l.durable}
		if w.restored && e != w.box.own() && l.lowest > l.durable && l.trimmed == l.durable {
			// Given back long ago, and the cloud may have lost what told it so: nobody
			// is left who knows.
			continue
		}
		if m := w.sky.row(e).all().Missing(all); len(m) > 0 {
			return fmt.Sprintf("epoch %s: cloud lacks %v of %d", e, m, l.durable)
		}
		if l.trimmed < l.durable {
			return fmt.Sprintf("epoch %s: trimmed %d of %d", e, l.trimmed, l.durable)
		}
	}
	return ""
}

// settle waits, on the fake clock, until all is held and known to be.
func (w *world) settle(limit time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if w.done() {
			return
		}
	}
	w.t.Errorf("not settled after %s: %s; status %+v", limit, w.left(), w.up.Status())
}
