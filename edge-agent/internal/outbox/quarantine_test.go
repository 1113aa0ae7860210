package outbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// A page of the segment in writing that bbolt panics over ends that segment and not
// the outbox: what comes is acknowledged from the next one, and what was there is saved.
func TestPanicUnderCommitEndsTheSegmentAlone(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small})
	for range 50 {
		x.append(reading("t", "before"), reading("t", "and before"))
	}
	e := x.Epochs()[0]
	f, err := os.OpenFile(filepath.Join(x.opts.Dir, liveName(e.Epoch, 1)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for page := int64(2); page < small/boltpage.PageSize; page++ {
		if _, err := f.WriteAt([]byte{0xff, 0xff}, page*boltpage.PageSize+8); err != nil { // what kind of page it is
			t.Fatal(err)
		}
	}
	if last := x.append(reading("t", "after")); last != e.Durable+1 {
		t.Fatalf("after %d came %d", e.Durable, last)
	}
	eventually(t, "the damaged segment stays", func() bool { return x.Stats().Quarantined == 1 })
	recs := x.all(e.Epoch)
	for i, rec := range recs {
		if rec.Seq != uint64(i+1) {
			t.Fatalf("seq %d at place %d", rec.Seq, i)
		}
	}
	if s := x.Stats(); uint64(len(recs)) != e.Durable+1 || s.Lost[telemetry.ReasonCorrupt] > 0 {
		t.Fatalf("%d records of %d are left: %+v", len(recs), e.Durable+1, s.Lost)
	}
}

// A damaged segment leaves by being set aside and in no other way: making room
// does not remove it, although receipts cover all of it.
func TestDamagedSegmentIsNotRemovedForRoom(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t), SegmentBytes: small})
	commitSome(t, box, "1", "2", "3")
	f := box.live
	er := telemetry.EpochReceipt{Epoch: box.current.id, Watermark: 4}
	if err := box.Trim(telemetry.Receipt{Agent: "greenhouse-1", Issued: issued, Epochs: []telemetry.EpochReceipt{er}}); err != nil {
		t.Fatal(err)
	}
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	box.lookAll()
	if box.oldestDone() != f {
		t.Fatal("nothing could go")
	}
	box.condemn(f, errDamaged)
	if err := box.freeOne(false); !errors.Is(err, errNoRoom) {
		t.Fatalf("it was removed: %v", err)
	}
	if err := box.quarantineAll(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(box.opts.Dir, f.name+suffixBad)); err != nil || box.Stats().Quarantined != 1 || box.doneBytes != 0 {
		t.Fatalf("%v, %+v", err, box.Stats())
	}
}
