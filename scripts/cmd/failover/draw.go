package main

import (
	"math/rand/v2"
	"slices"

	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
)

// draw returns count kinds in an order that the seed decides; 0: each once. What
// is more than there are kinds comes from further shuffles of all. What is less
// is a part that begins where the part of the seed before ends, so that a few
// seeds in a row have every kind.
func draw(kinds []faults.Fault, count int, seed uint64, r *rand.Rand) []faults.Fault {
	if count == 0 {
		count = len(kinds)
	}
	if len(kinds) == 0 {
		return nil
	}
	var drawn []faults.Fault
	for len(drawn)+len(kinds) <= count {
		drawn = append(drawn, shuffled(kinds, r)...)
	}
	rest := count - len(drawn)
	var part []faults.Fault
	start := seed % uint64(len(kinds)) * uint64(rest)
	for i := range uint64(rest) {
		part = append(part, kinds[(start+i)%uint64(len(kinds))])
	}
	return append(drawn, shuffled(part, r)...)
}

func shuffled(list []faults.Fault, r *rand.Rand) []faults.Fault {
	list = slices.Clone(list)
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}
