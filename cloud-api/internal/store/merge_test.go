package store

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

var at = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

func e(n uint64) telemetry.Epoch { return telemetry.Epoch{Ordinal: n, ID: [8]byte{byte(n)}} }

// book is an agent with its ledgers, as a database keeps them.
type book struct {
	agent   Agent
	ledgers map[telemetry.Epoch]*ledger.Epoch
}

func newBook() *book { return &book{ledgers: map[telemetry.Epoch]*ledger.Epoch{}} }

// apply merges a frame as a database does.
func (b *book) apply(t *testing.T, f Frame) *Merge {
	t.Helper()
	need, err := Needs(&f)
	if err != nil {
		t.Fatal(err)
	}
	if f.Received.IsZero() {
		f.Received = at
	}
	m := &Merge{Frame: &f, Agent: &b.agent, Ledgers: map[telemetry.Epoch]*ledger.Epoch{}}
	for _, n := range need {
		if b.ledgers[n] == nil {
			b.ledgers[n] = &ledger.Epoch{}
		}
		m.Ledgers[n] = b.ledgers[n]
	}
	m.Apply()
	var sum Totals
	for _, l := range b.ledgers {
		s := l.Summary()
		sum.Held, sum.Lost, sum.OnDevice, sum.Missing = sum.Held+s.Held, sum.Lost+s.Lost, sum.OnDevice+s.OnDevice, sum.Missing+s.Missing
		sum.Quarantined, sum.Expired = sum.Quarantined+s.Quarantined, sum.Expired+s.Expired
	}
	if sum != b.agent.Totals {
		t.Errorf("sums %+v, of the ledgers %+v", b.agent.Totals, sum)
	}
	return m
}

func reading(seq uint64, dup bool) telemetry.Record {
	return telemetry.Record{Seq: seq, Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "t", Dup: dup}}
}

func loss(seq uint64, l telemetry.Loss) telemetry.Record {
	return telemetry.Record{Seq: seq, Kind: telemetry.KindLoss, Loss: &l}
}

func frame(n telemetry.Epoch, recs ...telemetry.Record) Frame {
	f := Frame{Agent: "a", Epoch: n, Records: recs}
	if len(recs) > 0 {
		f.First, f.Last = recs[0].Seq, recs[len(recs)-1].Seq
	}
	return f
}

func kinds(m *Merge) (out []string) {
	for _, a := range m.Alarms {
		out = append(out, a.Kind)
	}
	return out
}

// A frame needs the ledgers of every epoch that it says something of, once each,
// in one order, so that two frames never wait for each other.
func TestNeedsEveryEpochOnce(t *testing.T) {
	f := frame(e(3), loss(1, telemetry.Loss{Epoch: e(1), Seqs: telemetry.Range{First: 1, Last: 2}, Reason: telemetry.ReasonDropped}),
		telemetry.Record{Seq: 2, Kind: telemetry.KindStart, Start: &telemetry.Start{Previous: e(2)}},
		loss(3, telemetry.Loss{Epoch: e(9), Reason: telemetry.ReasonOversized}), loss(4, telemetry.Loss{Reason: telemetry.ReasonDropped}))
	f.Open = []telemetry.OpenEpoch{{Epoch: e(3)}, {Epoch: e(5)}, {Epoch: e(1)}}
	need, err := Needs(&f)
	if want := []telemetry.Epoch{e(1), e(2), e(3), e(5)}; err != nil || !slices.Equal(need, want) {
		t.Errorf("%v, %v, want %v", need, err, want)
	}
}

// What no key of a database can hold is refused before anything is locked.
func TestNeedsRefusesWhatCannotBeStored(t *testing.T) {
	tooHigh := frame(e(1))
	tooHigh.First, tooHigh.Last = ledger.MaxSeq+1, ledger.MaxSeq+1
	open := frame(e(1))
	open.Open = []telemetry.OpenEpoch{{Epoch: telemetry.Epoch{Ordinal: math.MaxUint64}}}
	for _, f := range []Frame{tooHigh, open, frame(telemetry.Epoch{Ordinal: 1 << 63}), frame(e(1), loss(1, telemetry.Loss{Epoch: telemetry.Epoch{Ordinal: 1 << 63}}))} {
		if _, err := Needs(&f); !errors.Is(err, ErrUnstorable) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// Only fresh records count: readings and those that a publisher sent again.
func TestCountsFollowWhatIsFresh(t *testing.T) {
	b := newBook()
	f := frame(e(1), reading(1, false), reading(2, true), reading(3, false))
	for range 3 {
		b.apply(t, f)
	}
	if b.agent.Readings != 3 || b.agent.Redelivered != 1 || b.agent.Held != 3 {
		t.Errorf("%+v", b.agent)
	}
}

// A loss record of fresh seqs explains another epoch; one that comes again says
// nothing new, and one without an epoch or with seq 0 is a false claim.
func TestLossExplainsAnotherEpoch(t *testing.T) {
	b := newBook()
	f := frame(e(2), loss(1, telemetry.Loss{Epoch: e(1), Seqs: telemetry.Range{First: 3, Last: 7}, Reason: telemetry.ReasonCorrupt}))
	for range 2 {
		b.apply(t, f)
	}
	if b.agent.Lost != 5 || !slices.Equal(b.ledgers[e(1)].Lost[telemetry.ReasonCorrupt], ledger.Set{{First: 3, Last: 7}}) {
		t.Errorf("%+v", b.agent)
	}
	m := b.apply(t, frame(e(2), loss(2, telemetry.Loss{Seqs: telemetry.Range{First: 1, Last: 2}, Reason: telemetry.ReasonDropped}),
		loss(3, telemetry.Loss{Epoch: e(1), Seqs: telemetry.Range{First: 0, Last: 2}, Reason: telemetry.ReasonDropped})))
	if !slices.Equal(kinds(m), []string{AlarmClaims, AlarmClaims}) || b.agent.Lost != 5 {
		t.Errorf("%v, lost %d", kinds(m), b.agent.Lost)
	}
}

// A message that was too large counts as lost; it never had a number.
func TestOversizedCountsAsLost(t *testing.T) {
	b := newBook()
	b.apply(t, frame(e(1), loss(1, telemetry.Loss{Reason: telemetry.ReasonOversized, Count: 1, Oversized: &telemetry.Oversized{Topic: "t", Size: 1 << 20}}),
		loss(2, telemetry.Loss{Reason: telemetry.ReasonOversized, Oversized: &telemetry.Oversized{}})))
	if b.agent.Lost != 2 || b.agent.Held != 2 || b.ledgers[e(1)].Watermark() != 2 {
		t.Errorf("%+v", b.agent)
	}
}

// The revision rises with every frame, also with one that says nothing new, and
// follows the clock, so that a database restored from a backup repeats none.
func TestRevisionRises(t *testing.T) {
	b := newBook()
	var last uint64
	for i := range 5 {
		f := frame(e(1), reading(1, false))
		if i == 3 {
			f.Received = at.Add(time.Hour)
		}
		b.apply(t, f)
		if b.agent.Revision <= last {
			t.Errorf("frame %d: revision %d after %d", i, b.agent.Revision, last)
		}
		last = b.agent.Revision
	}
	if last < uint64(at.Add(time.Hour).UnixMicro()) {
		t.Errorf("revision %d is behind the clock", last)
	}
}

// First and last seen follow the received times, in whichever order they come.
func TestSeenFollowsTheClock(t *testing.T) {
	b := newBook()
	for _, d := range []time.Duration{time.Minute, 0, 5 * time.Minute, 2 * time.Minute} {
		f := frame(e(1))
		f.Received, f.OpenTotal = at.Add(d), 7
		b.apply(t, f)
	}
	if !b.agent.FirstSeen.Equal(at.Add(time.Minute)) || !b.agent.LastSeen.Equal(at.Add(5*time.Minute)) || b.agent.OpenEpochs != 7 {
		t.Errorf("%+v", b.agent)
	}
}

// The newest epoch of the device leads; a restart resets what was counted
// against it.
func TestLeadFollowsRestarts(t *testing.T) {
	b := newBook()
	say := func(n, durable uint64) *Merge {
		f := frame(e(n))
		f.Open = []telemetry.OpenEpoch{{Epoch: e(n), Lowest: 1, Durable: durable}}
		return b.apply(t, f)
	}
	for n := uint64(1); n <= 5; n++ {
		say(n, 10)
		if n > 1 {
			say(n-1, 20) // a broker delivers the last words of the process before late
			say(n, 10)   // and repeats
		}
		if m := say(n, 10); len(m.Alarms) > 0 || b.agent.Lead.Ordinal < n-1 {
			t.Fatalf("restart %d: lead %s, %v", n, b.agent.Lead, kinds(m))
		}
	}
}

// An epoch of long ago that is heard of for the first time takes the lead from
// nobody.
func TestOldEpochDoesNotLead(t *testing.T) {
	b := newBook()
	for _, n := range []uint64{9, 2, 3} {
		f := frame(e(n))
		f.Open = []telemetry.OpenEpoch{{Epoch: e(n), Lowest: 1, Durable: 10}}
		if m := b.apply(t, f); len(m.Alarms) > 0 {
			t.Errorf("%v", kinds(m))
		}
	}
	if b.agent.Lead != e(9) {
		t.Errorf("lead %s", b.agent.Lead)
	}
}

// A start record that is not the first of its epoch is a false claim.
func TestStartIsTheFirstRecord(t *testing.T) {
	b := newBook()
	m := b.apply(t, frame(e(1), telemetry.Record{Seq: 5, Kind: telemetry.KindStart, Start: &telemetry.Start{}}))
	if !slices.Equal(kinds(m), []string{AlarmClaims}) || b.ledgers[e(1)].Start != nil {
		t.Errorf("%v", kinds(m))
	}
}

// What retention removed leaves held and stays in the sums as expired.
func TestExpireMovesTheSums(t *testing.T) {
	b := newBook()
	b.apply(t, frame(e(1), reading(1, false), reading(2, false), reading(3, false)))
	b.agent.Expire(b.ledgers[e(1)], telemetry.Range{First: 1, Last: 2})
	if b.agent.Held != 1 || b.agent.Expired != 2 {
		t.Errorf("%+v", b.agent.Totals)
	}
	if m := b.apply(t, frame(e(1), reading(1, false), reading(2, false), reading(3, false))); len(m.Fresh) != 0 {
		t.Errorf("fresh again: %v", m.Fresh)
	}
}

// A quarantined frame changes the ledger, inserts nothing and has no duplicates.
func TestQuarantineInsertsNothing(t *testing.T) {
	b := newBook()
	f := frame(e(1))
	f.First, f.Last, f.Raw = 1, 5, []byte("x")
	m := b.apply(t, f)
	if r := m.Result(); r.Records != 0 || r.Duplicate != 0 || len(r.Fresh) != 0 || b.agent.Quarantined != 5 {
		t.Errorf("%+v, %+v", r, b.agent.Totals)
	}
}

// A hole needs something missing, and a mark behind which nothing is left.
func TestIsHole(t *testing.T) {
	missing, settled, open := &ledger.Epoch{}, &ledger.Epoch{}, &ledger.Epoch{}
	missing.Report(telemetry.OpenEpoch{Lowest: 5, Durable: 4}, e(2), 10, at)
	settled.Hold(telemetry.Range{First: 1, Last: 10})
	open.Report(telemetry.OpenEpoch{Lowest: 1, Durable: 10}, e(2), 10, at)
	for name, c := range map[string]struct {
		l, mark *ledger.Epoch
		want    bool
	}{
		"nothing missing": {settled, settled, false}, "settled": {missing, settled, true}, "open": {missing, open, false}, "no mark": {missing, nil, true},
	} {
		if got := IsHole(c.l, c.mark); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// The backlog is to be noted at the first frame and then once a minute.
func TestSampleOnceAMinute(t *testing.T) {
	b := newBook()
	n := 0
	for i := range 13 {
		f := frame(e(1))
		f.Received = at.Add(time.Duration(i) * 10 * time.Second)
		if b.apply(t, f).Sample {
			n++
		}
	}
	if n != 3 {
		t.Errorf("%d samples in two minutes", n)
	}
}

// A frame proves a bound for the clock only when it was sent in the boot of the
// epoch that it carries.
func TestNotAfterNeedsTheLiveEpoch(t *testing.T) {
	f := frame(e(1))
	f.Sent, f.Received = telemetry.Instant{Boot: time.Hour}, at
	m := Merge{Frame: &f}
	if got, want := m.NotAfter(), at.Add(-time.Hour).UnixNano(); got != want {
		t.Errorf("%d, want %d", got, want)
	}
	f.Open = []telemetry.OpenEpoch{{Epoch: e(2)}}
	if got := m.NotAfter(); got != 0 {
		t.Errorf("of an older epoch: %d", got)
	}
}
