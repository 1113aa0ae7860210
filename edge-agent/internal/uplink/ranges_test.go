package uplink

import (
	"math/rand/v2"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// A set of runs says the same as a set of single numbers, whatever is added and taken.
func TestRangesAgreeWithSingleNumbers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		var s ranges
		model := map[uint64]bool{}
		for range 30 {
			first := 1 + r.Uint64N(40)
			x := telemetry.Range{First: first, Last: first + r.Uint64N(8)}
			add := r.IntN(3) > 0
			if add {
				s = s.add(x)
			} else {
				s = s.sub(x)
			}
			for n := x.First; n <= x.Last; n++ {
				model[n] = add
			}
			agree(t, s, model)
		}
	}
}

func agree(t *testing.T, s ranges, model map[uint64]bool) {
	t.Helper()
	var count uint64
	for n := uint64(1); n < 60; n++ {
		if s.covers(telemetry.Range{First: n, Last: n}) != model[n] {
			t.Fatalf("%v holds %d: want %v", s, n, model[n])
		}
		if model[n] {
			count++
		}
	}
	if s.count() != count {
		t.Fatalf("%v counts %d, want %d", s, s.count(), count)
	}
	for i := 1; i < len(s); i++ {
		if s[i].First <= s[i-1].Last+1 {
			t.Fatalf("%v: runs touch or are out of order", s)
		}
	}
	if m := s.missing(telemetry.Range{First: 1, Last: 60}); m.count()+s.count() != 60 {
		t.Fatalf("%v and what it lacks of 1 to 60, %v, are not 60 numbers", s, m)
	}
}

// Runs at both ends of the numbers do not wrap around.
func TestRangesReachTheEnds(t *testing.T) {
	const top = ^uint64(0)
	s := ranges{}.add(telemetry.Range{First: 1, Last: 3}).add(telemetry.Range{First: top - 1, Last: top})
	s = s.add(telemetry.Range{First: 4, Last: 5})
	if len(s) != 2 || s[0].Last != 5 || s[1].Last != top {
		t.Errorf("got %v", s)
	}
	if s = s.sub(telemetry.Range{First: 1, Last: top}); len(s) != 0 {
		t.Errorf("after taking all: %v", s)
	}
	if s = s.add(telemetry.Range{First: 5, Last: 4}); len(s) != 0 {
		t.Errorf("an empty run was added: %v", s)
	}
}
