// Package oracle remembers, outside of the system under test, which messages
// were published and acknowledged, and judges what the system gives back. It
// keeps one bit a message and an exact copy of none: what a message must
// contain is computed again (see sensors.Shape).
package oracle

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/histogram"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
)

// Oracle is the log of a fleet. Make it with New.
type Oracle struct {
	shape  sensors.Shape
	tracks []*track
}

// track is what is known of one sensor.
type track struct {
	mu        sync.Mutex
	published uint64         // numbers 0 to published-1 were written at least once
	acked     bits           // those whose PUBACK came
	resent    map[uint64]int // how often a number was written again
	latency   histogram.Histogram
}

// New returns the log of a fleet of so many sensors.
func New(shape sensors.Shape, count int) *Oracle {
	o := &Oracle{shape: shape}
	for range count {
		o.tracks = append(o.tracks, &track{resent: map[uint64]int{}})
	}
	return o
}

// Published notes that a message is about to be written to the network.
func (o *Oracle) Published(sensor int, number uint64, again bool) {
	t := o.tracks[sensor]
	t.mu.Lock()
	defer t.mu.Unlock()
	t.published = max(t.published, number+1)
	if again {
		t.resent[number]++
	}
}

// Acknowledged notes that the PUBACK of a message was parsed.
func (o *Oracle) Acknowledged(sensor int, number uint64, took time.Duration) {
	t := o.tracks[sensor]
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acked.set(number)
	t.latency.Add(took)
}

// Totals counts messages of all sensors together.
type Totals struct {
	Published    uint64
	Acknowledged uint64
	Resent       uint64 // written again on a later connection
}

// Totals returns the counts so far.
func (o *Oracle) Totals() Totals {
	var sum Totals
	for _, t := range o.tracks {
		t.mu.Lock()
		sum.Published += t.published
		sum.Acknowledged += t.acked.count
		for _, n := range t.resent {
			sum.Resent += uint64(n)
		}
		t.mu.Unlock()
	}
	return sum
}

// Latency returns the times from when a message was due until its PUBACK was
// parsed.
func (o *Oracle) Latency() *histogram.Histogram {
	var all histogram.Histogram
	for _, t := range o.tracks {
		t.mu.Lock()
		all.Merge(&t.latency)
		t.mu.Unlock()
	}
	return &all
}

// Findings is the comparison of what was promised with what is there.
type Findings struct {
	Published    uint64 `json:"published"`
	Acknowledged uint64 `json:"acknowledged"`
	Stored       uint64 `json:"stored"`      // different messages read back, unaltered
	Missing      uint64 `json:"missing"`     // acknowledged but not stored
	Duplicates   uint64 `json:"duplicates"`  // one (agent, epoch, seq) twice, or a copy that no sensor sent
	Redelivered  uint64 `json:"redelivered"` // copies that a sensor sent again for want of a PUBACK
	Altered      uint64 `json:"altered"`     // under our topics, but not what was published

	Examples []string `json:"-"` // of the first faults found, for people
}

// Check is one reading back. Make it with Oracle.Check, give it everything that
// is stored, then ask for the Findings.
type Check struct {
	oracle *Oracle
	stored []bits
	copies []map[uint64]int   // beyond the first
	seen   map[epochKey]*bits // every identity that was read
	found  Findings
}

type epochKey struct{ agent, epoch string }

// maxExamples keeps a report readable when everything is wrong.
const maxExamples = 10

// Check begins a comparison.
func (o *Oracle) Check() *Check {
	c := &Check{oracle: o, stored: make([]bits, len(o.tracks)), seen: map[epochKey]*bits{}}
	for range o.tracks {
		c.copies = append(c.copies, map[uint64]int{})
	}
	return c
}

// Add takes one reading that was read back. It never fails: what is wrong with
// a reading is a finding.
func (c *Check) Add(r cloud.Reading) error {
	if !c.identity(r) {
		c.found.Duplicates++
		c.example("twice: %s %s seq %d", r.Agent, r.Epoch, r.Seq)
		return nil
	}
	payload, err := r.Bytes()
	sensor, number, ours, valid := c.oracle.shape.Recognise(r.Topic, payload)
	if !ours {
		return nil
	}
	if err != nil || !valid || !c.oracle.published(sensor, number) {
		c.found.Altered++
		c.example("altered: %s seq %d, topic %s: %.120q", r.Epoch, r.Seq, r.Topic, payload)
		return nil
	}
	if !c.stored[sensor].set(number) {
		c.copies[sensor][number]++
	}
	return nil
}

// identity reports whether this (agent, epoch, seq) is new.
func (c *Check) identity(r cloud.Reading) bool {
	key := epochKey{r.Agent, r.Epoch}
	if c.seen[key] == nil {
		c.seen[key] = &bits{}
	}
	return c.seen[key].set(r.Seq)
}

func (o *Oracle) published(sensor int, number uint64) bool {
	if sensor < 0 || sensor >= len(o.tracks) {
		return false
	}
	t := o.tracks[sensor]
	t.mu.Lock()
	defer t.mu.Unlock()
	return number < t.published
}

// Findings returns the result over everything added.
func (c *Check) Findings() Findings {
	f := c.found
	f.Examples = slices.Clone(c.found.Examples)
	for sensor, t := range c.oracle.tracks {
		t.mu.Lock()
		f.Published += t.published
		f.Acknowledged += t.acked.count
		f.Stored += c.stored[sensor].count
		for number := range t.acked.without(&c.stored[sensor]) {
			f.Missing++
			f.example("missing: %s number %d", c.oracle.shape.Topic(sensor), number)
		}
		for number, copies := range c.copies[sensor] {
			// A sensor that wrote a message three times may find three of it.
			own := min(copies, t.resent[number])
			f.Redelivered += uint64(own)
			if extra := copies - own; extra > 0 {
				f.Duplicates += uint64(extra)
				f.example("doubled: %s number %d stored %d times, sent %d times",
					c.oracle.shape.Topic(sensor), number, copies+1, t.resent[number]+1)
			}
		}
		t.mu.Unlock()
	}
	return f
}

// Missing calls f with every message that is acknowledged and was not read back.
func (c *Check) Missing(f func(sensor int, number uint64)) {
	for sensor, t := range c.oracle.tracks {
		t.mu.Lock()
		missing := slices.Collect(t.acked.without(&c.stored[sensor]))
		t.mu.Unlock()
		for _, number := range missing {
			f(sensor, number)
		}
	}
}

func (c *Check) example(format string, args ...any) { c.found.example(format, args...) }

func (f *Findings) example(format string, args ...any) {
	if len(f.Examples) < maxExamples {
		f.Examples = append(f.Examples, fmt.Sprintf(format, args...))
	}
}
