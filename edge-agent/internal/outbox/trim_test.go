package outbox

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// What a receipt covers is its watermark and its ranges, without what it asks for
// again, and without what was asked for by one no older than it.
func TestReceiptCovers(t *testing.T) {
	er := telemetry.EpochReceipt{Epoch: testEpoch, Watermark: 10, Held: []telemetry.Range{seqs(20, 29), seqs(40, 39), seqs(50, 50)}}
	again := []telemetry.EpochRange{{Epoch: testEpoch, Seqs: seqs(3, 4)}, {Epoch: newEpochID(9), Seqs: seqs(1, 50)}, {Epoch: testEpoch, Seqs: seqs(28, 60)}}
	for name, c := range map[string]struct {
		at   time.Time
		pins []pin
		want ranges.Set
	}{
		"as it is":                 {issued, nil, ranges.Set{seqs(1, 2), seqs(5, 10), seqs(20, 27)}},
		"pinned by an older one":   {issued, []pin{{seqs(6, 7), issued.Add(-time.Second)}}, ranges.Set{seqs(1, 2), seqs(5, 10), seqs(20, 27)}},
		"pinned by the same":       {issued, []pin{{seqs(6, 7), issued}}, ranges.Set{seqs(1, 2), seqs(5, 5), seqs(8, 10), seqs(20, 27)}},
		"pinned by a newer one":    {issued, []pin{{seqs(9, 22), issued.Add(time.Hour)}}, ranges.Set{seqs(1, 2), seqs(5, 8), seqs(23, 27)}},
		"pinned before any":        {issued, []pin{{seqs(6, 7), time.Time{}}}, ranges.Set{seqs(1, 2), seqs(5, 10), seqs(20, 27)}},
		"neither has a time":       {time.Time{}, []pin{{seqs(6, 7), time.Time{}}}, ranges.Set{seqs(1, 2), seqs(5, 10), seqs(20, 27)}},
		"pinned, and all of it is": {issued, []pin{{seqs(1, 99), issued}}, nil},
	} {
		got := covered(telemetry.Receipt{Issued: c.at, Again: again}, er, c.pins)
		if len(got) != len(c.want) || len(got.Union(c.want)) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
	}
	if top := highest(er); top != 50 {
		t.Errorf("the highest is %d", top)
	}
}

// A pin holds until a newer receipt covers all of it, and asking once more for the
// same or more leaves one pin.
func TestPinsComeAndGo(t *testing.T) {
	c := newChanges()
	e := &epoch{id: testEpoch, last: 100, receipted: ranges.Set{seqs(1, 100)}, changes: &c}
	e.unreceipt(seqs(10, 20), issued)
	e.unreceipt(seqs(12, 15), issued)
	e.unreceipt(seqs(5, 30), issued)
	if len(e.pins) != 1 || e.pins[0].seqs != seqs(5, 30) || e.receipted.Len() != 100-26 || !e.dirty() {
		t.Fatalf("%v, %v", e.pins, e.receipted)
	}
	e.receipt(ranges.Set{seqs(1, 20)})
	if len(e.pins) != 1 || e.receipted.Len() != 100-10 {
		t.Fatalf("half of it is receipted: %v, %v", e.pins, e.receipted)
	}
	e.receipt(ranges.Set{seqs(1, 100)})
	if len(e.pins) != 0 || e.receipted.Len() != 100 {
		t.Fatalf("all of it is receipted: %v, %v", e.pins, e.receipted)
	}
}

// Receipts only ever add, in whatever order they come, late, doubled or overlapping.
func TestReceiptsOnlyAdd(t *testing.T) {
	x := segmented(t, 3, Options{KeepBytes: 1 << 30, noSync: true})
	e := x.Epochs()[0]
	rng := rand.New(rand.NewPCG(3, 3))
	var want ranges.Set
	for range 300 {
		mark := rng.Uint64N(e.Durable / 2)
		held := seqs(1+rng.Uint64N(e.Durable), 0)
		held.Last = min(e.Durable, held.First+rng.Uint64N(30))
		want = want.Add(seqs(1, mark)).Add(held)
		x.receipt(mark, issued.Add(time.Duration(rng.IntN(1000))*time.Second), held)
		x.mu.Lock()
		got := x.current.receipted
		x.mu.Unlock()
		if got.Len() != want.Len() || !want.Covers(got[len(got)-1]) {
			t.Fatalf("%v, want %v", got, want)
		}
	}
}

// What is asked for of a damaged segment, although it was receipted, is saved from it.
func TestAskedForInDamagedSegmentIsSaved(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t), SegmentBytes: small, noSync: true})
	commitSome(t, box, "1", "2", "3")
	e, f := box.current.id, box.live
	if err := box.Trim(telemetry.Receipt{Agent: "greenhouse-1", Issued: issued, Epochs: []telemetry.EpochReceipt{{Epoch: e, Watermark: 4}}}); err != nil {
		t.Fatal(err)
	}
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	box.condemn(f, errDamaged)
	if err := box.Again(e, seqs(3, 3)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(box.commitInside(), box.quarantineAll()); err != nil {
		t.Fatal(err)
	}
	recs, err := box.Read(t.Context(), e, 1, 10, 1000)
	if err != nil || len(recs) != 1 || recs[0].Seq != 3 || recs[0].Reading == nil {
		t.Fatalf("%+v, %v", recs, err)
	}
}

// A range of which some is there, some is gone and some was given up is asked for:
// the first is unreceipted, the second gets one loss record, the third has one.
func TestAgainTakesARangeApart(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t), SegmentBytes: small, noSync: true})
	commitSome(t, box, "2", "3", "4")
	e, f := box.current.id, box.live
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	commitSome(t, box, "5", "6")
	g := box.live
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	commitSome(t, box, "7")
	if err := box.drop(f); err != nil { // 1 to 4 are explained by record 8
		t.Fatal(err)
	}
	held := []telemetry.Range{seqs(5, 7)}
	if err := box.Trim(telemetry.Receipt{Agent: "greenhouse-1", Issued: issued, Epochs: []telemetry.EpochReceipt{{Epoch: e, Held: held}}}); err != nil {
		t.Fatal(err)
	}
	if err := box.discard(g); err != nil { // 5 and 6 are gone, and receipted
		t.Fatal(err)
	}
	for range 3 {
		if err := box.Again(e, seqs(1, 7)); err != nil {
			t.Fatal(err)
		}
		if err := box.commitInside(); err != nil {
			t.Fatal(err)
		}
	}
	if box.current.receipted.Overlaps(seqs(7, 7)) {
		t.Error("what is there still counts as receipted")
	}
	recs, err := box.Read(t.Context(), e, 7, 10, 1000)
	if err != nil || len(recs) != 3 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	if l := recs[1].Loss; l == nil || l.Seqs != seqs(1, 4) || l.Reason != telemetry.ReasonDropped {
		t.Errorf("record 8: %+v", l)
	}
	if l := recs[2].Loss; l == nil || l.Seqs != seqs(5, 6) || l.Reason != telemetry.ReasonReceipted {
		t.Errorf("record 9: %+v", l)
	}
}

// A file with nothing in it that is needed is not believed to be so before a
// segment says it: with no segment in writing, nothing goes.
func TestNothingGoesBeforeItIsWritten(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t), SegmentBytes: small, noSync: true})
	commitSome(t, box, "1", "2")
	f := box.live
	if err := box.unlink(f); !errors.Is(err, errNeeded) {
		t.Fatalf("the segment in writing: %v", err)
	}
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	if err := box.Trim(telemetry.Receipt{Agent: "greenhouse-1", Issued: issued, Epochs: []telemetry.EpochReceipt{{Epoch: box.current.id, Watermark: 3}}}); err != nil {
		t.Fatal(err)
	}
	if err := box.unlink(f); !errors.Is(err, errNeeded) {
		t.Fatalf("receipted, and no segment says so: %v", err)
	}
	if err := box.discard(f); err != nil {
		t.Fatalf("once one does: %v", err)
	}
	if !f.gone || box.current.present().Overlaps(seqs(1, 3)) {
		t.Fatal("it is still counted on")
	}
}
