package store

import (
	"fmt"
	"math"
	"slices"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/clock"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// turnsOfAClone is how often leadership has to go back to an older epoch before
// two epochs count as advancing at the same time. Once may be a frame that a
// broker delivered late.
const turnsOfAClone = 2

// Merge is the arithmetic of one commit, the same for every database: the
// database loads the agent and the ledgers named by Needs under the agent's
// lock, calls Apply, inserts what is Fresh, and saves what changed.
type Merge struct {
	Frame   *Frame
	Agent   *Agent
	Ledgers map[telemetry.Epoch]*ledger.Epoch
	// Rivals is how many other epochs of the agent have the ordinal of the
	// frame's; it is asked for only when the frame Begins one.
	Rivals int

	Fresh   ledger.Set // of the frame's own epoch: what to insert
	Changed map[telemetry.Epoch]bool
	Alarms  []Alarm
	Sample  bool // the agent's backlog is to be noted
	Keep    bool // the frame is to be kept raw: it is not, so far
}

// Needs returns the epochs whose ledgers Apply touches, ascending and without
// repetition. It returns ErrUnstorable for a frame that no database can take.
func Needs(f *Frame) ([]telemetry.Epoch, error) {
	if f.Last > ledger.MaxSeq {
		return nil, fmt.Errorf("%w: seq %d is above %d", ErrUnstorable, f.Last, uint64(ledger.MaxSeq))
	}
	need := map[telemetry.Epoch]bool{f.Epoch: true}
	for _, o := range f.Open {
		need[o.Epoch] = true
	}
	for i := range f.Records {
		switch r := &f.Records[i]; {
		case r.Loss != nil && r.Loss.Reason != telemetry.ReasonOversized:
			need[r.Loss.Epoch] = true
		case r.Start != nil && !r.Start.Previous.IsZero():
			need[r.Start.Previous] = true
		}
	}
	delete(need, telemetry.Epoch{})
	for e := range need {
		if e.Ordinal > math.MaxInt64 {
			return nil, fmt.Errorf("%w: epoch %s: ordinal too high", ErrUnstorable, e)
		}
	}
	out := make([]telemetry.Epoch, 0, len(need))
	for e := range need {
		out = append(out, e)
	}
	slices.SortFunc(out, telemetry.Epoch.Compare)
	return out, nil
}

// Apply works the frame into the agent and its ledgers.
func (m *Merge) Apply() {
	m.Changed = map[telemetry.Epoch]bool{}
	before := map[telemetry.Epoch]ledger.Summary{}
	for e, l := range m.Ledgers {
		before[e] = l.Summary()
	}
	m.hold()
	m.records()
	m.reports()
	for e, l := range m.Ledgers {
		m.Agent.sum(before[e], l.Summary())
	}
	m.seen()
}

func (m *Merge) own() *ledger.Epoch { return m.Ledgers[m.Frame.Epoch] }

// hold puts the frame's seqs into the ledger of its epoch.
func (m *Merge) hold() {
	f := m.Frame
	if f.Last == 0 {
		return
	}
	m.Changed[f.Epoch] = true
	if f.Raw != nil {
		was := m.own().Quarantined.Count()
		m.own().Quarantine(f.Range())
		m.Keep = m.own().Quarantined.Count() > was
		return
	}
	m.Fresh = m.own().Fresh(f.Range())
	for _, r := range m.Fresh {
		m.own().Hold(r)
	}
}

// records works in what fresh records say of their own and other epochs.
func (m *Merge) records() {
	for _, part := range m.Fresh {
		for i := range m.Frame.Slice(part) {
			m.record(&m.Frame.Slice(part)[i])
		}
	}
}

func (m *Merge) record(r *telemetry.Record) {
	switch {
	case r.Reading != nil:
		m.Agent.Readings++
		if r.Reading.Dup {
			m.Agent.Redelivered++
		}
	case r.Loss != nil:
		m.loss(r.Loss)
	case r.Start != nil:
		m.start(r)
	}
}

func (m *Merge) loss(l *telemetry.Loss) {
	if l.Reason == telemetry.ReasonOversized {
		m.own().Oversized += max(l.Count, 1)
		return
	}
	to, ok := m.Ledgers[l.Epoch]
	if !ok || l.Seqs.First == 0 {
		m.alarm(AlarmClaims, m.Frame.Epoch, "a loss record names no epoch, or seq 0")
		return
	}
	to.Lose(l.Seqs, l.Reason)
	m.Changed[l.Epoch] = true
}

// start keeps what the first record of an epoch says, and looks whether the
// epoch before went further than its successor knows.
func (m *Merge) start(r *telemetry.Record) {
	s := r.Start
	if r.Seq != 1 {
		m.alarm(AlarmClaims, m.Frame.Epoch, fmt.Sprintf("a start record has seq %d", r.Seq))
		return
	}
	m.own().Start, m.own().StartedAt = s, r.At
	if s.Previous.IsZero() {
		if m.Rivals > 0 {
			m.alarm(AlarmReplaced, m.Frame.Epoch, fmt.Sprintf(
				"the device began anew with an empty outbox; %d records that it had before are not here", m.Agent.OnDevice))
		}
		return
	}
	// What the successor read is what its device had: nothing above it can come.
	m.Ledgers[s.Previous].Report(telemetry.OpenEpoch{Epoch: s.Previous, Durable: s.PreviousLast}, telemetry.Epoch{}, 0, m.Frame.Received)
	m.Changed[s.Previous] = true
	m.wentBack(s)
	if m.Rivals > 0 {
		m.alarm(AlarmWentBack, m.Frame.Epoch, fmt.Sprintf(
			"another epoch followed %s before: the device's card was rolled back, or copied to a second device", s.Previous))
	}
}

func (m *Merge) wentBack(s *telemetry.Start) {
	held := m.Ledgers[s.Previous].Held.Max()
	if held > s.PreviousLast {
		m.alarm(AlarmWentBack, s.Previous, fmt.Sprintf(
			"the cloud holds seq %d of epoch %s, the device went on from %d: its card lost writes or was rolled back", held, s.Previous, s.PreviousLast))
	}
}

// reports works in what the header says of the epochs on the device.
func (m *Merge) reports() {
	mark, seq := m.mark()
	for _, o := range m.Frame.Open {
		l, ok := m.Ledgers[o.Epoch]
		if !ok {
			continue
		}
		if o.Lowest > o.Durable+1 || o.Trimmed > o.Durable || o.Epoch == m.Frame.Epoch && m.Frame.Last > o.Durable {
			m.alarm(AlarmClaims, o.Epoch, fmt.Sprintf(
				"a frame with seqs up to %d says lowest %d, durable %d, trimmed %d", m.Frame.Last, o.Lowest, o.Durable, o.Trimmed))
			continue
		}
		if o.Epoch == mark && o.Durable > l.Device.Durable {
			m.lead(o.Epoch)
		}
		l.Report(o, mark, seq, m.Frame.Received)
		m.Changed[o.Epoch] = true
		m.restored(o, l)
	}
}

// restored looks whether the device was told of more than is here. A receipt
// follows a commit, so the commit was undone.
func (m *Merge) restored(o telemetry.OpenEpoch, l *ledger.Epoch) {
	gone := l.Explained().Without(telemetry.Range{First: 1, Last: o.Trimmed})
	if len(gone) > 0 {
		m.alarm(AlarmRestored, o.Epoch, fmt.Sprintf(
			"the device was told that everything up to seq %d is held, and %d records are not: this database lost commits or was restored from a backup; the device is asked for them", o.Trimmed, gone.Count()))
	}
}

// mark returns the newest epoch that the frame lists, which is the one of the
// process that sent it, and the newest record that the device had then.
func (m *Merge) mark() (telemetry.Epoch, uint64) {
	mark, seq := m.Frame.Epoch, m.Frame.Last
	for _, o := range m.Frame.Open {
		if c := o.Epoch.Compare(mark); c > 0 || c == 0 && o.Durable > seq {
			mark, seq = o.Epoch, o.Durable
		}
	}
	return mark, seq
}

// lead follows which epoch of the agent is alive: a newer one takes over from
// an older one, and an older one that advances after that is not right.
func (m *Merge) lead(e telemetry.Epoch) {
	a := m.Agent
	if e == a.Lead {
		return
	}
	known := m.Ledgers[e].Device.Durable > 0
	if a.Lead.IsZero() || e.Ordinal > a.Lead.Ordinal && !known {
		a.Lead, a.LeadTurns = e, 0
		return
	}
	if e.Ordinal < a.Lead.Ordinal && !known {
		return // an epoch of long ago, heard of for the first time
	}
	if a.LeadTurns++; a.LeadTurns >= turnsOfAClone {
		m.alarm(AlarmClone, e, fmt.Sprintf("epochs %s and %s advance at the same time: two devices use one key", e, a.Lead))
	}
	a.Lead = e
}

func (m *Merge) alarm(kind string, e telemetry.Epoch, detail string) {
	at := m.Frame.Received
	m.Alarms = append(m.Alarms, Alarm{Kind: kind, Epoch: e, Detail: detail, First: at, Last: at, Count: 1})
}

// sum carries the change of one ledger to the agent's totals.
func (a *Agent) sum(was, is ledger.Summary) {
	t := &a.Totals
	t.Held += is.Held - was.Held
	t.Expired += is.Expired - was.Expired
	t.Quarantined += is.Quarantined - was.Quarantined
	t.Lost += is.Lost - was.Lost
	t.OnDevice += is.OnDevice - was.OnDevice
	t.Missing += is.Missing - was.Missing
}

// Expire says in the ledger and the agent's totals that retention removed what
// is held of the ranges. Records among them that are no readings count as removed
// too.
func (a *Agent) Expire(l *ledger.Epoch, ranges ...telemetry.Range) {
	was := l.Summary()
	for _, r := range ranges {
		l.Expire(r)
	}
	a.sum(was, l.Summary())
}

// ExpireRaw says that retention removed the quarantined frame of the range.
func (a *Agent) ExpireRaw(l *ledger.Epoch, r telemetry.Range) {
	was := l.Summary()
	l.ExpireRaw(r)
	a.sum(was, l.Summary())
}

// seen carries the frame to the agent. The revision follows the clock where it
// can, so that a cloud restored from a backup does not repeat one.
func (m *Merge) seen() {
	a, at := m.Agent, m.Frame.Received
	a.Revision = max(a.Revision+1, uint64(at.UnixMicro()))
	if a.FirstSeen.IsZero() {
		a.FirstSeen = at
	}
	if at.After(a.LastSeen) {
		a.LastSeen = at
	}
	if m.Sample = at.Sub(a.Sampled) >= SampleEvery; m.Sample {
		a.Sampled = at
	}
	if m.Frame.OpenTotal > 0 {
		a.OpenEpochs = m.Frame.OpenTotal
	}
	if l, ok := m.Ledgers[a.Lead]; ok {
		a.LeadMark = l.Watermark()
	}
}

// Slice returns the frame's records with the seqs of r, which the frame covers.
func (f *Frame) Slice(r telemetry.Range) []telemetry.Record {
	return f.Records[r.First-f.First : r.Last-f.First+1]
}

// IsHole reports whether what misses of an epoch is missing for good: nothing
// that the device had when it named its lowest is still to come. mark is the
// ledger of Device.MarkEpoch, nil when there is none.
func IsHole(l, mark *ledger.Epoch) bool {
	if len(l.Missing()) == 0 {
		return false
	}
	return mark == nil || mark.Settled(l.Device.MarkSeq)
}

// Result returns what the commit did.
func (m *Merge) Result() Result {
	r := Result{Revision: m.Agent.Revision, Fresh: m.Fresh, Alarms: m.Alarms}
	for e := range m.Changed {
		r.Epochs = append(r.Epochs, e)
	}
	fresh := m.Fresh.Count()
	r.Records = int(fresh)
	if m.Frame.Raw == nil {
		r.Duplicate = m.Frame.Range().Len() - fresh
	}
	return r
}

// Anchors returns the points that the frame's fresh synchronised anchors make.
func (m *Merge) Anchors() []clock.Point {
	var out []clock.Point
	for _, part := range m.Fresh {
		recs := m.Frame.Slice(part)
		for i := range recs {
			if recs[i].Anchor == nil {
				continue
			}
			if p, ok := clock.FromAnchor(recs[i].At, *recs[i].Anchor); ok {
				out = append(out, p)
			}
		}
	}
	return out
}

// Begins reports whether the frame begins an epoch.
func Begins(f *Frame) bool {
	return f.First == 1 && len(f.Records) > 0 && f.Records[0].Start != nil
}

// FreshStart returns the frame's start record if it is fresh.
func (m *Merge) FreshStart() *telemetry.Start {
	if !Begins(m.Frame) || len(m.Fresh) == 0 || m.Fresh[0].First != 1 {
		return nil
	}
	return m.Frame.Records[0].Start
}

// NotAfter returns the largest clock offset that the frame proves possible, 0
// when it proves none: Sent belongs to the boot of the process that sent it,
// which is that of the newest epoch it names.
func (m *Merge) NotAfter() int64 {
	if alive, _ := m.mark(); alive != m.Frame.Epoch || m.Frame.Sent.Boot <= 0 {
		return 0
	}
	return m.Frame.Received.UnixNano() - int64(m.Frame.Sent.Boot)
}
