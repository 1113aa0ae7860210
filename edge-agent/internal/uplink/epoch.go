package uplink

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// epoch is what the uplink knows of one open epoch: what the cloud holds, what
// is in flight and, as the rest of it, what is unsent.
type epoch struct {
	telemetry.OpenEpoch      // as the outbox last said
	own                 bool // this process appends to it: it grows

	mark    uint64     // the cloud's watermark; what the outbox trimmed until a receipt names the epoch
	held    ranges.Set // what the cloud holds above mark
	gone    ranges.Set // looked for and not on the device
	flights []*flight  // ascending, never overlapping
	parked  []parked   // single records that the cloud refuses, kept and tried now and then
	limits  []limit    // frames that the cloud refused: cut finer there
	again   ranges.Set // the cloud asked for these and has not got them yet
	againAt time.Time  // when the first of them was asked for

	ended       bool      // the outbox lists it no longer
	explainedAt time.Time // when its holes were last answered with loss records
	saidAt      time.Time // when a receipt last named it
	known       bool      // a receipt named it
	askedAt     time.Time // when a frame last named it in its list
}

// parked is a record that the cloud refused by itself.
type parked struct {
	seq   uint64
	until time.Time // not sent again before
}

// limit bounds the records a frame that begins in seqs may have.
type limit struct {
	seqs    telemetry.Range
	records uint64
}

// gap returns the lowest run in from..to that is neither held, gone, parked nor
// in flight.
func (e *epoch) gap(from, to uint64, now time.Time) (telemetry.Range, bool) {
	if e.mark == math.MaxUint64 {
		return telemetry.Range{}, false
	}
	at := max(from, e.mark+1, 1)
	for at <= to {
		next, end := at, to
		e.blocks(now, func(r telemetry.Range) {
			switch {
			case r.First <= at && at <= r.Last:
				next = max(next, r.Last+1)
			case r.First > at:
				end = min(end, r.First-1)
			}
		})
		if next == at {
			return telemetry.Range{First: at, Last: end}, true
		}
		if next < at { // wrapped: the run reached the last number there is
			break
		}
		at = next
	}
	return telemetry.Range{}, false
}

// blocks calls f with every run that is not to be sent as new.
func (e *epoch) blocks(now time.Time, f func(telemetry.Range)) {
	for _, r := range e.held {
		f(r)
	}
	for _, r := range e.gone {
		f(r)
	}
	for _, x := range e.flights {
		f(x.seqs)
	}
	for _, p := range e.parked {
		if now.Before(p.until) {
			f(telemetry.Range{First: p.seq, Last: p.seq})
		}
	}
}

// lost notes that r is not on the device: it is not looked for again.
func (e *epoch) lost(r telemetry.Range) { e.gone = e.gone.Add(r) }

// confirm subtracts what the cloud holds from the flights. It returns those of
// which nothing is left and the bytes that the receipt covered. A flight that
// is covered in part goes on as its rest.
func (e *epoch) confirm() (done []*flight, bytes int) {
	has := e.held.Add(telemetry.Range{First: 1, Last: e.mark})
	var keep []*flight
	for _, f := range e.flights {
		rest := has.Missing(f.seqs)
		if len(rest) == 0 {
			done = append(done, f)
		}
		left := 0
		for _, r := range rest {
			part := *f
			part.seqs, part.size = r, share(f.size, r, f.seqs)
			left += part.size
			keep = append(keep, &part)
		}
		bytes += f.size - left
	}
	e.flights = keep
	return done, bytes
}

// worst returns how many ranges above the watermark the cloud may come to hold
// at most, if any of the flights and of next arrive and any do not. An empty
// next asks for the flights alone.
func (e *epoch) worst(next telemetry.Range) int {
	atoms := e.atoms(next)
	end := e.mark          // of the atom before
	with, without := 0, -1 // most ranges when the atom before is there, when it is not; -1: cannot be
	for _, a := range atoms {
		opens := with + 1
		if a.seqs.First == end+1 {
			opens = with
		}
		there := max(opens, without+1)
		if without < 0 {
			there = opens
		}
		if a.sure {
			with, without = there, -1
		} else {
			with, without = there, max(with, without)
		}
		end = a.seqs.Last
	}
	return max(with, without)
}

// atom is a run that the cloud holds or may come to hold, whole.
type atom struct {
	seqs telemetry.Range
	sure bool
}

// atoms returns what is held, gone, in flight and next, ascending. What is gone
// may be explained at any time, and then counts like held.
func (e *epoch) atoms(next telemetry.Range) []atom {
	var out []atom
	for _, r := range e.held {
		out = append(out, atom{r, true})
	}
	for _, r := range e.gone {
		if r.Last > e.mark {
			out = append(out, atom{telemetry.Range{First: max(r.First, e.mark+1), Last: r.Last}, false})
		}
	}
	for _, f := range e.flights {
		out = append(out, atom{f.seqs, false})
	}
	if next.Len() > 0 {
		// How far the frame reaches is not known before it is cut: as short as can
		// be, it touches nothing above.
		out = append(out, atom{telemetry.Range{First: next.First, Last: next.First}, false})
	}
	slices.SortFunc(out, func(a, b atom) int { return cmp.Compare(a.seqs.First, b.seqs.First) })
	return out
}
