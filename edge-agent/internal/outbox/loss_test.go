package outbox

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

func seqs(first, last uint64) telemetry.Range { return telemetry.Range{First: first, Last: last} }

// Losses of neighbours with one reason and one epoch become one that counts both;
// all others stay as they are.
func TestNeighbouringLossesBecomeOne(t *testing.T) {
	other := newEpochID(3)
	l := func(e telemetry.Epoch, r telemetry.Range, why telemetry.Reason, at int64) *telemetry.Loss {
		return &telemetry.Loss{Epoch: e, Seqs: r, Reason: why, Count: r.Len(), Bytes: 10 * r.Len(), First: telemetry.Instant{Wall: at}, Last: telemetry.Instant{Wall: at + 1}}
	}
	var out []*telemetry.Loss
	for _, x := range []*telemetry.Loss{
		l(testEpoch, seqs(1, 5), telemetry.ReasonDropped, 1),
		l(testEpoch, seqs(6, 9), telemetry.ReasonDropped, 3),
		l(testEpoch, seqs(10, 12), telemetry.ReasonExpired, 5),
		l(other, seqs(13, 14), telemetry.ReasonExpired, 7),
		l(testEpoch, seqs(14, 15), telemetry.ReasonDropped, 9),
		{Seqs: seqs(1, 0), Reason: telemetry.ReasonOversized, Oversized: &telemetry.Oversized{Topic: "t"}},
		l(testEpoch, seqs(13, 13), telemetry.ReasonExpired, 11),
	} {
		out = appendLossRecord(out, x)
	}
	var got []string
	for _, x := range out {
		got = append(got, fmt.Sprintf("%d %s %d-%d %d %d %d-%d", x.Epoch.Ordinal, x.Reason, x.Seqs.First, x.Seqs.Last, x.Count, x.Bytes, x.First.Wall, x.Last.Wall))
	}
	want := "7 dropped 1-9 9 90 1-4|7 expired 10-13 4 40 5-12|3 expired 13-14 2 20 7-8|7 dropped 14-15 2 20 9-10|0 oversized 1-0 0 0 0-0"
	if s := strings.Join(got, "|"); s != want {
		t.Fatalf("got  %s\nwant %s", s, want)
	}
}

// A drop counts readings, bytes and times of exactly what nobody has: what was
// receipted of the segment is not among it.
func TestDropCountsOnlyWhatNobodyHas(t *testing.T) {
	k := &clock{at: telemetry.Instant{Boot: time.Minute, Wall: 1000}}
	box := still(t, Options{Dir: memoryDir(t), SegmentBytes: small, Now: k.now, noSync: true})
	commitSome(t, box, "22", "333", "4444", "55555", "666666")
	e, f := box.current.id, box.live
	er := telemetry.EpochReceipt{Epoch: e, Watermark: 2, Held: []telemetry.Range{seqs(4, 4)}}
	if err := box.Trim(telemetry.Receipt{Agent: "greenhouse-1", Epochs: []telemetry.EpochReceipt{er}}); err != nil {
		t.Fatal(err)
	}
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	if err := box.drop(f); err != nil {
		t.Fatal(err)
	}
	recs, err := box.Read(t.Context(), e, 1, 10, 1000)
	if err != nil || len(recs) != 2 {
		t.Fatalf("%d loss records, %v", len(recs), err)
	}
	for i, want := range []telemetry.Loss{
		{Epoch: e, Seqs: seqs(3, 3), Reason: telemetry.ReasonDropped, Count: 1, Bytes: uint64(len("t333"))},
		{Epoch: e, Seqs: seqs(5, 6), Reason: telemetry.ReasonDropped, Count: 2, Bytes: uint64(len("t55555t666666"))},
	} {
		got := *recs[i].Loss
		if got.First.Wall == 0 && got.Count > 0 && got.First.Boot == 0 {
			t.Errorf("no times in %+v", got)
		}
		got.First, got.Last = telemetry.Instant{}, telemetry.Instant{}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if !box.current.given().Covers(seqs(1, 6)) {
		t.Errorf("given: %v", box.current.given())
	}
}

// A drop-oldest outbox that gets nothing but oversized messages drops their records
// too, carries on a bounded number of them, and goes on for ever.
func TestOversizedMessagesAloneDoNotFillForEver(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small, MaxBytes: 4 * small, Full: DropOldest, noSync: true})
	topic := strings.Repeat("camera/", 60)
	for range 60 {
		drafts := make([]Draft, 50)
		for i := range drafts {
			drafts[i] = Draft{Oversized: &telemetry.Oversized{Topic: topic, Size: 1 << 21}}
		}
		x.append(drafts...)
	}
	if s := x.Stats(); s.Bytes > s.MaxBytes || s.Lost[telemetry.ReasonDropped] == 0 && x.Epochs()[0].Lowest == 1 {
		t.Fatalf("%+v", s)
	}
	e := x.Epochs()[0]
	there := ranges.Set{}
	for _, rec := range x.all(e.Epoch) {
		there = there.Add(seqs(rec.Seq, rec.Seq))
	}
	x.mu.Lock()
	known := there.Union(x.current.given())
	x.mu.Unlock()
	if miss := known.Missing(seqs(1, e.Durable)); len(miss) > 0 {
		t.Fatalf("nothing accounts for %v", miss)
	}
}

// Explain refuses losses that explain nothing, or more than was made.
func TestExplainRefusesNonsense(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t)})
	x.append(reading("t", "1"))
	e := x.Stats().Epoch
	for name, c := range map[string]struct {
		loss telemetry.Loss
		want error
	}{
		"an unknown epoch":     {telemetry.Loss{Epoch: newEpochID(5), Seqs: seqs(1, 1)}, ErrNeverMade},
		"from nought":          {telemetry.Loss{Epoch: e, Seqs: seqs(0, 1)}, ErrNeverMade},
		"nothing":              {telemetry.Loss{Epoch: e, Seqs: seqs(2, 1)}, ErrDraft},
		"beyond the last":      {telemetry.Loss{Epoch: e, Seqs: seqs(1, 99)}, ErrNeverMade},
		"an oversized message": {telemetry.Loss{Epoch: e, Seqs: seqs(1, 1), Oversized: &telemetry.Oversized{}}, ErrDraft},
		"what is there":        {telemetry.Loss{Epoch: e, Seqs: seqs(2, 2)}, ErrDraft},
	} {
		if err := x.Explain(t.Context(), c.loss); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if l := x.losses(); len(l) > 0 {
		t.Fatalf("%+v", l)
	}
}

// What lies in a segment that is being set aside is not explained away: it may be
// saved yet.
func TestExplainSparesWhatMayBeSaved(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t), SegmentBytes: small, noSync: true})
	commitSome(t, box, "1", "2")
	e, f := box.current.id, box.live
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	box.condemn(f, errDamaged)
	if err := box.explain(&telemetry.Loss{Epoch: e, Seqs: seqs(2, 2), Reason: telemetry.ReasonUnknown}, nil); !errors.Is(err, ErrDraft) {
		t.Fatal(err)
	}
	if err := box.quarantineAll(); err != nil {
		t.Fatal(err)
	}
	recs, err := box.Read(t.Context(), e, 1, 10, 1000)
	if err != nil || len(recs) != 3 {
		t.Fatalf("%d records were saved, %v", len(recs), err)
	}
}

// The outbox's own records go in commits that the smallest segment has room for,
// in order, and each hears of its own.
func TestOwnRecordsGoInSmallCommits(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t), SegmentBytes: minSegment, noSync: true})
	commitSome(t, box, "1")
	var items []item
	told := map[uint64]bool{}
	for i := range 2000 {
		l := &telemetry.Loss{Epoch: testEpoch, Seqs: seqs(uint64(3*i+1), uint64(3*i+2)), Reason: telemetry.ReasonCorrupt}
		items = append(items, box.lossItem(l, 0, func(seq uint64, err error) { told[seq] = err == nil }))
	}
	if left, err := box.commitOwn(items); len(left) > 0 || err != nil {
		t.Fatalf("%d are left: %v", len(left), err)
	}
	n := uint64(0)
	for from := uint64(3); ; {
		recs, err := box.Read(t.Context(), box.current.id, from, 1000, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) == 0 {
			break
		}
		for _, rec := range recs {
			if rec.Loss == nil || rec.Loss.Seqs.First != 3*n+1 || !told[rec.Seq] {
				t.Fatalf("record %d: %+v, told %t", n, rec.Loss, told[rec.Seq])
			}
			n++
		}
		from = recs[len(recs)-1].Seq + 1
	}
	if n != 2000 || box.epochs[testEpoch] == nil || len(box.epochs[testEpoch].explained) != 2000 {
		t.Fatalf("%d of 2000 are there", n)
	}
}
