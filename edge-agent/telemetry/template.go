package telemetry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Sensors send the same text over and over with other numbers in it. Payloads
// that are equal but for their runs of decimal digits share a template, the
// text with 0 in place of each run, and the runs at one place in it make a
// column, in which a number is written as the difference from the one before.
// That is lossless for any bytes, and what zstd makes of it is less than half of
// what it makes of the payloads themselves.

// maxTemplate bounds the payloads that are looked at for a template; zstd alone
// does well on larger ones.
const maxTemplate = 8 << 10

// How the runs of digits in a column are written. From 1 to maxDigits it is the
// number of digits that all have.
const (
	digitsPlain    = 0  // numbers without leading zeros
	maxDigits      = 18 // what fits into an int64, and so does the difference of two
	digitsVerbatim = 19

	// Above digitsFraction it is digitsFraction + the number of digits that none
	// exceeds: they follow a point, and trailing zeros are not there.
	digitsFraction = 20

	maxNumber = 1e18 - 1 // the largest of maxDigits digits
)

// shapesOf returns the templates that more than one payload has, and for each
// payload 1 + the index of its template, or 0 when it has none.
func shapesOf(payloads [][]byte) (texts []string, shapes []int) {
	all := make(map[string]int)
	var names []string
	var count []int
	shapes = make([]int, len(payloads))
	var text []byte
	last := -1 // neighbours are mostly alike
	for i, p := range payloads {
		if len(p) > maxTemplate {
			shapes[i] = -1
			continue
		}
		text = appendTemplate(text[:0], p)
		if last < 0 || string(text) != names[last] {
			id, known := all[string(text)]
			if !known {
				id = len(names)
				names = append(names, string(text))
				count = append(count, 0)
				all[names[id]] = id
			}
			last = id
		}
		count[last]++
		shapes[i] = last
	}
	return shared(names, count, shapes), shapes
}

// shared keeps the names that come more than once, in order of first use, and
// renumbers the shapes to them.
func shared(names []string, count, shapes []int) (texts []string) {
	number := make([]int, len(names))
	for i, id := range shapes {
		if id < 0 || count[id] < 2 {
			shapes[i] = 0
			continue
		}
		if number[id] == 0 {
			texts = append(texts, names[id])
			number[id] = len(texts)
		}
		shapes[i] = number[id]
	}
	return texts
}

// appendTemplate appends p with 0 in place of each run of digits.
func appendTemplate(b, p []byte) []byte {
	inside := false
	for _, c := range p {
		if !isDigit(c) {
			b, inside = append(b, c), false
		} else if !inside {
			b, inside = append(b, '0'), true
		}
	}
	return b
}

func isDigit(c byte) bool { return c-'0' < 10 }

// slotWriter goes through the payloads of one template from one run of digits
// to the next.
type slotWriter struct {
	rest [][]byte // of each payload, what was not read yet
	runs [][]byte // the run of each that cut found last
	vs   []int64
}

// reset starts with the payloads at rows.
func (s *slotWriter) reset(payloads [][]byte, rows []int) {
	s.rest = slices.Grow(s.rest[:0], len(rows))
	for _, at := range rows {
		s.rest = append(s.rest, payloads[at])
	}
	s.runs = slices.Grow(s.runs[:0], len(rows))[:len(rows)]
	s.vs = slices.Grow(s.vs[:0], len(rows))
}

// cut finds the next run of digits in each payload.
func (s *slotWriter) cut() {
	for i, p := range s.rest {
		from := 0
		for !isDigit(p[from]) {
			from++
		}
		to := from + 1
		for to < len(p) && isDigit(p[to]) {
			to++
		}
		s.runs[i], s.rest[i] = p[from:to], p[to:]
	}
}

// append appends the column that cut found; before is what stands before each
// run in it.
func (s *slotWriter) append(b []byte, before string) []byte {
	mode := modeOf(s.runs, strings.HasSuffix(before, "."))
	b = binary.AppendUvarint(b, mode)
	if mode == digitsVerbatim {
		for _, r := range s.runs {
			b = binary.AppendUvarint(b, uint64(len(r)))
		}
		for _, r := range s.runs {
			b = append(b, r...)
		}
		return b
	}
	s.vs = s.vs[:0]
	for _, r := range s.runs {
		var v int64
		for _, c := range r {
			v = 10*v + int64(c-'0')
		}
		for n := len(r); mode > digitsFraction && n < int(mode-digitsFraction); n++ {
			v *= 10
		}
		s.vs = append(s.vs, v)
	}
	return appendNumbers(b, s.vs)
}

// modeOf returns how to write a column so that nothing is lost.
func modeOf(runs [][]byte, fraction bool) uint64 {
	least, most, plain := maxDigits, 0, true
	for _, r := range runs {
		least, most = min(least, len(r)), max(most, len(r))
		plain = plain && (r[0] != '0' || len(r) == 1)
		fraction = fraction && (r[len(r)-1] != '0' || len(r) == 1)
	}
	switch {
	case most > maxDigits:
		return digitsVerbatim
	case fraction && least < most:
		return digitsFraction + uint64(most)
	case plain:
		return digitsPlain
	case least == most:
		return uint64(most)
	}
	return digitsVerbatim
}

// template puts payloads together again.
type template struct {
	slots []slot
	tail  []byte // after the last run of digits
}

// slot is one run of digits of a template.
type slot struct {
	before  []byte // text between the run before and this one
	mode    uint64
	numbers numbers
	lengths column // and digits: for digitsVerbatim
	digits  column
}

var errDigits = errors.New("digits out of bounds")

// open reads the places of text's columns, of n values each, from digits.
func (t *template) open(text []byte, n int, digits *column) error {
	t.slots = t.slots[:0]
	if bytes.Count(text, []byte{'0'})*n > MaxBody { // every run has a digit
		return errPayloads
	}
	for {
		at := bytes.IndexByte(text, '0')
		if at < 0 {
			t.tail = text
			return digits.err
		}
		s := slot{before: text[:at], mode: digits.uvarint()}
		if s.mode == digitsFraction || s.mode > digitsFraction+maxDigits {
			return errDigits
		}
		if s.mode == digitsVerbatim {
			s.lengths = digits.skip(n)
			s.digits = column{b: digits.take(s.lengths.sum(n))}
		} else {
			s.numbers = digits.numbers(n)
		}
		t.slots = append(t.slots, s)
		text = text[at+1:]
	}
}

// fill makes the payloads at rows, which share one piece of memory, and returns
// how much is left of room.
func (t *template) fill(payloads [][]byte, rows []int, room int) (int, error) {
	b := make([]byte, 0, min(room, len(rows)*t.size()))
	ends := make([]int, len(rows))
	var err error
	for i := range rows {
		from := len(b)
		if b, err = t.append(b); err != nil {
			return 0, err
		}
		if len(b)-from > maxTemplate || len(b) > room {
			return 0, errPayloads
		}
		ends[i] = len(b)
	}
	from := 0
	for i, at := range rows {
		payloads[at] = b[from:ends[i]:ends[i]]
		from = ends[i]
	}
	return room - len(b), nil
}

// size returns about how long a payload is, and no more than it may be.
func (t *template) size() int {
	n := len(t.tail)
	for i := range t.slots {
		n += len(t.slots[i].before) + 4
	}
	return min(n, maxTemplate)
}

// append appends the next payload.
func (t *template) append(b []byte) ([]byte, error) {
	for i := range t.slots {
		s := &t.slots[i]
		b = append(b, s.before...)
		var err error
		if b, err = s.append(b); err != nil {
			return nil, err
		}
	}
	return append(b, t.tail...), nil
}

// append appends the next run of digits.
func (s *slot) append(b []byte) ([]byte, error) {
	if s.mode == digitsVerbatim {
		return append(b, s.digits.take(s.lengths.uvarint())...), s.digits.err
	}
	v := s.numbers.next()
	if v < 0 || v > maxNumber {
		return nil, errDigits
	}
	if s.mode == digitsPlain {
		return strconv.AppendInt(b, v, 10), nil
	}
	var text [maxDigits]byte
	for i := range text {
		text[maxDigits-1-i] = '0' + byte(v%10)
		v /= 10
	}
	if s.mode < digitsFraction {
		return append(b, text[maxDigits-s.mode:]...), nil
	}
	b = append(b, text[maxDigits+digitsFraction-s.mode:]...)
	for n := s.mode - digitsFraction; n > 1 && b[len(b)-1] == '0'; n-- {
		b = b[:len(b)-1]
	}
	return b, nil
}
