package telemetry

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"slices"
)

// A column of numbers is written as its first number, and then the step from
// each to the next: in the steps' common unit, as the distance from a middle
// one, in exponential Golomb code. A counter so takes one bit a number, and
// what wanders takes about as many as it has noise. Varints took up to twice as many
// bytes, which zstd could not take back: it finds repetition, not nearness.

// numbersUnit marks a column whose unit is written; otherwise it is 1.
const numbersUnit = 64

// sampled is how many steps the middle one is sought among.
const sampled = 15

var errNumbers = errors.New("number out of bounds")

// appendNumbers appends a column, unless vs is empty. It makes steps of vs.
func appendNumbers(b []byte, vs []int64) []byte {
	if len(vs) == 0 {
		return b
	}
	b = binary.AppendVarint(b, vs[0])
	if len(vs) == 1 {
		return b
	}
	for i := len(vs) - 1; i > 0; i-- {
		vs[i] -= vs[i-1] // an overflow wraps here, and back again in next
	}
	steps := vs[1:]
	unit := unitOf(steps)
	if unit > 1 {
		for i := range steps {
			steps[i] /= unit
		}
	}
	middle := middleOf(steps)
	k := orderOf(steps, middle)
	if unit > 1 {
		b = binary.AppendUvarint(b, uint64(k|numbersUnit))
		b = binary.AppendUvarint(b, uint64(unit))
	} else {
		b = binary.AppendUvarint(b, uint64(k))
	}
	w := bitWriter{b: binary.AppendVarint(b, middle)}
	for _, s := range steps {
		w.golomb(zigzag(s-middle), k)
	}
	return w.bytes()
}

// unitOf returns the greatest common divisor of the steps, at least 1.
func unitOf(steps []int64) int64 {
	var unit uint64
	for _, s := range steps {
		v := uint64(max(s, -s))
		for v != 0 {
			unit, v = v, unit%v
		}
		if unit == 1 {
			return 1
		}
	}
	if unit == 0 || unit > math.MaxInt64 {
		return 1
	}
	return int64(unit)
}

// middleOf returns about the median.
func middleOf(steps []int64) int64 {
	var sample [sampled]int64
	n := min(len(steps), sampled)
	for i := range n {
		sample[i] = steps[i*len(steps)/n]
	}
	slices.Sort(sample[:n])
	return sample[n/2]
}

// orderOf returns the order that makes the code about shortest: with one more,
// each number below it takes a bit more, and each above it a bit less.
func orderOf(steps []int64, middle int64) uint {
	var count [65]int
	for _, s := range steps {
		count[bits.Len64(zigzag(s-middle))]++
	}
	k, below := uint(0), count[0]
	for k < 63 && 2*below < len(steps) {
		k++
		below += count[k]
	}
	if k == 0 && count[64] > 0 {
		return 1 // the largest number has no code of order 0
	}
	return k
}

// numbers reads a column of numbers. After the first error all are zero.
type numbers struct {
	bits         bitReader
	last         int64
	unit, middle int64
	k            uint
	started      bool
	err          error
}

// numbers returns a reader of the next n numbers, and goes on behind them.
func (c *column) numbers(n int) numbers {
	if n == 0 {
		return numbers{}
	}
	s := numbers{last: c.varint(), unit: 1}
	if n > 1 {
		k := c.uvarint()
		if k&numbersUnit != 0 {
			s.unit = int64(c.uvarint())
		}
		if k >= 2*numbersUnit {
			c.fail(errNumbers)
		}
		s.k = uint(k % numbersUnit)
		s.middle = c.varint()
	}
	s.bits.b = c.b
	end := s
	for range n {
		end.next()
	}
	if end.err != nil {
		c.fail(end.err)
	}
	if c.err != nil {
		return numbers{err: c.err}
	}
	s.bits.b = c.b[:len(c.b)-len(end.bits.b)]
	c.b = end.bits.b
	return s
}

func (s *numbers) next() int64 {
	if !s.started {
		s.started = true
		return s.last
	}
	if s.err != nil {
		return 0
	}
	var v uint64
	if v, s.err = s.bits.golomb(s.k); s.err != nil {
		return 0
	}
	s.last += (unzigzag(v) + s.middle) * s.unit
	return s.last
}

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// bitWriter appends bits to b, the highest of a byte first.
type bitWriter struct {
	b   []byte
	acc uint64
	n   uint // how many of acc's low bits are still to be written, below 8
}

// put appends the low n bits of v, which has no others; n is at most 64.
func (w *bitWriter) put(v uint64, n uint) {
	if n > 32 {
		w.put(v>>32, n-32)
		v, n = v&math.MaxUint32, 32
	}
	w.acc = w.acc<<n | v
	for w.n += n; w.n >= 8; {
		w.n -= 8
		w.b = append(w.b, byte(w.acc>>w.n))
	}
}

// golomb appends v in exponential Golomb code of order k. The sum v>>k + 1 must
// not overflow.
func (w *bitWriter) golomb(v uint64, k uint) {
	x := v>>k + 1
	n := uint(bits.Len64(x))
	w.put(0, n-1)
	w.put(x, n)
	w.put(v&(1<<k-1), k)
}

// bytes returns what was written, filled up with zeros to a whole byte.
func (w *bitWriter) bytes() []byte {
	if w.n > 0 {
		w.put(0, 8-w.n)
	}
	return w.b
}

// bitReader reads what bitWriter wrote.
type bitReader struct {
	b   []byte
	acc uint64
	n   uint // how many of acc's low bits are still to be read
}

// get returns the next n bits; n is at most 64.
func (r *bitReader) get(n uint) (uint64, error) {
	if n > 32 {
		high, err := r.get(n - 32)
		if err != nil {
			return 0, err
		}
		low, err := r.get(32)
		return high<<32 | low, err
	}
	for r.n < n {
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	r.n -= n
	return r.acc >> r.n & (1<<n - 1), nil
}

func (r *bitReader) more() error {
	if len(r.b) == 0 {
		return errColumnShort
	}
	r.acc = r.acc<<8 | uint64(r.b[0])
	r.b = r.b[1:]
	r.n += 8
	return nil
}

// zeros skips zeros, and returns how many there were before the next 1.
func (r *bitReader) zeros() (uint, error) {
	zeros := uint(0)
	for {
		if rest := r.acc & (1<<r.n - 1); rest != 0 {
			skip := r.n - uint(bits.Len64(rest))
			r.n -= skip
			return zeros + skip, nil
		}
		zeros += r.n
		r.n = 0
		if err := r.more(); err != nil {
			return 0, err
		}
	}
}

// golomb returns the next number in exponential Golomb code of order k.
func (r *bitReader) golomb(k uint) (uint64, error) {
	n, err := r.zeros()
	if err != nil {
		return 0, err
	}
	if n > 63 {
		return 0, errNumbers
	}
	x, err := r.get(n + 1)
	if err != nil {
		return 0, err
	}
	if x-1 > math.MaxUint64>>k {
		return 0, errNumbers
	}
	low, err := r.get(k)
	return (x-1)<<k | low, err
}
