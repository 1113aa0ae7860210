package uplink

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// randomEpoch cuts the numbers above a watermark into runs that are held, gone,
// in flight or free.
func randomEpoch(r *rand.Rand) *epoch {
	e := &epoch{mark: r.Uint64N(5)}
	at := e.mark + 1
	for range 1 + r.IntN(9) {
		x := telemetry.Range{First: at, Last: at + r.Uint64N(4)}
		at = x.Last + 1
		switch r.IntN(4) {
		case 0:
			if x.First > e.mark+1 { // or it would be part of the watermark
				e.held = e.held.Add(x)
			}
		case 1:
			e.gone = e.gone.Add(x)
		case 2:
			e.insert(&flight{epoch: e, seqs: x})
		}
	}
	e.Durable = at + 3
	return e
}

// A gap is the lowest run that is neither held, gone, parked nor in flight.
func TestGapIsTheLowestUnsentRun(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	now := time.Now()
	for range 5000 {
		e := randomEpoch(r)
		if r.IntN(2) == 0 {
			e.parked = []parked{{seq: e.mark + 1 + r.Uint64N(9), until: now.Add(time.Duration(r.IntN(2)) * time.Hour)}}
		}
		from, to := 1+r.Uint64N(12), e.Durable
		free := func(n uint64) bool {
			if n <= e.mark {
				return false
			}
			ok := true
			e.blocks(now, func(x telemetry.Range) { ok = ok && (n < x.First || n > x.Last) })
			return ok
		}
		var want telemetry.Range
		for n := from; n <= to; n++ {
			if free(n) {
				want = telemetry.Range{First: n, Last: n}
				for want.Last < to && free(want.Last+1) {
					want.Last++
				}
				break
			}
		}
		got, ok := e.gap(from, to, now)
		if ok != (want.First > 0) || ok && got != want {
			t.Fatalf("gap of %+v from %d to %d: got %v %v, want %v", e, from, to, got, ok, want)
		}
	}
}

// worst is never less than the ranges that any choice of arrivals opens, and
// some choice opens as many.
func TestWorstIsTheMostRangesThatCanOpen(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 3000 {
		e := randomEpoch(r)
		var next telemetry.Range
		if g, ok := e.gap(1, e.Durable, time.Time{}); ok {
			next = telemetry.Range{First: g.First, Last: g.First}
		}
		var sure ranges.Set
		var maybe []telemetry.Range
		for _, a := range e.atoms(next) {
			if a.sure {
				sure = sure.Add(a.seqs)
			} else {
				maybe = append(maybe, a.seqs)
			}
		}
		most := 0
		for choice := range 1 << len(maybe) {
			s := sure.Add(telemetry.Range{First: 1, Last: e.mark})
			for i, x := range maybe {
				if choice>>i&1 == 1 {
					s = s.Add(x)
				}
			}
			open := len(s)
			if open > 0 && s[0].First == 1 {
				open--
			}
			most = max(most, open)
		}
		if got := e.worst(next); got != most {
			t.Fatalf("worst of %v with %v: got %d, want %d", e.atoms(next), next, got, most)
		}
	}
}

// What a receipt covers of a flight ends, and the rest of it flies on with its
// share of the bytes.
func TestConfirmLeavesTheRestInFlight(t *testing.T) {
	e := &epoch{}
	e.insert(&flight{epoch: e, seqs: telemetry.Range{First: 11, Last: 20}, size: 100})
	e.insert(&flight{epoch: e, seqs: telemetry.Range{First: 1, Last: 10}, size: 300})
	e.take(telemetry.EpochReceipt{Watermark: 10, Held: []telemetry.Range{{First: 14, Last: 15}}})
	done, bytes := e.confirm()
	if len(done) != 1 || done[0].seqs.Last != 10 {
		t.Errorf("done: %v", done)
	}
	if bytes != 320 {
		t.Errorf("%d bytes receipted, want 300 of the first and 20 of the second", bytes)
	}
	if len(e.flights) != 2 || e.flights[0].seqs != (telemetry.Range{First: 11, Last: 13}) || e.flights[1].seqs != (telemetry.Range{First: 16, Last: 20}) {
		t.Errorf("left in flight: %v %v", e.flights[0].seqs, e.flights[1].seqs)
	}
	if n := e.flights[0].size + e.flights[1].size; n != 80 {
		t.Errorf("%d bytes left in flight, want 80", n)
	}
}

// A frame that was refused is cut in halves until single records remain.
func TestLimitsNest(t *testing.T) {
	e := &epoch{limits: []limit{
		{seqs: telemetry.Range{First: 1, Last: 100}, records: 50},
		{seqs: telemetry.Range{First: 1, Last: 50}, records: 25},
	}}
	for seq, want := range map[uint64]uint64{1: 25, 30: 21, 60: 41, 51: 50, 101: cutRecords} {
		if got := e.limitAt(seq); got != want {
			t.Errorf("from %d: %d records, want %d", seq, got, want)
		}
	}
}
