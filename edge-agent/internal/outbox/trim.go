package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// Trim notes what a receipt covers. What it covers may be deleted from now on,
// and is once nobody needs it kept; nothing that was receipted before becomes
// unreceipted by it. It returns ErrForeign for another agent's receipt and
// ErrNeverMade for one that covers seqs of the current epoch that were never
// made; both count as an alarm and change nothing. Of an epoch that ended the
// cloud may well hold more than there is here: the card lost writes or was rolled
// back, and what is left of the epoch is receipted like any other. Epochs that
// are unknown here are passed over.
//
// The caller has verified the receipt's signature.
func (o *Outbox) Trim(r telemetry.Receipt) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.Agent != o.opts.Agent {
		o.stat.foreign++
		return fmt.Errorf("%w: %q", ErrForeign, r.Agent)
	}
	for _, er := range r.Epochs {
		if e := o.epochs[er.Epoch]; e == o.current && highest(er) > e.last {
			o.stat.neverMade++
			return fmt.Errorf("%w: epoch %s up to %d, receipt up to %d", ErrNeverMade, er.Epoch, e.last, highest(er))
		}
	}
	for _, er := range r.Epochs {
		if e := o.epochs[er.Epoch]; e != nil {
			e.receipt(covered(r, er, e.pins).Within(telemetry.Range{First: 1, Last: e.last}))
		} else {
			o.stat.unknownEpochs++
		}
	}
	o.settleLocked()
	if r.Issued.After(o.trimmed) {
		o.trimmed = r.Issued
	}
	o.wakeLocked()
	o.nudge()
	return nil
}

func highest(er telemetry.EpochReceipt) uint64 {
	top := er.Watermark
	for _, h := range er.Held {
		if h.Len() > 0 {
			top = max(top, h.Last)
		}
	}
	return top
}

// covered returns what a receipt says of an epoch, without what it asks for again
// and what was asked for since it was issued.
func covered(r telemetry.Receipt, er telemetry.EpochReceipt, pins []pin) ranges.Set {
	var s ranges.Set
	s = s.Add(telemetry.Range{First: 1, Last: er.Watermark})
	for _, h := range er.Held {
		s = s.Add(h)
	}
	for _, a := range r.Again {
		if a.Epoch == er.Epoch {
			s = s.Sub(a.Seqs)
		}
	}
	for _, p := range pins {
		if r.Issued.Before(p.after) || r.Issued.Equal(p.after) && !p.after.IsZero() {
			s = s.Sub(p.seqs)
		}
	}
	return s
}

// receipt adds to what is receipted of the epoch.
func (e *epoch) receipt(s ranges.Set) {
	before := e.receipted.Len()
	e.receipted = e.receipted.Union(s)
	if e.receipted.Len() != before {
		e.touch()
	}
	e.pins = slices.DeleteFunc(e.pins, func(p pin) bool { return s.Covers(p.seqs) })
}

func (o *Outbox) settleLocked() {
	receipted := func(by telemetry.Epoch, seq uint64) bool {
		e := o.epochs[by]
		return e == nil || e.receipted.Covers(telemetry.Range{First: seq, Last: seq})
	}
	for _, e := range o.order {
		if len(e.explained) > 0 {
			e.settle(receipted)
		}
	}
}

// Again takes back what was receipted of seqs, because the cloud asked for them
// once more: what is still on the device is to be sent again and is kept until a
// later receipt covers it. For what is not, a loss record is appended: with
// ReasonReceipted, or, where no receipt is known, ReasonUnknown. Both are made durable at once, as soon as there is room; a crash
// before that forgets the request, and the cloud, which still lacks them, asks
// again. It returns ErrNeverMade for seqs that this device never made, as far as
// it knows: it remembers the epochs on the disk and the last 1024 before them. For
// others nothing is said, since they may be those of a cloned card, which has them
// and would delete them when the cloud calls them lost.
func (o *Outbox) Again(id telemetry.Epoch, seqs telemetry.Range) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if seqs.Len() == 0 {
		return nil
	}
	e := o.epochs[id]
	if e == nil || seqs.First == 0 || seqs.Last > e.last {
		o.stat.neverMade++
		return fmt.Errorf("%w: epoch %s, %d to %d", ErrNeverMade, id, seqs.First, seqs.Last)
	}
	gone := ranges.Set{seqs}
	for _, r := range e.stored().Within(seqs) {
		gone = gone.Sub(r)
		e.unreceipt(r, o.trimmed)
	}
	for _, x := range e.explained {
		if o.toldLocked(x) {
			gone = gone.Sub(x.seqs)
		}
	}
	e.asked = e.asked.Union(gone)
	o.changes.asked[e] = true
	o.wakeLocked()
	o.nudge()
	return nil
}

// toldLocked reports whether the loss record behind x is on the device, or on its
// way to the disk.
func (o *Outbox) toldLocked(x explanation) bool {
	e := o.epochs[x.by]
	return e != nil && (e.present().Covers(telemetry.Range{First: x.seq, Last: x.seq}) || e == o.current && x.seq > e.last)
}

// answersLocked returns the loss records for what was asked for again and is gone.
// What is asked for stays so until its record is durable.
func (o *Outbox) answersLocked() (items []item) {
	add := func(e *epoch, r telemetry.Range, why telemetry.Reason) {
		l := &telemetry.Loss{Epoch: e.id, Seqs: r, Reason: why, Count: r.Len()}
		items = append(items, o.lossItem(l, l.Count, func(_ uint64, err error) {
			if err != nil {
				return
			}
			o.mu.Lock()
			e.asked = e.asked.Sub(r)
			o.mu.Unlock()
		}))
	}
	for e := range o.changes.asked {
		for _, r := range e.asked {
			for _, had := range e.receipted.Within(r) {
				add(e, had, telemetry.ReasonReceipted)
			}
			for _, never := range e.receipted.Missing(r) {
				add(e, never, telemetry.ReasonUnknown)
			}
		}
	}
	return items
}

// reclaim removes what was receipted and is beyond what is to be kept.
func (o *Outbox) reclaim() error {
	o.lookAll()
	o.mu.Lock()
	over := o.doneBytes - o.opts.KeepBytes
	o.mu.Unlock()
	for over > 0 {
		f := o.oldestDone()
		if f == nil {
			return nil
		}
		over -= f.size
		if err := o.discard(f); err != nil {
			if errors.Is(err, errNoRoom) || errors.Is(err, errNeeded) {
				return nil // the next round looks again
			}
			return err
		}
	}
	return nil
}

// lookAll finds out which files nobody needs any more.
func (o *Outbox) lookAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for e := range o.changes.look {
		o.lookLocked(e)
	}
	clear(o.changes.look)
}

// lookLocked finds out which files of an epoch are covered by now.
func (o *Outbox) lookLocked(e *epoch) {
	given := e.given()
	for _, r := range e.runs {
		if done := given.Covers(r.seqs); done != r.done {
			r.done = done
			r.file.undone += 1 - 2*int(boolByte(done))
		}
		o.countDoneLocked(r.file)
	}
}

func (o *Outbox) countDoneLocked(f *segment) {
	if done := f.undone == 0 && f.live == nil && f.bad == nil; done != f.done {
		f.done = done
		if done {
			o.doneBytes += f.size
		} else {
			o.doneBytes -= f.size
		}
	}
}

func (o *Outbox) oldestDone() *segment {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.files {
		if f.done {
			return f
		}
	}
	return nil
}

// discard removes a file that receipts cover, once a segment says so durably. It
// returns errNeeded when they do not, or not any more.
func (o *Outbox) discard(f *segment) error {
	if err := o.tell(f); err != nil {
		return err
	}
	return o.unlink(f)
}

// tell makes durable what is known of the epochs in f.
func (o *Outbox) tell(f *segment) error {
	o.mu.Lock()
	told := o.live != nil
	for _, r := range f.runs {
		told = told && !r.epoch.dirty()
	}
	o.mu.Unlock()
	if told {
		return nil
	}
	return o.commit(nil, true)
}

// errNeeded is returned for a file that must stay. Callers look before, but the
// cloud may have asked for something of it again meanwhile.
var errNeeded = errors.New("segment holds records that nothing accounts for")

// unlink removes a segment's file. It is the only function of this package that
// removes one which holds records.
func (o *Outbox) unlink(f *segment) error {
	if err := o.condone(f); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(o.opts.Dir, f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fatal(err)
	}
	o.handles.forget(f)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.removeLocked(f)
	o.wakeLocked()
	return nil
}

// condone marks a file as gone if it may go, whoever asks and for whatever reason:
// every record must be receipted, or given up by a durable loss record, or be in
// another good file; and what says so must be on the disk, in a segment that is
// not the one to go. From then on nothing in it can be asked for again.
func (o *Outbox) condone(f *segment) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.live != nil || o.live == nil {
		return fmt.Errorf("%w: %s", errNeeded, f.name)
	}
	for _, r := range f.runs {
		have := r.epoch.given()
		for _, other := range r.epoch.runs {
			if other.file != f && other.file.usable() {
				have = have.Add(other.seqs)
			}
		}
		if r.epoch.dirty() || !have.Covers(r.seqs) {
			return fmt.Errorf("%w: %s", errNeeded, f.name)
		}
	}
	f.gone = true
	return nil
}

// removeLocked takes a file out of the catalogue.
func (o *Outbox) removeLocked(f *segment) {
	o.files = slices.DeleteFunc(o.files, func(g *segment) bool { return g == f })
	if f.done {
		f.done = false
		o.doneBytes -= f.size
	}
	for _, r := range f.runs {
		r.epoch.removeFile(f)
	}
	o.forgetLocked()
}

// remembered is how many epochs are known of which nothing is on the device any
// more: only for those is an Again answered. A cloned card's epochs must not be.
const remembered = 1024

func (o *Outbox) forgetLocked() {
	gone := 0
	for _, e := range o.order {
		if len(e.runs) == 0 {
			gone++
		}
	}
	if gone <= remembered {
		return
	}
	o.order = slices.DeleteFunc(o.order, func(e *epoch) bool {
		if gone <= remembered || len(e.runs) > 0 || len(e.explained) > 0 || e == o.current || e == o.prior {
			return false
		}
		delete(o.epochs, e.id)
		gone--
		return true
	})
}
