package telemetry

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/internal/wire"
)

// topics collects readings by topic.
type topics struct {
	names []string
	index map[string]int
	of    []int
	all   [][]byte
}

func newTopics(n int) *topics {
	return &topics{index: make(map[string]int), of: make([]int, 0, n), all: make([][]byte, 0, n)}
}

func (t *topics) add(r *Reading) uint64 {
	i, ok := t.index[r.Topic]
	if !ok {
		i = len(t.names)
		t.index[r.Topic] = i
		t.names = append(t.names, r.Topic)
	}
	t.of = append(t.of, i)
	t.all = append(t.all, r.Payload)
	return uint64(i)
}

// payloads returns the payloads in order of topic, then seq.
func (t *topics) payloads() [][]byte {
	out := make([][]byte, 0, len(t.all))
	for _, at := range group(t.of, len(t.names)).order {
		out = append(out, t.all[at])
	}
	return out
}

// groups holds positions ordered by the group they are in, and in their own
// order within one.
type groups struct {
	order []int
	ends  []int // of each group in order
}

// group orders the positions 0, 1, … of index by what index says, below n.
func group(index []int, n int) groups {
	ends := make([]int, n+1)
	for _, v := range index {
		ends[v+1]++
	}
	for i := range n {
		ends[i+1] += ends[i]
	}
	order := make([]int, len(index))
	for at, v := range index {
		order[ends[v]] = at
		ends[v]++
	}
	return groups{order, ends[:n]}
}

// of returns the positions in group v.
func (g groups) of(v int) []int {
	from := 0
	if v > 0 {
		from = g.ends[v-1]
	}
	return g.order[from:g.ends[v]]
}

// appendPayloads appends the payloads, by template where they have one in common.
func appendPayloads(w *wire.Body, payloads [][]byte) {
	texts, index := shapesOf(payloads)
	var shapes runs
	for _, v := range index {
		shapes.add(uint64(v))
	}
	w.Shapes = shapes.bytes()
	by := group(index, len(texts)+1)
	for _, at := range by.of(0) {
		w.Lengths = binary.AppendUvarint(w.Lengths, uint64(len(payloads[at])))
		w.Verbatim = append(w.Verbatim, payloads[at]...)
	}
	var s slotWriter
	for i, text := range texts {
		w.TemplateLengths = binary.AppendUvarint(w.TemplateLengths, uint64(len(text)))
		w.Templates = append(w.Templates, text...)
		s.reset(payloads, by.of(i+1))
		for at := range len(text) {
			if text[at] == '0' {
				s.cut()
				w.Digits = s.append(w.Digits, text[:at])
			}
		}
	}
}

// errPayloads is for a few bytes that would make many.
var errPayloads = fmt.Errorf("payloads of more than %d bytes", MaxBody)

// decodePayloads returns n payloads in the order in which they were appended.
func decodePayloads(w *wire.Body, n int) ([][]byte, error) {
	texts, err := split(w.TemplateLengths, w.Templates, maxTemplate)
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	shapes, index, used := column{b: w.Shapes}, make([]int, n), 1 // shape 0 is always there
	for i := range index {
		if index[i], err = firstUse(shapes.next(), len(texts)+1, &used); err != nil {
			return nil, fmt.Errorf("shapes: %w", err)
		}
	}
	if used != len(texts)+1 {
		return nil, fmt.Errorf("%d templates, %d of them used", len(texts), used-1)
	}
	by := group(index, len(texts)+1)
	payloads := make([][]byte, n)
	lengths, verbatim, digits := column{b: w.Lengths}, column{b: w.Verbatim}, column{b: w.Digits}
	for _, at := range by.of(0) {
		size := lengths.uvarint()
		if size > MaxPayload {
			return nil, fmt.Errorf("payload of %d bytes, at most %d", size, MaxPayload)
		}
		payloads[at] = verbatim.take(size)
	}
	room := MaxBody - len(w.Verbatim)
	var t template
	for i, text := range texts {
		rows := by.of(i + 1)
		if err := t.open(text, len(rows), &digits); err != nil {
			return nil, err
		}
		if room, err = t.fill(payloads, rows, room); err != nil {
			return nil, err
		}
	}
	return payloads, endAll(named{"shapes", &shapes}, named{"lengths", &lengths}, named{"verbatim", &verbatim}, named{"digits", &digits})
}

// firstUse returns v as an index below n. Indices must appear in order of their
// first use: used counts them.
func firstUse(v uint64, n int, used *int) (int, error) {
	if v >= uint64(n) || v > uint64(*used) {
		return 0, fmt.Errorf("index %d of %d", v, n)
	}
	if v == uint64(*used) {
		*used++
	}
	return int(v), nil
}

// split cuts text into pieces of the given lengths, none above limit. The pieces share
// memory with text.
func split(lengths, text []byte, limit uint64) ([][]byte, error) {
	if len(lengths) > 3*MaxRecords { // one piece a record at most, and three bytes hold any limit
		return nil, errColumnLong
	}
	l, c := column{b: lengths}, column{b: text}
	var pieces [][]byte
	for len(l.b) > 0 {
		n := l.uvarint()
		if n > limit {
			return nil, fmt.Errorf("%d bytes, at most %d", n, limit)
		}
		pieces = append(pieces, c.take(n))
	}
	return pieces, errors.Join(l.end(), c.end())
}
