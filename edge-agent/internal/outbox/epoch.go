package outbox

import (
	"encoding/binary"
	"slices"
	"sort"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// epoch is what the outbox knows of one epoch that has records on the disk or
// whose losses are not receipted yet. Outbox.mu guards it.
type epoch struct {
	id        telemetry.Epoch
	last      uint64 // highest seq that was ever durable, as far as known
	clean     bool
	runs      []*run     // ascending by first seq; a pack may overlap what it replaces
	receipted ranges.Set // what the cloud said it holds or has explained
	explained []explanation
	pins      []pin
	asked     ranges.Set // gone, and asked for again: a loss record is due
	changes   *changes
}

// changes are the epochs whose receipts or losses changed. Outbox.mu guards it.
type changes struct {
	dirty map[*epoch]bool // differ from what the newest segment says
	look  map[*epoch]bool // files of them may have become removable
	asked map[*epoch]bool // the cloud asked for some of them again, which is to be made durable at once
}

func newChanges() changes {
	return changes{dirty: map[*epoch]bool{}, look: map[*epoch]bool{}, asked: map[*epoch]bool{}}
}

// touch notes that what is known of the epoch changed.
func (e *epoch) touch() {
	e.changes.dirty[e] = true
	e.changes.look[e] = true
}

func (e *epoch) dirty() bool { return e.changes.dirty[e] }

// explanation is a range given up by a durable loss record that the cloud has
// not receipted yet.
type explanation struct {
	seqs   telemetry.Range
	reason telemetry.Reason
	by     telemetry.Epoch // the loss record's own epoch and seq
	seq    uint64
}

// pin is a range that the cloud asked for again. Only a receipt issued after
// the one in force then may receipt it once more.
type pin struct {
	seqs  telemetry.Range
	after time.Time
}

// given returns everything of the epoch that the device need not keep: what was
// receipted, and what a durable loss record gives up.
func (e *epoch) given() ranges.Set {
	s := e.receipted
	for _, x := range e.explained {
		s = s.Add(x.seqs)
	}
	return s
}

// stored returns what of the epoch lies in files, those to be quarantined among
// them: some of it may be saved yet.
func (e *epoch) stored() ranges.Set {
	var s ranges.Set
	for _, r := range e.runs {
		if !r.file.gone {
			s = s.Add(r.seqs)
		}
	}
	return s
}

// present returns what of the epoch is on the disk, except for files to be
// quarantined.
func (e *epoch) present() ranges.Set {
	var s ranges.Set
	for _, r := range e.runs {
		if r.file.usable() {
			s = s.Add(r.seqs)
		}
	}
	return s
}

// next returns the run that holds seq, or else the lowest above it, or nil. Of
// two that hold it, it prefers the pack: that one was made from what was read.
func (e *epoch) next(seq uint64) *run {
	var best *run
	for _, r := range e.runs {
		switch {
		case r.seqs.Len() == 0 || r.seqs.Last < seq || !r.file.usable():
		case best == nil, max(r.seqs.First, seq) < max(best.seqs.First, seq), r.file.pack && r.seqs.First <= seq:
			best = r
		}
	}
	return best
}

// open says what the cloud is to know. What was only given up does not count as
// trimmed: the cloud has not heard of it yet, and would take it for something that
// it said and lost.
func (e *epoch) open() telemetry.OpenEpoch {
	o := telemetry.OpenEpoch{Epoch: e.id, Durable: e.last, Lowest: e.last + 1, Trimmed: min(e.receipted.Watermark(), e.last)}
	if r := e.next(1); r != nil {
		o.Lowest = r.seqs.First
	}
	return o
}

func (e *epoch) addRun(r *run) {
	r.file.undone++
	i := sort.Search(len(e.runs), func(i int) bool { return e.runs[i].seqs.First > r.seqs.First })
	e.runs = slices.Insert(e.runs, i, r)
	e.last = max(e.last, r.seqs.Last)
}

func (e *epoch) removeFile(f *segment) {
	e.runs = slices.DeleteFunc(e.runs, func(r *run) bool { return r.file == f })
}

// explain notes that a durable loss record gives seqs up. Each record stands for
// itself: there are as many as are on the disk, and those of neighbouring ranges
// become one when they are carried forward.
func (e *epoch) explain(x explanation) {
	e.touch()
	e.explained = slices.DeleteFunc(e.explained, func(y explanation) bool {
		return y.seqs.First >= x.seqs.First && y.seqs.Last <= x.seqs.Last // told once more
	})
	e.explained = append(e.explained, x)
}

// unreceipt takes r back from what was receipted, until a receipt issued later.
func (e *epoch) unreceipt(r telemetry.Range, after time.Time) {
	e.receipted = e.receipted.Sub(r)
	e.pins = slices.DeleteFunc(e.pins, func(p pin) bool { return r.First <= p.seqs.First && p.seqs.Last <= r.Last })
	e.pins = append(e.pins, pin{seqs: r, after: after})
	e.touch()
}

// settle turns explanations whose loss records were receipted into receipted ranges.
func (e *epoch) settle(receipted func(by telemetry.Epoch, seq uint64) bool) {
	keep := e.explained[:0]
	for _, x := range e.explained {
		if receipted(x.by, x.seq) {
			e.receipted = e.receipted.Add(x.seqs)
			e.touch()
		} else {
			keep = append(keep, x)
		}
	}
	e.explained = keep
}

const stateVersion = 2

// encodeState is what the receipts bucket keeps of the epoch, so that a restart
// neither sends everything again that is kept nor forgets what was asked for.
func (e *epoch) encodeState() []byte {
	b := append(make([]byte, 0, 64), stateVersion)
	b = binary.AppendUvarint(b, e.last)
	b = binary.AppendUvarint(b, uint64(len(e.receipted)))
	for _, r := range e.receipted {
		b = appendRange(b, r)
	}
	b = binary.AppendUvarint(b, uint64(len(e.explained)))
	for _, x := range e.explained {
		b = append(appendRange(b, x.seqs), byte(x.reason))
		b = binary.AppendUvarint(appendEpoch(b, x.by), x.seq)
	}
	b = binary.AppendUvarint(b, uint64(len(e.pins)))
	for _, p := range e.pins {
		b = binary.AppendVarint(appendRange(b, p.seqs), unixNano(p.after))
	}
	return sealSum(b)
}

// unixNano is t's, and 0 for the zero time; fromUnixNano reads it back.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromUnixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// decodeState reads encodeState's result into e, or changes nothing.
func (e *epoch) decodeState(b []byte) error {
	b, err := openSum(b)
	if err != nil {
		return err
	}
	d := decoder{b: b}
	if v := d.byte(); v != stateVersion {
		return damaged("state of version %d", v)
	}
	last := d.uvarint()
	var receipted ranges.Set
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		receipted = receipted.Add(d.seqs())
	}
	var explained []explanation
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		x := explanation{seqs: d.seqs(), reason: telemetry.Reason(d.byte()), by: d.epoch(), seq: d.uvarint()}
		explained = append(explained, x)
	}
	var pins []pin
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		pins = append(pins, pin{seqs: d.seqs(), after: fromUnixNano(d.varint())})
	}
	if d.bad || len(d.b) > 0 {
		return damaged("state")
	}
	e.last, e.receipted, e.explained, e.pins = max(e.last, last), receipted, explained, pins
	return nil
}

func decodeEpochKey(k []byte) (telemetry.Epoch, bool) {
	d := decoder{b: k}
	e := d.epoch()
	return e, !d.bad && len(d.b) == 0
}
