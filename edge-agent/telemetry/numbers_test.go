package telemetry

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func roundTripNumbers(t *testing.T, vs []int64) (size int) {
	t.Helper()
	b := appendNumbers(nil, slices.Clone(vs))
	c := column{b: append(slices.Clone(b), 0xaa)} // what follows must be left alone
	s := c.numbers(len(vs))
	for i, want := range vs {
		if got := s.next(); got != want || s.err != nil {
			t.Fatalf("number %d of %d is %d, want %d (%v)", i, len(vs), got, want, s.err)
		}
	}
	if len(c.b) != 1 || c.err != nil {
		t.Fatalf("%d bytes left, want 1 (%v)", len(c.b), c.err)
	}
	return len(b)
}

// Numbers come back whatever they are, also where their differences overflow.
func TestNumbersRoundTrip(t *testing.T) {
	far := []int64{math.MinInt64, math.MaxInt64, 0, -1, 1, math.MinInt64 + 1, math.MaxInt64 - 1}
	for _, a := range far {
		for _, b := range far {
			for _, c := range far {
				roundTripNumbers(t, []int64{a, b, c})
			}
		}
	}
	roundTripNumbers(t, nil)
	roundTripNumbers(t, far)
	for range 2000 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		vs := make([]int64, 1+rng.IntN(100))
		width, unit := rng.IntN(64), 1+rng.Int64N(1000)
		for i := range vs {
			vs[i] = int64(rng.Uint64()>>width) * unit
		}
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { roundTripNumbers(t, vs) })
	}
}

// A counter takes a bit a number, and a clock in milliseconds that is kept in
// nanoseconds takes no more than one in milliseconds.
func TestNumbersAreSmall(t *testing.T) {
	counter, millis, nanos := make([]int64, 1000), make([]int64, 1000), make([]int64, 1000)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range counter {
		counter[i] = 1e9 + int64(i)
		millis[i] = 1e9 + 1000*int64(i) + rng.Int64N(8)
		nanos[i] = millis[i] * 1e6
	}
	if n := roundTripNumbers(t, counter); n > 140 {
		t.Errorf("a counter takes %d bytes", n)
	}
	m, n := roundTripNumbers(t, millis), roundTripNumbers(t, nanos)
	if m > 900 || n > m+8 {
		t.Errorf("milliseconds take %d bytes, in nanoseconds %d", m, n)
	}
}
