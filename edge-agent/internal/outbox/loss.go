package outbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// maxCarried bounds how many losses of oversized messages one drop carries
// forward, and carriedBytes the room they take; the rest are counted in the loss
// record of the drop itself. A sensor that sends nothing else must not keep a full
// outbox full.
const maxCarried = 256

func (o *Options) carriedBytes() int { return int(max(minSegment, o.SegmentBytes) / 16) }

// lossItem makes an item of a loss record; lost is how many readings it is the first
// to call lost.
func (o *Outbox) lossItem(l *telemetry.Loss, lost uint64, done func(uint64, error)) item {
	rec := telemetry.Record{At: o.opts.Now(), Kind: telemetry.KindLoss, Loss: l}
	return item{rec: rec, size: recordSize(&rec), lost: lost, done: done}
}

func nobody(uint64, error) {}

// Explain appends a loss record for seqs that the device does not have, and
// returns when it is durable. It returns ErrNeverMade for seqs that this device
// never made, and ErrDraft for seqs that are on it: those are not lost.
func (o *Outbox) Explain(ctx context.Context, l telemetry.Loss) error {
	done := make(chan error, 1)
	if err := o.explain(&l, func(_ uint64, err error) { done <- err }); err != nil {
		return err
	}
	o.nudge()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *Outbox) explain(l *telemetry.Loss, done func(uint64, error)) error {
	o.queue.mu.Lock()
	stopped := o.queue.stopped
	o.queue.mu.Unlock()
	if stopped != nil {
		return stopped
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.epochs[l.Epoch]
	switch {
	case e == nil || l.Seqs.First == 0 || l.Seqs.Last > e.last:
		return fmt.Errorf("%w: epoch %s, %d to %d", ErrNeverMade, l.Epoch, l.Seqs.First, l.Seqs.Last)
	case l.Seqs.Len() == 0 || l.Oversized != nil:
		return fmt.Errorf("%w: a loss of no seqs", ErrDraft)
	case e.stored().Overlaps(l.Seqs):
		return fmt.Errorf("%w: epoch %s, %d to %d is on the device in part", ErrDraft, l.Epoch, l.Seqs.First, l.Seqs.Last)
	}
	o.inside = append(o.inside, o.lossItem(l, l.Count, done))
	return nil
}

// giveUp removes a segment whose records nobody has receipted: first the loss
// records for them, and those that were in the segment itself, become durable,
// then the file goes.
func (o *Outbox) giveUp(f *segment, reason telemetry.Reason) error {
	items, err := o.lossesFor(f, reason)
	if err != nil {
		return wanting(err)
	}
	freeing := o.freeing
	o.freeing = true // what says so must not give up more, and not this one again
	_, err = o.commitOwn(items)
	o.freeing = freeing
	if err != nil {
		return err
	}
	var lost uint64
	for _, it := range items {
		lost += it.lost
	}
	o.log.Warn("outbox: segment given up", "segment", f.name, "reason", reason.String(), "readings", lost)
	return o.discard(f)
}

func (o *Outbox) drop(f *segment) error { return o.giveUp(f, telemetry.ReasonDropped) }

// lossesFor returns the loss records that must be durable before f goes.
func (o *Outbox) lossesFor(f *segment, reason telemetry.Reason) ([]item, error) {
	o.mu.Lock()
	runs := append([]*run(nil), f.runs...)
	missing := make([]ranges.Set, len(runs))
	for i, r := range runs {
		missing[i] = r.epoch.given().Missing(r.seqs)
	}
	o.mu.Unlock()
	file, rd, err := openSealed(filepath.Join(o.opts.Dir, f.name), f.pack)
	if err != nil && !isDamage(err) {
		return nil, err
	}
	if err != nil {
		rd = nil
	} else {
		defer func() { _ = file.Close() }() // only read
	}
	var out []item
	for i, r := range runs {
		for _, seqs := range missing[i] {
			l := tally(rd, r, seqs, reason)
			lost := l.Count
			told := o.carried(rd, r, seqs, l)
			out = append(out, o.lossItem(l, lost, nobody))
			for _, l := range told {
				out = append(out, o.lossItem(l, 0, nobody))
			}
		}
	}
	return out, nil
}

// tally counts what is lost with seqs of a run. The head counts a whole run;
// of a part, or where the head is damaged, the records are read; and what cannot
// be read counts as readings.
func tally(rd *reader, r *run, seqs telemetry.Range, reason telemetry.Reason) *telemetry.Loss {
	l := &telemetry.Loss{Epoch: r.epoch.id, Seqs: seqs, Reason: reason, Count: seqs.Len()}
	if rd == nil {
		return l
	}
	heads, err := rd.heads()
	for _, h := range heads {
		if err == nil && h.Epoch == r.epoch.id && h.Seqs == seqs {
			l.Count, l.Bytes, l.First, l.Last = h.Readings, h.Bytes, h.First, h.Last
			return l
		}
	}
	part := head{Epoch: r.epoch.id, Seqs: telemetry.Range{First: seqs.First, Last: seqs.First - 1}}
	err = guard(func() error {
		return rd.scan(r.epoch.id, seqs, func(rec telemetry.Record) bool { part.add(&rec); return true })
	})
	l.Bytes, l.First, l.Last = part.Bytes, part.First, part.Last
	if err == nil {
		l.Count = part.Readings
	}
	return l
}

// carried returns copies of the loss records that lie in seqs of a run: they are
// not receipted, so what they explain would go unexplained with them. What is too
// much of oversized messages is counted in all, the loss of seqs itself.
func (o *Outbox) carried(rd *reader, r *run, seqs telemetry.Range, all *telemetry.Loss) []*telemetry.Loss {
	var out []*telemetry.Loss
	oversized, room := 0, o.opts.carriedBytes()
	err := eachLoss(rd, r, seqs, func(_ uint64, l *telemetry.Loss) {
		size := recordSize(&telemetry.Record{Loss: l})
		switch {
		case l.Oversized == nil:
			out = appendLossRecord(out, l)
		case oversized < maxCarried && room >= size:
			oversized, room = oversized+1, room-size
			out = append(out, l)
		default:
			all.Count, all.Bytes = all.Count+l.Count, all.Bytes+l.Bytes
		}
	})
	if err != nil {
		o.log.Warn("outbox: loss records could not be read", "segment", r.file.name, "error", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return append(out, o.recalledLocked(r.epoch, seqs, out)...)
}

// recalledLocked returns the losses that memory knows of, told by records of e in
// seqs, beyond those that were read.
func (o *Outbox) recalledLocked(e *epoch, seqs telemetry.Range, read []*telemetry.Loss) (out []*telemetry.Loss) {
	for _, about := range o.order {
		for _, x := range about.explained {
			if x.by == e.id && x.seq >= seqs.First && x.seq <= seqs.Last && !coveredBy(read, about.id, x.seqs) {
				out = append(out, &telemetry.Loss{Epoch: about.id, Seqs: x.seqs, Reason: x.reason, Count: x.seqs.Len()})
			}
		}
	}
	return out
}

func coveredBy(losses []*telemetry.Loss, id telemetry.Epoch, seqs telemetry.Range) bool {
	var s ranges.Set
	for _, l := range losses {
		if l.Epoch == id {
			s = s.Add(l.Seqs)
		}
	}
	return s.Covers(seqs)
}

// appendLossRecord joins l to the one before when both tell of neighbours for one
// reason: what is carried for a year stays a handful.
func appendLossRecord(out []*telemetry.Loss, l *telemetry.Loss) []*telemetry.Loss {
	for _, p := range out {
		if p.Oversized == nil && p.Epoch == l.Epoch && p.Reason == l.Reason && p.Seqs.Last+1 == l.Seqs.First {
			p.Seqs.Last, p.Last = l.Seqs.Last, l.Last
			p.Count, p.Bytes = p.Count+l.Count, p.Bytes+l.Bytes
			return out
		}
	}
	return append(out, l)
}

// eachLoss calls fn with the loss records that lie in seqs of a run, until one
// cannot be read.
func eachLoss(rd *reader, r *run, seqs telemetry.Range, fn func(seq uint64, l *telemetry.Loss)) error {
	if rd == nil {
		return nil
	}
	pre := prefix(r.epoch.id, rd.pack)
	return rd.each(bucketLosses, func(k, _ []byte) error {
		if len(k) != len(pre)+8 || !bytes.HasPrefix(k, pre) {
			return nil
		}
		seq := binary.BigEndian.Uint64(k[len(pre):])
		if seq < seqs.First || seq > seqs.Last {
			return nil
		}
		return rd.scan(r.epoch.id, telemetry.Range{First: seq, Last: seq}, func(rec telemetry.Record) bool {
			if rec.Loss != nil {
				fn(seq, rec.Loss)
			}
			return true
		})
	})
}
