package histogram

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A quantile is never below the true one, and at most 1.6 % (and a microsecond) above.
func TestQuantileIsCloseFromAbove(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h Histogram
	var all []time.Duration
	for range 20000 {
		d := time.Duration(r.ExpFloat64() * float64(30*time.Millisecond))
		all = append(all, d)
		h.Add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.1, 0.5, 0.9, 0.99, 0.999} {
		want := all[int(q*float64(len(all)))]
		got := h.Quantile(q)
		if got < want.Truncate(time.Microsecond) || float64(got) > float64(want)*1.016+float64(time.Microsecond) {
			t.Errorf("q %v: %v, want %v", q, got, want)
		}
	}
	if h.Quantile(1) != h.Max() || h.Max() != all[len(all)-1] {
		t.Errorf("max = %v and %v, want %v", h.Quantile(1), h.Max(), all[len(all)-1])
	}
}

// Every value has a bucket whose end is not below it, up to the longest duration there is.
func TestBucketsCoverEverything(t *testing.T) {
	for v := uint64(1); v < 1<<63/1000; v += v/7 + 1 {
		i := bucket(v)
		if upper(i) < v || (i > 0 && upper(i-1) >= v) {
			t.Fatalf("%d is in bucket %d, from %d to %d", v, i, upper(i-1)+1, upper(i))
		}
	}
}

// Two halves merged are the whole; an empty one has no quantile; time that runs backwards counts as none.
func TestMergeAndEdges(t *testing.T) {
	var whole, a, b, empty Histogram
	for i := range 1000 {
		d := time.Duration(i*i) * time.Microsecond
		whole.Add(d)
		if i%2 == 0 {
			a.Add(d)
		} else {
			b.Add(d)
		}
	}
	a.Merge(&b)
	if a != whole || a.Count() != 1000 {
		t.Fatal("merged is not the whole")
	}
	if empty.Quantile(0.5) != 0 {
		t.Fatal("an empty histogram has a median")
	}
	empty.Add(-time.Second)
	if empty.Quantile(1) != 0 || empty.Count() != 1 {
		t.Fatalf("a negative duration counts as %v", empty.Quantile(1))
	}
}
