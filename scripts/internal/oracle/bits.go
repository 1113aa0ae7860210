package oracle

import (
	"iter"
	"maps"
	mathbits "math/bits"
	"slices"
)

// blockBits: memory is in proportion to the numbers that are set, so that one
// absurd number (a seq of 2^60) cannot ask for 2^57 bytes.
const blockBits = 1 << 12

type block [blockBits / 64]uint64

// bits is a set of numbers. The zero value is empty.
type bits struct {
	blocks map[uint64]*block
	count  uint64
}

// set adds n and reports whether it was new.
func (b *bits) set(n uint64) bool {
	if b.blocks == nil {
		b.blocks = map[uint64]*block{}
	}
	bl := b.blocks[n/blockBits]
	if bl == nil {
		bl = new(block)
		b.blocks[n/blockBits] = bl
	}
	word, mask := &bl[n%blockBits/64], uint64(1)<<(n%64)
	if *word&mask != 0 {
		return false
	}
	*word |= mask
	b.count++
	return true
}

// without yields, ascending, the numbers of b that are not in other.
func (b *bits) without(other *bits) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		var none block
		for _, at := range slices.Sorted(maps.Keys(b.blocks)) {
			theirs := other.blocks[at]
			if theirs == nil {
				theirs = &none
			}
			for i, word := range b.blocks[at] {
				for left := word &^ theirs[i]; left != 0; left &= left - 1 {
					if !yield(at*blockBits + uint64(i)*64 + uint64(mathbits.TrailingZeros64(left))) {
						return
					}
				}
			}
		}
	}
}
