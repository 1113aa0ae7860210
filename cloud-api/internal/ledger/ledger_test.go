package ledger

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

func r(first, last uint64) telemetry.Range { return telemetry.Range{First: first, Last: last} }

// A set holds the same numbers as a map does after any additions and removals,
// and its ranges ascend and stay apart.
func TestSetIsASet(t *testing.T) {
	for seed := range uint64(50) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			var s Set
			model := map[uint64]bool{}
			for range 200 {
				first := 1 + rng.Uint64N(100)
				x := r(first, first+rng.Uint64N(12))
				add := rng.IntN(3) > 0
				if add {
					s.Add(x)
				} else {
					s.Remove(x)
				}
				for n := x.First; n <= x.Last; n++ {
					model[n] = add
				}
				check(t, s, model)
			}
		})
	}
}

func check(t *testing.T, s Set, model map[uint64]bool) {
	t.Helper()
	var count uint64
	for n := range uint64(120) {
		if s.Contains(n) != model[n] {
			t.Fatalf("%v contains %d: %t", s, n, !model[n])
		}
		if model[n] {
			count++
		}
	}
	if s.Count() != count {
		t.Fatalf("%v counts %d, want %d", s, s.Count(), count)
	}
	for i, x := range s {
		if x.Last < x.First || i > 0 && x.First <= s[i-1].Last+1 {
			t.Fatalf("%v is not apart and ascending", s)
		}
	}
}

// Without and Within split a range into the numbers that are not in the set and
// those that are.
func TestWithoutAndWithinSplit(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var s, o Set
		for range rng.IntN(8) {
			first := 1 + rng.Uint64N(50)
			s.Add(r(first, first+rng.Uint64N(6)))
			first = 1 + rng.Uint64N(50)
			o.Add(r(first, first+rng.Uint64N(6)))
		}
		first := 1 + rng.Uint64N(60)
		x := r(first, first+rng.Uint64N(30))
		in, out, both := s.Within(x), s.Without(x), Union(s, o)
		for n := range uint64(100) {
			inside := n >= x.First && n <= x.Last
			if in.Contains(n) != (inside && s.Contains(n)) || out.Contains(n) != (inside && !s.Contains(n)) {
				t.Fatalf("seed %d: %v of %v: within %v, without %v", seed, x, s, in, out)
			}
			if both.Contains(n) != (s.Contains(n) || o.Contains(n)) {
				t.Fatalf("seed %d: union of %v and %v: %v", seed, s, o, both)
			}
		}
	}
}

// The ends of the numbers are no special case.
func TestSetReachesTheEnds(t *testing.T) {
	const top = ^uint64(0)
	var s Set
	s.Add(r(top, top))
	s.Add(r(1, 1))
	s.Add(r(2, 3))
	if !slices.Equal(s, Set{r(1, 3), r(top, top)}) {
		t.Errorf("%v", s)
	}
	if got := s.Without(r(top-1, top)); !slices.Equal(got, Set{r(top-1, top-1)}) {
		t.Errorf("%v", got)
	}
	s.Remove(r(1, top))
	if len(s) != 0 || s.Max() != 0 {
		t.Errorf("%v", s)
	}
	s.Add(r(5, 4))
	if len(s) != 0 {
		t.Errorf("an empty range added %v", s)
	}
}

// Clone shares nothing.
func TestCloneSharesNothing(t *testing.T) {
	s := Set{r(1, 2)}
	c := s.Clone()
	c.Add(r(3, 3))
	if s.Contains(3) {
		t.Error("the clone's change shows")
	}
}

// The watermark is where everything from 1 on is held or explained, and the
// receipt adds the first ranges above it.
func TestWatermarkNeedsEverySeq(t *testing.T) {
	e := &Epoch{}
	e.Hold(r(2, 5))
	if w := e.Watermark(); w != 0 {
		t.Errorf("without seq 1: %d", w)
	}
	e.Lose(r(1, 1), telemetry.ReasonDropped)
	e.Hold(r(8, 9))
	e.Hold(r(12, 12))
	if w, held := e.Receipt(1); w != 5 || !slices.Equal(held, []telemetry.Range{r(8, 9)}) {
		t.Errorf("watermark %d, held %v", w, held)
	}
	e.Quarantine(r(6, 7))
	if w, held := e.Receipt(16); w != 9 || !slices.Equal(held, []telemetry.Range{r(12, 12)}) {
		t.Errorf("watermark %d, held %v", w, held)
	}
}

// What is held is worth more than a reason for its absence, whichever comes
// first.
func TestHeldWinsOverLost(t *testing.T) {
	a, b := &Epoch{}, &Epoch{}
	a.Hold(r(3, 4))
	a.Lose(r(1, 6), telemetry.ReasonDropped)
	b.Lose(r(1, 6), telemetry.ReasonDropped)
	b.Hold(r(3, 4))
	for _, e := range []*Epoch{a, b} {
		if !slices.Equal(e.AllLost(), Set{r(1, 2), r(5, 6)}) || !slices.Equal(e.Held, Set{r(3, 4)}) {
			t.Errorf("lost %v, held %v", e.Lost, e.Held)
		}
	}
}

// Of two reasons the one that says more stays, whichever comes first.
func TestBetterReasonStays(t *testing.T) {
	for _, order := range [][]telemetry.Reason{{telemetry.ReasonCorrupt, telemetry.ReasonUnknown}, {telemetry.ReasonUnknown, telemetry.ReasonCorrupt}} {
		e := &Epoch{}
		for _, why := range order {
			e.Lose(r(1, 3), why)
		}
		if len(e.Lost) != 1 || !slices.Equal(e.Lost[telemetry.ReasonCorrupt], Set{r(1, 3)}) {
			t.Errorf("%v: %v", order, e.Lost)
		}
	}
}

// Statements in any order end in the same ledger, byte for byte.
func TestAnyOrderIsTheSameLedger(t *testing.T) {
	at := time.Unix(100, 0)
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var say []func(*Epoch)
		for range 20 {
			first := 1 + rng.Uint64N(60)
			x := r(first, first+rng.Uint64N(8))
			switch rng.IntN(4) {
			case 0:
				why := telemetry.Reason(1 + rng.IntN(6))
				say = append(say, func(e *Epoch) { e.Lose(x, why) })
			case 1:
				say = append(say, func(e *Epoch) { e.Quarantine(x) })
			case 2:
				say = append(say, func(e *Epoch) { e.Hold(x) })
			case 3:
				o := telemetry.OpenEpoch{Lowest: x.First, Durable: x.Last, Trimmed: x.First - 1}
				mark := telemetry.Epoch{Ordinal: 1 + rng.Uint64N(3)}
				seq := rng.Uint64N(9)
				say = append(say, func(e *Epoch) { e.Report(o, mark, seq, at) })
			}
		}
		var want []byte
		for range 5 {
			e := &Epoch{}
			for _, s := range say {
				s(e)
			}
			if got := e.Encode(); want == nil {
				want = got
			} else if !bytes.Equal(want, got) {
				t.Fatalf("seed %d: another order ends in another ledger", seed)
			}
			rng.Shuffle(len(say), func(i, j int) { say[i], say[j] = say[j], say[i] })
		}
	}
}

// Every number is in exactly one place.
func TestEveryNumberIsInOnePlace(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 4))
		e := &Epoch{}
		for range 25 {
			first := 1 + rng.Uint64N(40)
			x := r(first, first+rng.Uint64N(8))
			switch rng.IntN(5) {
			case 0:
				e.Lose(x, telemetry.Reason(1+rng.IntN(3)))
			case 1:
				e.Quarantine(x)
			case 2:
				e.Expire(x)
			case 3:
				for _, part := range e.Fresh(x) { // as a store does
					e.Hold(part)
				}
			case 4:
				e.Report(telemetry.OpenEpoch{Lowest: x.First, Durable: x.Last}, telemetry.Epoch{}, 0, time.Time{})
			}
		}
		for n := uint64(1); n <= 60; n++ {
			places := 0
			sets := []Set{e.Held, e.Expired, e.Quarantined, e.OnDevice(), e.Missing()}
			for _, s := range e.Lost {
				sets = append(sets, s)
			}
			for _, s := range sets {
				if s.Contains(n) {
					places++
				}
			}
			if known := n < e.Device.Lowest || n <= e.Device.Durable && e.Device.Lowest > 0; places > 1 || known && places == 0 {
				t.Fatalf("seed %d: %d is in %d places: %+v", seed, n, places, e)
			}
		}
	}
}

// What retention removed is not inserted again, and still counts in receipts.
func TestExpiredIsNotFresh(t *testing.T) {
	e := &Epoch{}
	e.Hold(r(1, 10))
	e.Expire(r(1, 6))
	e.Expire(r(20, 30)) // was never held
	if got := e.Fresh(r(1, 12)); !slices.Equal(got, Set{r(11, 12)}) {
		t.Errorf("fresh %v", got)
	}
	if e.Watermark() != 10 || e.Expired.Count() != 6 {
		t.Errorf("watermark %d, expired %v", e.Watermark(), e.Expired)
	}
}

// A cloud that lacks what the device gave back wants it again, and so it wants
// what is gone from the device without a reason.
func TestWantedIsWhatTheDeviceWillNotSend(t *testing.T) {
	e := &Epoch{}
	e.Hold(r(1, 10))
	e.Report(telemetry.OpenEpoch{Lowest: 15, Durable: 40, Trimmed: 20}, telemetry.Epoch{Ordinal: 1}, 40, time.Time{})
	if got := e.Wanted(); !slices.Equal(got, Set{r(11, 20)}) {
		t.Errorf("wanted %v", got)
	}
	if got := e.Missing(); !slices.Equal(got, Set{r(11, 14)}) {
		t.Errorf("missing %v", got)
	}
	if got := e.OnDevice(); !slices.Equal(got, Set{r(15, 40)}) {
		t.Errorf("on the device %v", got)
	}
}

// An epoch is settled when nothing up to the mark is still on the device.
func TestSettled(t *testing.T) {
	e := &Epoch{}
	e.Hold(r(5, 8))
	e.Report(telemetry.OpenEpoch{Lowest: 5, Durable: 10}, telemetry.Epoch{}, 0, time.Time{})
	if !e.Settled(8) || e.Settled(9) {
		t.Errorf("settled to 8: %t, to 9: %t", e.Settled(8), e.Settled(9))
	}
}

// A device cannot make a ledger reach beyond what a store can number.
func TestClaimsAreCut(t *testing.T) {
	const top = ^uint64(0)
	e := &Epoch{}
	e.Lose(r(1, top), telemetry.ReasonDropped)
	e.Report(telemetry.OpenEpoch{Lowest: top, Durable: top, Trimmed: top}, telemetry.Epoch{}, 0, time.Time{})
	if e.Lost[telemetry.ReasonDropped].Max() != MaxSeq || e.Device.Durable != MaxSeq || e.Device.Lowest != MaxSeq+1 {
		t.Errorf("%+v", e)
	}
	e.Lose(r(top-1, top), telemetry.ReasonDropped)
	if e.AllLost().Count() != MaxSeq {
		t.Errorf("lost %v", e.Lost)
	}
}

// The summary counts each place.
func TestSummaryCounts(t *testing.T) {
	e := &Epoch{Oversized: 2}
	e.Hold(r(1, 10))
	e.Expire(r(1, 3))
	e.Lose(r(11, 12), telemetry.ReasonCorrupt)
	e.Quarantine(r(13, 13))
	e.Report(telemetry.OpenEpoch{Lowest: 16, Durable: 20}, telemetry.Epoch{}, 0, time.Time{})
	want := Summary{Watermark: 13, Held: 7, Expired: 3, Quarantined: 1, Lost: 4, OnDevice: 5, Missing: 2, Wanted: 2}
	if got := e.Summary(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// full is a ledger with something in every field.
func full() *Epoch {
	e := &Epoch{Oversized: 3, Start: &telemetry.Start{Previous: telemetry.Epoch{Ordinal: 4, ID: [8]byte{9}}, PreviousLast: 77, PreviousClean: true, Boot: [16]byte{1, 2}, Version: "1.2.3"}, StartedAt: telemetry.Instant{Boot: 5, Wall: -6}}
	e.Hold(r(1, 10))
	e.Hold(r(20, 30))
	e.Expire(r(2, 3))
	e.Lose(r(40, 41), telemetry.ReasonCorrupt)
	e.Lose(r(44, 45), telemetry.ReasonDropped)
	e.Quarantine(r(50, MaxSeq))
	e.Report(telemetry.OpenEpoch{Lowest: 12, Durable: 60, Trimmed: 11}, telemetry.Epoch{Ordinal: 5, ID: [8]byte{8}}, 99, time.Unix(1, 2).UTC())
	return e
}

// Decode returns what Encode was given.
func TestEncodeDecodes(t *testing.T) {
	for name, e := range map[string]*Epoch{"full": full(), "empty": {}} {
		got, err := Decode(e.Encode())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if fmt.Sprintf("%+v", deref(got)) != fmt.Sprintf("%+v", deref(e)) {
			t.Errorf("%s: %+v, want %+v", name, got, e)
		}
	}
	if e, err := Decode(nil); err != nil || e.Watermark() != 0 {
		t.Errorf("no bytes: %+v, %v", e, err)
	}
}

func deref(e *Epoch) any {
	type flat struct {
		Epoch
		Start telemetry.Start
	}
	f := flat{Epoch: *e}
	if e.Start != nil {
		f.Start = *e.Start
	}
	f.Epoch.Start = nil
	return f
}

// No input makes Decode panic, or allocate on a claim.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(full().Encode())
	f.Add([]byte{version, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Decode(b)
		if err == nil && len(b) > 0 {
			again, err := Decode(e.Encode())
			if err != nil || fmt.Sprintf("%+v", deref(again)) != fmt.Sprintf("%+v", deref(e)) {
				t.Errorf("%x decodes to what does not encode", b)
			}
		}
	})
}

// Truncated and lengthened ledgers are refused.
func TestDecodeRefusesDamage(t *testing.T) {
	b := full().Encode()
	for n := 1; n < len(b); n++ {
		if _, err := Decode(b[:n]); err == nil {
			t.Errorf("%d of %d bytes decode", n, len(b))
		}
	}
	for _, bad := range [][]byte{append(bytes.Clone(b), 0), {2}, {0}} {
		if _, err := Decode(bad); err == nil {
			t.Errorf("%x decodes", bad)
		}
	}
}
