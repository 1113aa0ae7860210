package ranges

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const top = 40

func bits(s Set) (out [top + 1]bool) {
	for _, r := range s {
		for i := r.First; i <= r.Last; i++ {
			out[i] = true
		}
	}
	return out
}

// Whatever is added and taken away, a set agrees with one bit a number, and its
// runs neither overlap nor touch.
func TestSetAgreesWithBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var s Set
	var want [top + 1]bool
	for step := range 50_000 {
		r := telemetry.Range{First: 1 + rng.Uint64N(top-1)}
		r.Last = r.First + rng.Uint64N(8) - 1
		r.Last = min(r.Last, top)
		before, copied := bits(s), s
		add := rng.IntN(2) == 0
		if add {
			s = s.Add(r)
		} else {
			s = s.Sub(r)
		}
		if bits(copied) != before {
			t.Fatalf("step %d changed the set it came from", step)
		}
		for i := r.First; i <= r.Last; i++ {
			want[i] = add
		}
		if bits(s) != want {
			t.Fatalf("step %d: %v after %v, add %t", step, s, r, add)
		}
		for i := 1; i < len(s); i++ {
			if s[i].First <= s[i-1].Last+1 {
				t.Fatalf("step %d: runs touch: %v", step, s)
			}
		}
		check(t, s, want, r)
	}
}

func check(t *testing.T, s Set, want [top + 1]bool, r telemetry.Range) {
	t.Helper()
	covers, overlaps, n := true, false, uint64(0)
	for i := r.First; i <= r.Last; i++ {
		covers, overlaps = covers && want[i], overlaps || want[i]
	}
	for i := range want {
		if want[i] {
			n++
		}
	}
	if s.Covers(r) != covers || s.Overlaps(r) != overlaps || s.Len() != n {
		t.Fatalf("%v and %v: covers %t, overlaps %t, len %d", s, r, s.Covers(r), s.Overlaps(r), s.Len())
	}
	if got := s.Within(r).Len() + s.Missing(r).Len(); got != r.Len() {
		t.Fatalf("%v and %v: within and missing are %d numbers", s, r, got)
	}
	mark := uint64(0)
	for mark < top && want[mark+1] {
		mark++
	}
	if s.Watermark() != mark {
		t.Fatalf("%v: watermark %d, want %d", s, s.Watermark(), mark)
	}
}

// The highest number there is does not overflow.
func TestSetHoldsHighestNumber(t *testing.T) {
	s := Set{}.Add(telemetry.Range{First: math.MaxUint64 - 1, Last: math.MaxUint64}).Add(telemetry.Range{First: 1, Last: 3})
	s = s.Add(telemetry.Range{First: 4, Last: math.MaxUint64 - 2})
	if len(s) != 1 || s[0] != (telemetry.Range{First: 1, Last: math.MaxUint64}) {
		t.Fatal(s)
	}
	if s = s.Sub(telemetry.Range{First: 2, Last: math.MaxUint64}); s.Len() != 1 {
		t.Fatal(s)
	}
}
