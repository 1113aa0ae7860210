// Package ranges keeps sets of sequence numbers as sorted runs. A set holds no
// two runs that overlap or touch, whatever was added to it.
package ranges

import (
	"math"
	"sort"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Set is a set of sequence numbers: ascending runs that neither overlap nor
// touch. The zero Set is empty. A Set is never changed in place: every method
// that changes it returns another one, so a copy taken before stays as it was.
type Set []telemetry.Range

// Add returns s with all of r. An empty r changes nothing.
func (s Set) Add(r telemetry.Range) Set {
	if r.Len() == 0 {
		return s
	}
	// from is the first run that touches r or lies after it, to the first
	// that lies wholly after it.
	from := sort.Search(len(s), func(i int) bool { return s[i].Last >= r.First || s[i].Last+1 == r.First })
	to := sort.Search(len(s), func(i int) bool { return s[i].First > r.Last && (r.Last == math.MaxUint64 || s[i].First != r.Last+1) })
	if from < to {
		r.First = min(r.First, s[from].First)
		r.Last = max(r.Last, s[to-1].Last)
	}
	out := make(Set, 0, len(s)+1-(to-from))
	out = append(out, s[:from]...)
	out = append(out, r)
	return append(out, s[to:]...)
}

// Sub returns s without r.
func (s Set) Sub(r telemetry.Range) Set {
	if r.Len() == 0 || !s.Overlaps(r) {
		return s
	}
	out := make(Set, 0, len(s)+1)
	for _, x := range s {
		if x.Last < r.First || x.First > r.Last {
			out = append(out, x)
			continue
		}
		if x.First < r.First {
			out = append(out, telemetry.Range{First: x.First, Last: r.First - 1})
		}
		if x.Last > r.Last {
			out = append(out, telemetry.Range{First: r.Last + 1, Last: x.Last})
		}
	}
	return out
}

// Union returns every number that is in s, in t or in both.
func (s Set) Union(t Set) Set {
	for _, r := range t {
		s = s.Add(r)
	}
	return s
}

// Overlaps reports whether s holds any number of r.
func (s Set) Overlaps(r telemetry.Range) bool {
	if r.Len() == 0 {
		return false
	}
	i := sort.Search(len(s), func(i int) bool { return s[i].Last >= r.First })
	return i < len(s) && s[i].First <= r.Last
}

// Covers reports whether s holds every number of r. An empty r is covered.
func (s Set) Covers(r telemetry.Range) bool {
	if r.Len() == 0 {
		return true
	}
	i := sort.Search(len(s), func(i int) bool { return s[i].Last >= r.First })
	return i < len(s) && s[i].First <= r.First && s[i].Last >= r.Last
}

// Within returns the part of s that lies in r.
func (s Set) Within(r telemetry.Range) Set {
	var out Set
	i := sort.Search(len(s), func(i int) bool { return s[i].Last >= r.First })
	for ; i < len(s) && r.Len() > 0 && s[i].First <= r.Last; i++ {
		out = append(out, telemetry.Range{First: max(s[i].First, r.First), Last: min(s[i].Last, r.Last)})
	}
	return out
}

// Missing returns the part of r that is not in s.
func (s Set) Missing(r telemetry.Range) Set {
	if r.Len() == 0 {
		return nil
	}
	out := Set{r}
	for _, x := range s.Within(r) {
		out = out.Sub(x)
	}
	return out
}

// Watermark returns the highest number up to which s holds everything from 1,
// or 0 when it does not hold 1.
func (s Set) Watermark() uint64 {
	if len(s) == 0 || s[0].First > 1 {
		return 0
	}
	return s[0].Last
}

// Len returns how many numbers s holds.
func (s Set) Len() uint64 {
	var n uint64
	for _, r := range s {
		n += r.Len()
	}
	return n
}
