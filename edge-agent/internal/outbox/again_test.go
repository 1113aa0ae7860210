package outbox

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

var issued = time.Unix(1_700_000_000, 0)

// trim receipts seqs of an epoch, of this life or one before.
func (x *opened) trim(e telemetry.Epoch, at time.Time, held ...telemetry.Range) {
	x.tb.Helper()
	er := telemetry.EpochReceipt{Epoch: e, Held: held}
	if err := x.Trim(telemetry.Receipt{Agent: "greenhouse-1", Issued: at, Epochs: []telemetry.EpochReceipt{er}}); err != nil {
		x.tb.Fatal(err)
	}
}

func (x *opened) again(e telemetry.Epoch, first, last uint64) {
	x.tb.Helper()
	if err := x.Again(e, telemetry.Range{First: first, Last: last}); err != nil {
		x.tb.Fatal(err)
	}
}

// receipted reports whether the outbox takes all of first to last for receipted.
func (x *opened) receipted(e telemetry.Epoch, first, last uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.epochs[e].receipted.Covers(telemetry.Range{First: first, Last: last})
}

func (x *opened) end() {
	x.tb.Helper()
	if err := x.stop(); err != nil {
		x.tb.Fatal(err)
	}
}

// still opens a folder whose committer the test itself is.
func still(tb testing.TB, o Options) *Outbox {
	tb.Helper()
	o.Agent, o.Logger = "greenhouse-1", slog.New(slog.DiscardHandler)
	box, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = box.Close() })
	return box
}

// commitSome commits readings with texts.
func commitSome(tb testing.TB, o *Outbox, texts ...string) {
	tb.Helper()
	var items []item
	for _, s := range texts {
		d := reading("t", s)
		rec, err := d.record()
		if err != nil {
			tb.Fatal(err)
		}
		rec.At = o.opts.Now()
		items = append(items, item{rec: rec, size: recordSize(&rec), done: func(uint64, error) {}})
	}
	if err := o.commit(items, false); err != nil {
		tb.Fatal(err)
	}
}

// What the cloud asked for again stays unreceipted over a restart, although
// nothing was appended after, and a receipt from before does not receipt it.
func TestAskedForAgainOutlivesRestart(t *testing.T) {
	o := Options{Dir: memoryDir(t), KeepBytes: 1 << 30, unclean: true}
	x := open(t, o)
	x.append(reading("t", "1"), reading("t", "2"), reading("t", "3"))
	e := x.Stats().Epoch
	x.trim(e, issued, telemetry.Range{First: 1, Last: 4})
	x.again(e, 2, 3)
	x.end()
	x = open(t, o)
	x.trim(e, issued, telemetry.Range{First: 1, Last: 4})
	if x.receipted(e, 2, 2) || x.receipted(e, 3, 3) {
		t.Fatal("a restart made it receipted")
	}
	x.trim(e, issued.Add(time.Second), telemetry.Range{First: 1, Last: 4})
	if !x.receipted(e, 1, 4) {
		t.Fatal("a newer receipt does not count")
	}
}

// An outbox too full for readings still makes durable what the cloud asks for.
func TestFullOutboxRemembersWhatIsAskedFor(t *testing.T) {
	o := Options{Dir: memoryDir(t), SegmentBytes: small, MaxBytes: 4 * small, FullGrace: time.Millisecond, unclean: true}
	x := open(t, o)
	var err error
	for n := 0; err == nil && n < 10_000; n++ {
		if _, err = x.Append(context.Background(), reading("t", strings.Repeat("x", 3000))); n == 20 {
			x.trim(x.Stats().Epoch, issued, telemetry.Range{First: 2, Last: 9}) // durable with the next
		}
	}
	if !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	e := x.Stats().Epoch
	x.again(e, 3, 5)
	x.end()
	x = open(t, o)
	for seq := uint64(3); seq <= 5; seq++ {
		if x.receipted(e, seq, seq) {
			t.Fatalf("seq %d is receipted after a restart", seq)
		}
	}
}

// spoilStates damages what a segment says of receipts, everywhere in it.
func spoilStates(tb testing.TB, path string) {
	tb.Helper()
	file, r, err := openSealed(path, false)
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	n := 0
	if err := r.each(bucketReceipts, func(_, v []byte) error {
		bad := bytes.Clone(v)
		bad[len(bad)-1] ^= 4
		n += bytes.Count(data, v)
		data = bytes.ReplaceAll(data, v, bad)
		return nil
	}); err != nil || n == 0 {
		tb.Fatalf("%d states, %v", n, err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// newest returns the path of the newest segment of a folder.
func newest(tb testing.TB, dir string) string {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "[0-9]*"+suffixSegment))
	if err != nil || len(names) == 0 {
		tb.Fatalf("%v, %v", names, err)
	}
	return names[len(names)-1]
}

// When the newest receipts cannot be read, an older segment's are not believed
// instead: they may call receipted what the cloud has asked for again since. What
// was given up is learnt from the loss records, and not told twice.
func TestOlderReceiptsAreNotBelieved(t *testing.T) {
	o := Options{Dir: memoryDir(t), KeepBytes: 1 << 30, unclean: true, packFrom: 100}
	x := open(t, o)
	x.append(reading("t", "1"), reading("t", "2"), reading("t", "3"))
	e := x.Stats().Epoch
	x.trim(e, issued, telemetry.Range{First: 1, Last: 4})
	x.append(reading("t", "with the receipt"))
	x.end()

	x = open(t, o)
	second := x.Stats().Epoch
	x.append(reading("t", "1"))
	if !x.receipted(e, 1, 4) {
		t.Fatal("a restart forgot the receipt")
	}
	x.again(e, 2, 3)
	lost := telemetry.Loss{Epoch: e, Seqs: telemetry.Range{First: 5, Last: 5}, Reason: telemetry.ReasonUnknown}
	x.mu.Lock()
	x.epochs[e].runs[0].seqs.Last = 4 // as if the file had lost it
	x.mu.Unlock()
	if err := x.Explain(context.Background(), lost); err != nil {
		t.Fatal(err)
	}
	x.end()
	spoilStates(t, newest(t, o.Dir))

	x = open(t, o)
	if x.receipted(e, 2, 2) || x.receipted(e, 3, 3) {
		t.Fatal("what was asked for again counts as receipted")
	}
	eventually(t, "the damaged segment stays", func() bool { return x.Stats().Quarantined == 1 })
	if recs := x.all(second); len(recs) != 3 || recs[2].Loss == nil {
		t.Fatalf("%d records of 3 were saved", len(recs))
	}
	x.mu.Lock()
	known := x.epochs[e].given().Covers(lost.Seqs)
	x.mu.Unlock()
	if !known || len(x.losses()) > 0 {
		t.Fatalf("the loss record of before is known: %t; told now: %+v", known, x.losses())
	}
}

// A segment that ended before its first record still says what was receipted: its
// receipts are the newest.
func TestSegmentWithoutRecordsKeepsReceipts(t *testing.T) {
	o := Options{Dir: memoryDir(t), SegmentBytes: small, KeepBytes: 1 << 30}
	box := still(t, o)
	commitSome(t, box, "1", "2", "3")
	e := box.current.id
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	er := telemetry.EpochReceipt{Epoch: e, Watermark: 4}
	if err := box.Trim(telemetry.Receipt{Agent: "greenhouse-1", Issued: issued, Epochs: []telemetry.EpochReceipt{er}}); err != nil {
		t.Fatal(err)
	}
	if err := box.commit(nil, true); err != nil {
		t.Fatal(err)
	}
	if err := box.Close(); err != nil {
		t.Fatal(err)
	}
	x := open(t, o)
	if !x.receipted(e, 1, 4) {
		t.Fatal("the receipt was forgotten")
	}
	x.append(reading("t", "goes on"))
	if n := len(x.all(e)); n != 4 {
		t.Fatalf("%d records of 4", n)
	}
}

// A segment that takes the place of one without records takes its name too.
func TestSegmentWithoutRecordsIsReplaced(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t), SegmentBytes: small})
	commitSome(t, box, "1")
	for range 3 {
		if err := box.roll(true); err != nil {
			t.Fatal(err)
		}
	}
	commitSome(t, box, "2")
	names, _ := filepath.Glob(filepath.Join(box.opts.Dir, "*"+suffixSegment))
	if s := box.Stats(); s.Segments != 2 || len(names) != 2 || s.Durable != 3 {
		t.Fatalf("%d segments, durable %d: %v", s.Segments, s.Durable, names)
	}
}

// What the cloud asks for while its damaged segment is being set aside is saved or
// given up before the segment goes.
func TestAskedForDuringQuarantine(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t), SegmentBytes: small})
	commitSome(t, box, "1", "2", "3")
	e, f := box.current.id, box.live
	er := telemetry.EpochReceipt{Epoch: e, Watermark: 4}
	if err := box.Trim(telemetry.Receipt{Agent: "greenhouse-1", Issued: issued, Epochs: []telemetry.EpochReceipt{er}}); err != nil {
		t.Fatal(err)
	}
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	box.condemn(f, errDamaged)
	if n, err := box.salvage(f); n != 0 || err != nil { // nothing of it is needed
		t.Fatalf("saved %d: %v", n, err)
	}
	if err := box.Again(e, telemetry.Range{First: 2, Last: 3}); err != nil {
		t.Fatal(err)
	}
	if err := box.setApart(f); !errors.Is(err, errNeeded) {
		t.Fatalf("it was set aside: %v", err)
	}
	if err := box.quarantineAll(); err != nil {
		t.Fatal(err)
	}
	recs, err := box.Read(context.Background(), e, 1, 10, 1000)
	if err != nil || len(recs) != 2 || recs[0].Seq != 2 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
}

// Loss records for neighbouring ranges stand each for itself: one that is not
// receipted leaves its range unsettled, and one that is lost has it told again.
func TestEachLossRecordStandsForItself(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t)})
	box.mu.Lock()
	defer box.mu.Unlock()
	e, by := box.epochLocked(newEpochID(1)), box.current
	e.last, by.last = 9, 20
	for i, seqs := range []telemetry.Range{{First: 1, Last: 4}, {First: 5, Last: 9}} {
		e.explain(explanation{seqs, telemetry.ReasonDropped, by.id, uint64(10 + i)})
		one := telemetry.Range{First: uint64(10 + i), Last: uint64(10 + i)}
		if out := box.recalledLocked(by, one, nil); len(out) != 1 || out[0].Seqs != seqs {
			t.Errorf("the loss of record %d has %+v told again", one.First, out)
		}
	}
	by.receipted = by.receipted.Add(telemetry.Range{First: 11, Last: 11})
	if box.settleLocked(); e.receipted.Overlaps(telemetry.Range{First: 1, Last: 4}) || !e.receipted.Covers(telemetry.Range{First: 5, Last: 9}) {
		t.Fatalf("settled by one record of two: %v", e.receipted)
	}
	by.receipted = by.receipted.Add(telemetry.Range{First: 10, Last: 10})
	if box.settleLocked(); !e.receipted.Covers(telemetry.Range{First: 1, Last: 9}) || len(e.explained) > 0 {
		t.Fatalf("not settled: %v, %+v", e.receipted, e.explained)
	}
}
