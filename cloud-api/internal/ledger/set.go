// Package ledger is the arithmetic of what the cloud holds of one epoch: sets of
// sequence numbers that are held, expired, quarantined, lost or still on the
// device. It does no input or output; a store keeps what Encode returns under
// the row's lock, and any order, overlap and repetition of the same statements
// ends in the same ledger.
package ledger

import (
	"slices"
	"sort"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// MaxSeq is the highest sequence number the cloud stores: a store may pack an
// epoch's row number and a seq into one 64-bit key. At 10 000 records a second
// it lasts three years of one process that never restarts.
const MaxSeq = 1<<40 - 1

// Set is a set of sequence numbers, which start at 1: ascending ranges that neither overlap nor
// touch. The zero Set is empty. Methods that change it work in place.
type Set []telemetry.Range

// Contains reports whether seq is in the set.
func (s Set) Contains(seq uint64) bool {
	i := s.search(seq)
	return i < len(s) && s[i].First <= seq
}

// Count returns how many numbers the set has.
func (s Set) Count() uint64 {
	var n uint64
	for _, r := range s {
		n += r.Len()
	}
	return n
}

// Max returns the highest number of the set, 0 when it is empty.
func (s Set) Max() uint64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].Last
}

// search returns the index of the first range that ends at or after seq.
func (s Set) search(seq uint64) int {
	return sort.Search(len(s), func(i int) bool { return s[i].Last >= seq })
}

// Add puts every number of r into the set.
func (s *Set) Add(r telemetry.Range) {
	if r.Len() == 0 {
		return
	}
	r.First = max(r.First, 1)
	i := s.search(r.First - 1) // a range that ends right before r is joined to it
	j := i
	for j < len(*s) && ((*s)[j].First <= r.Last || (*s)[j].First-1 == r.Last) {
		r.First = min(r.First, (*s)[j].First)
		r.Last = max(r.Last, (*s)[j].Last)
		j++
	}
	*s = slices.Replace(*s, i, j, r)
}

// Remove takes every number of r out of the set.
func (s *Set) Remove(r telemetry.Range) {
	if r.Len() == 0 {
		return
	}
	i := s.search(r.First)
	j := i
	var rest []telemetry.Range
	for j < len(*s) && (*s)[j].First <= r.Last {
		if o := (*s)[j]; o.First < r.First {
			rest = append(rest, telemetry.Range{First: o.First, Last: r.First - 1})
		}
		if o := (*s)[j]; o.Last > r.Last {
			rest = append(rest, telemetry.Range{First: r.Last + 1, Last: o.Last})
		}
		j++
	}
	*s = slices.Replace(*s, i, j, rest...)
}

// Without returns the parts of r that are not in the set.
func (s Set) Without(r telemetry.Range) Set {
	var out Set
	for i := s.search(r.First); i < len(s) && r.Len() > 0 && s[i].First <= r.Last; i++ {
		if s[i].First > r.First {
			out = append(out, telemetry.Range{First: r.First, Last: s[i].First - 1})
		}
		r.First = s[i].Last + 1
	}
	if r.Len() > 0 {
		out = append(out, r)
	}
	return out
}

// Within returns the parts of r that are in the set.
func (s Set) Within(r telemetry.Range) Set {
	var out Set
	for i := s.search(r.First); r.Len() > 0 && i < len(s) && s[i].First <= r.Last; i++ {
		out = append(out, telemetry.Range{First: max(r.First, s[i].First), Last: min(r.Last, s[i].Last)})
	}
	return out
}

// Union returns the numbers that are in any of the sets.
func Union(sets ...Set) Set {
	var all Set
	for _, s := range sets {
		all = append(all, s...)
	}
	slices.SortFunc(all, func(a, b telemetry.Range) int {
		if a.First < b.First {
			return -1
		}
		return 1
	})
	out := all[:0]
	for _, r := range all {
		if n := len(out); n > 0 && r.First <= out[n-1].Last+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Clone returns a copy that shares nothing with s.
func (s Set) Clone() Set { return slices.Clone(s) }
