package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// top bounds the numbers of the model.
const top = 64

// model is an epoch kept number by number, by rules written down once more.
type model struct {
	held, expired, quarantined [top + 2]bool
	lost                       [top + 2]telemetry.Reason // 0: not lost
	lowest, durable, trimmed   uint64
}

func (m *model) explained(n uint64) bool {
	return m.held[n] || m.expired[n] || m.quarantined[n] || m.lost[n] != 0
}

func (m *model) hold(n uint64) {
	m.held[n], m.quarantined[n], m.lost[n] = true, false, 0
}

func (m *model) quarantine(n uint64) {
	if !m.held[n] && !m.expired[n] {
		m.quarantined[n], m.lost[n] = true, 0
	}
}

func (m *model) lose(n uint64, why telemetry.Reason) {
	if m.held[n] || m.expired[n] || m.quarantined[n] {
		return
	}
	if m.lost[n] == 0 || why < m.lost[n] {
		m.lost[n] = why
	}
}

func (m *model) expire(n uint64) {
	if m.held[n] {
		m.held[n], m.expired[n] = false, true
	}
}

func (m *model) watermark() (w uint64) {
	for n := uint64(1); n <= top && m.explained(n); n++ {
		w = n
	}
	return w
}

// set collects the numbers for which f holds.
func set(f func(n uint64) bool) (s Set) {
	for n := uint64(1); n <= top; n++ {
		if f(n) {
			s.Add(r(n, n))
		}
	}
	return s
}

// An epoch answers every question as the model does, after any statements.
func TestEpochIsItsModel(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 5))
			e, m := &Epoch{}, &model{}
			for range 40 {
				first := 1 + rng.Uint64N(top-1)
				x := r(first, min(top, first+rng.Uint64N(9)))
				act(rng, e, m, x)
				ask(t, e, m, x)
			}
		})
	}
}

// act says the same of x to both.
func act(rng *rand.Rand, e *Epoch, m *model, x telemetry.Range) {
	each := func(f func(n uint64)) {
		for n := x.First; n <= x.Last; n++ {
			f(n)
		}
	}
	switch rng.IntN(6) {
	case 0, 1:
		for _, part := range e.Fresh(x) { // a store holds only what is fresh
			e.Hold(part)
		}
		each(func(n uint64) {
			if !m.expired[n] {
				m.hold(n)
			}
		})
	case 2:
		e.Quarantine(x)
		each(m.quarantine)
	case 3:
		why := telemetry.Reason(1 + rng.IntN(6))
		e.Lose(x, why)
		each(func(n uint64) { m.lose(n, why) })
	case 4:
		e.Expire(x)
		each(m.expire)
	case 5:
		o := telemetry.OpenEpoch{Lowest: x.First, Durable: x.Last, Trimmed: rng.Uint64N(x.First)}
		e.Report(o, telemetry.Epoch{Ordinal: 1}, 1, time.Time{})
		m.lowest, m.durable, m.trimmed = max(m.lowest, o.Lowest), max(m.durable, o.Durable), max(m.trimmed, o.Trimmed)
	}
}

// ask compares every answer.
func ask(t *testing.T, e *Epoch, m *model, x telemetry.Range) {
	t.Helper()
	open := func(n uint64) bool { return !m.explained(n) }
	for name, c := range map[string]struct{ got, want Set }{
		"held":      {e.Held, set(func(n uint64) bool { return m.held[n] })},
		"expired":   {e.Expired, set(func(n uint64) bool { return m.expired[n] })},
		"kept raw":  {e.Quarantined, set(func(n uint64) bool { return m.quarantined[n] })},
		"lost":      {e.AllLost(), set(func(n uint64) bool { return m.lost[n] != 0 })},
		"explained": {e.Explained(), set(m.explained)},
		"fresh":     {e.Fresh(x), set(func(n uint64) bool { return n >= x.First && n <= x.Last && !m.held[n] && !m.expired[n] })},
		"on device": {e.OnDevice(), set(func(n uint64) bool { return m.lowest > 0 && n >= m.lowest && n <= m.durable && open(n) })},
		"missing":   {e.Missing(), set(func(n uint64) bool { return n < m.lowest && open(n) })},
		"wanted":    {e.Wanted(), set(func(n uint64) bool { return (n < m.lowest || n <= m.trimmed) && open(n) })},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Fatalf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	for why, s := range e.Lost {
		if want := set(func(n uint64) bool { return m.lost[n] == why }); !slices.Equal(s, want) {
			t.Fatalf("lost for reason %d: %v, want %v", why, s, want)
		}
	}
	w, held := e.Receipt(3)
	rest := set(func(n uint64) bool { return n > m.watermark() && m.explained(n) })
	if w != m.watermark() || w != e.Watermark() || !slices.Equal(held, rest[:min(3, len(rest))]) {
		t.Fatalf("receipt %d %v, want %d %v", w, held, m.watermark(), rest)
	}
	settled := true
	for n := max(m.lowest, 1); n <= x.Last; n++ {
		settled = settled && m.explained(n)
	}
	if e.Settled(x.Last) != settled {
		t.Fatalf("settled to %d: %t", x.Last, !settled)
	}
	back, err := Decode(e.Encode())
	if err != nil || fmt.Sprint(back.Summary()) != fmt.Sprint(e.Summary()) {
		t.Fatalf("after decoding: %+v, %v, want %+v", back.Summary(), err, e.Summary())
	}
}

// A mark belongs to the first report of a lowest: later ones with the same
// lowest move it back, never forth, and a new lowest has its own.
func TestMarkIsOfTheEarliestReport(t *testing.T) {
	e := &Epoch{}
	report := func(lowest, markEpoch, markSeq uint64) {
		e.Report(telemetry.OpenEpoch{Lowest: lowest, Durable: 100}, telemetry.Epoch{Ordinal: markEpoch}, markSeq, time.Time{})
	}
	for _, c := range []struct{ lowest, epoch, seq, wantEpoch, wantSeq uint64 }{
		{5, 3, 50, 3, 50},
		{5, 3, 60, 3, 50},
		{5, 3, 40, 3, 40},
		{5, 4, 1, 3, 40},
		{5, 2, 99, 2, 99},
		{4, 1, 1, 2, 99}, // late news of an older state
		{9, 7, 7, 7, 7},
	} {
		report(c.lowest, c.epoch, c.seq)
		if d := e.Device; d.MarkEpoch.Ordinal != c.wantEpoch || d.MarkSeq != c.wantSeq {
			t.Errorf("after %+v: mark %d %d", c, d.MarkEpoch.Ordinal, d.MarkSeq)
		}
	}
}

// What the device says only rises, and the time it was heard of too.
func TestReportOnlyRises(t *testing.T) {
	e := &Epoch{}
	late, early := time.Unix(200, 0), time.Unix(100, 0)
	e.Report(telemetry.OpenEpoch{Lowest: 5, Durable: 50, Trimmed: 4}, telemetry.Epoch{}, 0, late)
	e.Report(telemetry.OpenEpoch{Lowest: 1, Durable: 20, Trimmed: 0}, telemetry.Epoch{}, 0, early)
	if d := e.Device; d.Lowest != 5 || d.Durable != 50 || d.Trimmed != 4 || !d.Seen.Equal(late) {
		t.Errorf("%+v", d)
	}
}

// A ledger of a year with a hole every minute is still a matter of a megabyte
// and of milliseconds.
func TestManyRangesStayCheap(t *testing.T) {
	e := &Epoch{}
	const holes = 365 * 24 * 60
	start := time.Now()
	for i := range uint64(holes) {
		e.Hold(r(i*100+1, i*100+99))
	}
	b := e.Encode()
	if _, err := Decode(b); err != nil || len(b) > 2<<20 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if w, held := e.Receipt(16); w != 99 || len(held) != 16 {
		t.Errorf("watermark %d, %d ranges", w, len(held))
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %s", d)
	}
}

// An epoch that ended and is all here takes some bytes, however many records it
// had and in whatever order they came.
func TestClosedEpochIsCompact(t *testing.T) {
	e := &Epoch{Start: &telemetry.Start{Version: "1.0.0", PreviousLast: 1 << 30}}
	for _, odd := range []uint64{1, 0} {
		for n := uint64(2) - odd; n <= 20_000; n += 2 {
			e.Hold(telemetry.Range{First: n*100 - 99, Last: n * 100})
		}
	}
	last := telemetry.Epoch{Ordinal: 1 << 20, ID: [8]byte{1}}
	e.Report(telemetry.OpenEpoch{Lowest: 2_000_001, Durable: 2_000_000, Trimmed: 2_000_000}, last, 1<<30, time.Unix(1780000000, 0))
	if n := len(e.Encode()); n > 128 || e.Watermark() != 2_000_000 {
		t.Errorf("%d bytes, watermark %d", n, e.Watermark())
	}
}

// Adding at the end, as a device that sends in order does, costs no more when
// there is much before it.
func BenchmarkHoldInOrder(b *testing.B) {
	e := &Epoch{}
	for i := range uint64(10_000) {
		e.Hold(r(i*10+1, i*10+5))
	}
	next := uint64(1_000_000)
	for b.Loop() {
		e.Hold(r(next, next+999))
		next += 1000
	}
}

// What a commit does with a ledger of a few ranges.
func BenchmarkDecodeMergeEncode(b *testing.B) {
	raw := full().Encode()
	for b.Loop() {
		e, err := Decode(raw)
		if err != nil {
			b.Fatal(err)
		}
		for _, part := range e.Fresh(r(1000, 1999)) {
			e.Hold(part)
		}
		if len(e.Encode()) == 0 {
			b.Fatal("empty")
		}
	}
}
