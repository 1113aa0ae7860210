package uplink

import (
	"slices"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// ranges is a set of sequence numbers as ascending runs that neither touch nor
// overlap. It stays short: a receipt names at most telemetry.MaxHeld runs.
type ranges []telemetry.Range

// add puts r into the set, merging what it touches.
func (s ranges) add(r telemetry.Range) ranges {
	if r.Len() == 0 {
		return s
	}
	i := 0
	for i < len(s) && s[i].Last < r.First && r.First-s[i].Last > 1 {
		i++
	}
	j := i
	for j < len(s) && (s[j].First <= r.Last || s[j].First-r.Last == 1) {
		r.First, r.Last = min(r.First, s[j].First), max(r.Last, s[j].Last)
		j++
	}
	return slices.Replace(s, i, j, r)
}

// sub returns the set without r.
func (s ranges) sub(r telemetry.Range) ranges {
	var out ranges
	for _, x := range s {
		if r.Len() == 0 || x.Last < r.First || x.First > r.Last {
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

// missing returns what of r is not in the set, ascending.
func (s ranges) missing(r telemetry.Range) ranges {
	if r.Len() == 0 {
		return nil
	}
	out := ranges{r}
	for _, x := range s {
		out = out.sub(x)
	}
	return out
}

// covers reports whether all of r is in the set.
func (s ranges) covers(r telemetry.Range) bool { return len(s.missing(r)) == 0 }

// count returns how many numbers the set holds.
func (s ranges) count() uint64 {
	var n uint64
	for _, x := range s {
		n += x.Len()
	}
	return n
}
