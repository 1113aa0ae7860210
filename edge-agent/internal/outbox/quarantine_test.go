package outbox

import (
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
