package telemetry

import (
	"encoding/binary"
	"errors"
)

var (
	errColumnShort = errors.New("column too short")
	errColumnLong  = errors.New("column too long")
	errColumnRun   = errors.New("column with an empty or overlong run")
)

// maxColumn is more than any column has in bytes, and no sum of it overflows.
const maxColumn = 2 * MaxBody

// column reads what the append functions below wrote. The first error sticks:
// what is read after it is zero, so a loop over a count that was checked needs
// no test of its own.
type column struct {
	b   []byte
	err error

	run  uint64 // what run() still has to give of value
	same uint64
}

func (c *column) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.b, c.run = nil, 0
}

func (c *column) uvarint() uint64 {
	if len(c.b) > 0 && c.b[0] < 0x80 {
		v := uint64(c.b[0])
		c.b = c.b[1:]
		return v
	}
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail(errColumnShort)
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *column) varint() int64 {
	v := c.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// take returns the next n bytes, sharing their memory.
func (c *column) take(n uint64) []byte {
	if n > uint64(len(c.b)) {
		c.fail(errColumnShort)
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

// skip returns a column of the next n varints, and goes on behind them.
func (c *column) skip(n int) column {
	at := 0
	for ; n > 0 && at < len(c.b); at++ {
		if c.b[at] < 0x80 {
			n--
		}
	}
	if n > 0 {
		c.fail(errColumnShort)
		return column{}
	}
	return column{b: c.take(uint64(at))}
}

// sum returns the sum of the next n varints, or more than any column has, and
// goes nowhere.
func (c column) sum(n int) uint64 {
	var sum uint64
	for range n {
		sum += min(c.uvarint(), maxColumn)
	}
	return sum
}

// next returns the next value of a column of runs.
func (c *column) next() uint64 {
	if c.run == 0 {
		c.same, c.run = c.uvarint(), c.uvarint()
		if c.run == 0 {
			c.fail(errColumnRun)
			return 0
		}
	}
	c.run--
	return c.same
}

// end returns the first error, or one unless the whole column was read.
func (c *column) end() error {
	if c.err == nil && (len(c.b) > 0 || c.run > 0) {
		return errColumnLong
	}
	return c.err
}

// runs writes a column of runs: add for each value, and bytes at the end.
type runs struct {
	b          []byte
	same, many uint64
}

func (r *runs) add(v uint64) {
	if r.many > 0 && r.same != v {
		r.flush()
	}
	r.same = v
	r.many++
}

func (r *runs) flush() {
	if r.many > 0 {
		r.b = binary.AppendUvarint(r.b, r.same)
		r.b = binary.AppendUvarint(r.b, r.many)
	}
	r.many = 0
}

func (r *runs) bytes() []byte {
	r.flush()
	return r.b
}
