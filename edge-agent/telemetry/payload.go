package telemetry

import (
	"encoding/binary"
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

func newTopics() *topics { return &topics{index: make(map[string]int)} }

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
	out := make([][]byte, len(t.all))
	for i, at := range grouped(t.of, len(t.names)) {
		out[i] = t.all[at]
	}
	return out
}

// grouped returns the positions 0, 1, … of index ordered by what index says,
// and in their own order where it says the same.
func grouped(index []int, n int) []int {
	start := make([]int, n+1)
	for _, v := range index {
		start[v+1]++
	}
	for i := range n {
		start[i+1] += start[i]
	}
	out := make([]int, len(index))
	for at, v := range index {
		out[start[v]] = at
		start[v]++
	}
	return out
}

func appendPayloads(w *wire.Body, payloads [][]byte) {
	var shapes runs
	for _, p := range payloads {
		shapes.add(0)
		w.Lengths = binary.AppendUvarint(w.Lengths, uint64(len(p)))
		w.Verbatim = append(w.Verbatim, p...)
	}
	w.Shapes = shapes.bytes()
}

func decodePayloads(w *wire.Body, n int) ([][]byte, error) {
	shapes, lengths, verbatim := column{b: w.Shapes}, column{b: w.Lengths}, column{b: w.Verbatim}
	out := make([][]byte, n)
	for i := range out {
		if shapes.next() != 0 {
			return nil, fmt.Errorf("no such template")
		}
		out[i] = verbatim.take(lengths.uvarint())
	}
	return out, endAll(named{"shapes", &shapes}, named{"lengths", &lengths}, named{"verbatim", &verbatim})
}
