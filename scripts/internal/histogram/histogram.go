// Package histogram counts durations in bounded memory: a day of messages takes
// as much as a second of them, and a quantile is right to 1.6 %.
package histogram

import (
	"math/bits"
	"time"
)

// sub is how many buckets there are to a doubling: 64 make them 1.6 % wide.
const (
	subBits = 6
	sub     = 1 << subBits
)

// Histogram counts durations of at least a microsecond. The zero value is
// empty; it must not be used by several goroutines at a time.
type Histogram struct {
	counts [(64 - subBits) * sub]uint64
	total  uint64
	max    time.Duration
}

// Add counts d; a negative one counts as 0.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d.Microseconds()))]++
	h.total++
	h.max = max(h.max, d)
}

// Merge adds everything that o counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.max = max(h.max, o.max)
}

// Count returns how many durations were added.
func (h *Histogram) Count() uint64 { return h.total }

// Max returns the longest one, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns the q-quantile (0 to 1), rounded up to its bucket's end but
// never above Max; 0 when nothing was added.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := min(uint64(q*float64(h.total)), max(h.total, 1)-1)
	var below uint64
	for i, n := range h.counts {
		if below += n; below > rank {
			return min(time.Duration(upper(i))*time.Microsecond, h.max)
		}
	}
	return 0
}

// bucket: values below sub have one each; above, the bits after the leading one
// choose among the sub buckets of a doubling.
func bucket(v uint64) int {
	if v < sub {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return (shift+1)*sub + int(v>>shift) - sub
}

// upper is the largest value in a bucket.
func upper(i int) uint64 {
	if i < sub {
		return uint64(i)
	}
	shift := i/sub - 1
	return uint64(i%sub+sub+1)<<shift - 1
}
