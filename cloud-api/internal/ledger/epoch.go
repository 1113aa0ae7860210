package ledger

import (
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Epoch is the ledger of one (agent, epoch): the cloud's whole knowledge of
// which of its sequence numbers are where. The zero Epoch knows nothing.
//
// Every number from 1 on is held, expired (here once, removed by the cloud's
// own retention), quarantined (its frame was kept raw because it could not be
// stored), lost (with a reason), on the device, or missing: none of these, and
// below what the device still has.
type Epoch struct {
	Held        Set
	Expired     Set
	Quarantined Set
	Lost        map[telemetry.Reason]Set
	Oversized   uint64 // messages the device acknowledged and could not keep; they never had a number
	Device      Device
	Start       *telemetry.Start
	StartedAt   telemetry.Instant
}

// Device is what the device last said of the epoch. Each field only rises, so
// that statements may arrive in any order.
type Device struct {
	Lowest  uint64 // lowest seq still on the device; Durable+1 when none is; 0 when it never said
	Durable uint64 // last seq whose commit returned
	Trimmed uint64 // the device no longer promises to have anything up to here

	// The device's newest record when it first named this Lowest. A loss record
	// is durable before what it explains is deleted, so once everything up to
	// the mark is here, what is missing below Lowest has no explanation.
	MarkEpoch telemetry.Epoch
	MarkSeq   uint64

	Seen time.Time // when the cloud last heard of the epoch
}

// Fresh returns the parts of r that are neither held nor expired: what is to be
// inserted. A number that is lost or quarantined is fresh, since a record that
// arrives after all is worth more than the reason it did not.
func (e *Epoch) Fresh(r telemetry.Range) Set {
	if len(e.Expired) == 0 {
		return e.Held.Without(r)
	}
	return Union(e.Held, e.Expired).Without(r)
}

// Hold says that r is committed.
func (e *Epoch) Hold(r telemetry.Range) {
	e.Held.Add(r)
	e.Quarantined.Remove(r)
	e.unlose(r)
}

// Expire says that retention removed what was held of r.
func (e *Epoch) Expire(r telemetry.Range) {
	for _, part := range e.Held.Within(r) {
		e.Expired.Add(part)
	}
	e.Held.Remove(r)
}

// ExpireRaw says that retention removed what was kept raw of r.
func (e *Epoch) ExpireRaw(r telemetry.Range) {
	for _, part := range e.Quarantined.Within(r) {
		e.Expired.Add(part)
	}
	e.Quarantined.Remove(r)
}

// Quarantine says that r came in a frame that could not be stored. It counts
// as held in receipts, and gives way to records that can be stored.
func (e *Epoch) Quarantine(r telemetry.Range) {
	for _, part := range e.Fresh(r) {
		e.Quarantined.Add(part)
		e.unlose(part)
	}
}

// Lose says that r will never come, and why. What is here stays here. Of two
// reasons for one number the one with the lower number stays, whichever came
// first: the higher ones (unknown, receipted) say less.
func (e *Epoch) Lose(r telemetry.Range, why telemetry.Reason) {
	if r.Last = min(r.Last, MaxSeq); r.Len() == 0 {
		return
	}
	better := Union(e.Held, e.Expired, e.Quarantined)
	for other, s := range e.Lost {
		if other < why {
			better = Union(better, s)
		}
	}
	for _, part := range better.Without(r) {
		e.unlose(part)
		s := e.Lost[why]
		s.Add(part)
		if e.Lost == nil {
			e.Lost = map[telemetry.Reason]Set{}
		}
		e.Lost[why] = s
	}
}

func (e *Epoch) unlose(r telemetry.Range) {
	for why, s := range e.Lost {
		s.Remove(r)
		if e.Lost[why] = s; len(s) == 0 {
			delete(e.Lost, why)
		}
	}
}

// Report merges what the device says of the epoch. mark is the newest record
// the device had when it said so.
func (e *Epoch) Report(o telemetry.OpenEpoch, markEpoch telemetry.Epoch, markSeq uint64, at time.Time) {
	d := &e.Device
	d.Durable = max(d.Durable, min(o.Durable, MaxSeq))
	d.Trimmed = max(d.Trimmed, min(o.Trimmed, MaxSeq))
	lowest := min(o.Lowest, MaxSeq+1)
	switch c := markEpoch.Compare(d.MarkEpoch); {
	case lowest > d.Lowest:
		d.Lowest, d.MarkEpoch, d.MarkSeq = lowest, markEpoch, markSeq
	case lowest == d.Lowest && (c < 0 || c == 0 && markSeq < d.MarkSeq):
		d.MarkEpoch, d.MarkSeq = markEpoch, markSeq
	}
	if at.After(d.Seen) {
		d.Seen = at
	}
}

// AllLost returns every number that is lost, for whatever reason.
func (e *Epoch) AllLost() Set {
	sets := make([]Set, 0, len(e.Lost))
	for _, s := range e.Lost {
		sets = append(sets, s)
	}
	return Union(sets...)
}

// Explained returns every number that is held, expired, quarantined or lost.
func (e *Epoch) Explained() Set {
	if len(e.Expired) == 0 && len(e.Quarantined) == 0 && len(e.Lost) == 0 {
		return e.Held
	}
	sets := []Set{e.Held, e.Expired, e.Quarantined}
	for _, s := range e.Lost {
		sets = append(sets, s)
	}
	return Union(sets...)
}

// Watermark returns the highest seq up to which everything is explained, 0 when
// seq 1 is not.
func (e *Epoch) Watermark() uint64 { return watermark(e.Explained()) }

func watermark(explained Set) uint64 {
	if len(explained) > 0 && explained[0].First <= 1 {
		return explained[0].Last
	}
	return 0
}

// Receipt returns the watermark and the first few ranges explained above it.
func (e *Epoch) Receipt(ranges int) (uint64, []telemetry.Range) {
	x := e.Explained()
	w := watermark(x)
	if w > 0 {
		x = x[1:]
	}
	return w, x[:min(len(x), ranges)].Clone()
}

// OnDevice returns the numbers that are durable on the device and not explained
// here.
func (e *Epoch) OnDevice() Set {
	if e.Device.Lowest == 0 {
		return nil
	}
	return e.Explained().Without(telemetry.Range{First: e.Device.Lowest, Last: e.Device.Durable})
}

// Missing returns the numbers below the device's lowest that nothing explains
// yet. They are a hole once the device's mark is reached; see Device.
func (e *Epoch) Missing() Set {
	if e.Device.Lowest < 2 {
		return nil
	}
	return e.Explained().Without(telemetry.Range{First: 1, Last: e.Device.Lowest - 1})
}

// Wanted returns the numbers that the device believes it need not send any
// more and that are not explained here: what a cloud restored from a backup
// has to ask for again.
func (e *Epoch) Wanted() Set {
	upto := e.Device.Trimmed
	if e.Device.Lowest > 0 {
		upto = max(upto, e.Device.Lowest-1)
	}
	if upto == 0 {
		return nil
	}
	return e.Explained().Without(telemetry.Range{First: 1, Last: upto})
}

// Settled reports whether nothing up to seq of this epoch is still on the
// device and unheard.
func (e *Epoch) Settled(seq uint64) bool {
	lowest := max(e.Device.Lowest, 1)
	return len(e.Explained().Without(telemetry.Range{First: lowest, Last: seq})) == 0
}

// Summary is the ledger in numbers, as it is listed and summed up by agent.
type Summary struct {
	Watermark   uint64
	Held        uint64
	Expired     uint64
	Quarantined uint64
	Lost        uint64 // with oversized messages
	OnDevice    uint64
	Missing     uint64
	Wanted      uint64
}

// Summary counts the ledger.
func (e *Epoch) Summary() Summary {
	return Summary{
		Watermark:   e.Watermark(),
		Held:        e.Held.Count(),
		Expired:     e.Expired.Count(),
		Quarantined: e.Quarantined.Count(),
		Lost:        e.AllLost().Count() + e.Oversized,
		OnDevice:    e.OnDevice().Count(),
		Missing:     e.Missing().Count(),
		Wanted:      e.Wanted().Count(),
	}
}
