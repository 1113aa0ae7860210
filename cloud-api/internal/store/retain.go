package store

import (
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Others is what retention removes beside readings: seqs of one epoch that are
// anchors or losses.
type Others struct {
	EpochRef
	Seqs []int64
}

// Ranges returns the seqs as ranges of one.
func (o *Others) Ranges() []telemetry.Range {
	out := make([]telemetry.Range, len(o.Seqs))
	for i, n := range o.Seqs {
		out[i] = telemetry.Range{First: uint64(n), Last: uint64(n)}
	}
	return out
}

// RetainStep is how many records that are no readings one look of retention
// removes.
const RetainStep = 2000

// AnchorsLonger is for how much longer than readings the anchors are kept: the
// times of readings that arrived after them may have to be corrected by them.
const AnchorsLonger = 24 * time.Hour

// RetainEvery is how often retention is looked at: it counts in days.
const RetainEvery = 10 * time.Minute
