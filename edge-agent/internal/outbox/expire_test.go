package outbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// ageing is an outbox whose committer and clock the test is; what is older than an
// hour expires.
func ageing(t *testing.T) (box *Outbox, k *clock) {
	t.Helper()
	k = &clock{at: telemetry.Instant{Boot: time.Minute, Wall: issued.UnixNano()}}
	return still(t, Options{Dir: memoryDir(t), SegmentBytes: small, MaxAge: time.Hour, Now: k.now, Boot: [16]byte{1}, noSync: true}), k
}

// sealOne commits readings to a segment of their own and returns it.
func sealOne(t *testing.T, box *Outbox, texts ...string) *segment {
	t.Helper()
	commitSome(t, box, texts...)
	f := box.live
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	return f
}

// expireNow has it look at ages.
func expireNow(t *testing.T, box *Outbox) {
	t.Helper()
	box.expireAt = 0
	if err := box.expire(); err != nil {
		t.Fatal(err)
	}
}

// lossesIn returns what the loss records of an epoch tell, in words.
func lossesIn(t *testing.T, box *Outbox, e telemetry.Epoch) (out []string) {
	t.Helper()
	for from := uint64(1); ; {
		recs, err := box.Read(t.Context(), e, from, 1000, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) == 0 {
			return out
		}
		for _, rec := range recs {
			if l := rec.Loss; l != nil {
				out = append(out, fmt.Sprintf("%s %d-%d %d", l.Reason, l.Seqs.First, l.Seqs.Last, l.Count))
			}
		}
		from = recs[len(recs)-1].Seq + 1
	}
}

// Segments expire one after the other as each gets too old, oldest first, whole, and
// with a loss record each; what is younger stays.
func TestSegmentsExpireInTheirOrder(t *testing.T) {
	box, k := ageing(t)
	box.opts.MaxAge = 65 * time.Minute
	e := box.current.id
	var files []*segment
	for i := range 4 { // at 0, 20, 40 and 60 minutes
		files = append(files, sealOne(t, box, fmt.Sprint(i), fmt.Sprint(i)))
		k.forward(20*time.Minute, 0)
	}
	for step, gone := range []int{1, 2, 3, 4, 4} { // at 80, 100, …
		expireNow(t, box)
		for i, f := range files {
			_, err := os.Stat(filepath.Join(box.opts.Dir, f.name))
			if there := err == nil; there != (i >= gone) {
				t.Fatalf("after %d minutes segment %d is there: %t", 80+20*step, i, there)
			}
		}
		if n := len(lossesIn(t, box, e)); n != gone {
			t.Fatalf("%d loss records for %d segments: %v", n, gone, lossesIn(t, box, e))
		}
		k.forward(20*time.Minute, 0)
	}
	if got := lossesIn(t, box, e)[0]; got != "expired 1-3 2" {
		t.Fatal(got)
	}
	if s := box.Stats(); s.Lost[telemetry.ReasonExpired] != 8 {
		t.Fatalf("%v", s.Lost)
	}
}

// What was receipted expires without a word; of a segment that was receipted in part
// only the rest is told.
func TestExpiryTellsOnlyWhatNobodyHas(t *testing.T) {
	box, k := ageing(t)
	box.opts.KeepBytes = 1 << 30
	e := box.current.id
	all, half := sealOne(t, box, "2", "3"), sealOne(t, box, "4", "5", "6")
	held := []telemetry.Range{seqs(1, 3), seqs(5, 5)}
	if err := box.Trim(telemetry.Receipt{Agent: "greenhouse-1", Issued: issued, Epochs: []telemetry.EpochReceipt{{Epoch: e, Held: held}}}); err != nil {
		t.Fatal(err)
	}
	box.lookAll()
	k.forward(3*time.Hour, 0)
	expireNow(t, box)
	if got := strings.Join(lossesIn(t, box, e), ", "); got != "expired 4-4 1, expired 6-6 1" {
		t.Fatal(got)
	}
	if !half.gone || all.gone {
		t.Fatalf("the one with unreceipted readings is gone: %t; the one that is only kept: %t", half.gone, all.gone)
	}
}

// A loss record in an expired segment is told again before that goes; a segment with
// nothing but such records, starts and anchors does not expire at all.
func TestExpiryCarriesLossesForward(t *testing.T) {
	box, k := ageing(t)
	e := box.current.id
	rec, err := (&Draft{Oversized: &telemetry.Oversized{Topic: "camera", Size: 1 << 20}}).record()
	if err != nil {
		t.Fatal(err)
	}
	if err := box.commit([]item{{rec: rec, size: recordSize(&rec), lost: 1, done: nobody}}, false); err != nil {
		t.Fatal(err)
	}
	old := sealOne(t, box, "a reading")
	k.forward(2*time.Hour, 0)
	expireNow(t, box)
	if got := strings.Join(lossesIn(t, box, e), ", "); !old.gone || got != "expired 1-3 1, oversized 1-0 1" {
		t.Fatalf("gone %t: %s", old.gone, got)
	}
	told := box.live
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	k.forward(100*time.Hour, 0)
	expireNow(t, box)
	if told.gone || len(lossesIn(t, box, e)) != 2 {
		t.Fatal("loss records expired")
	}
	if s := box.Stats(); s.Lost[telemetry.ReasonOversized] != 1 || s.Lost[telemetry.ReasonExpired] != 1 {
		t.Fatalf("%v", s.Lost)
	}
}

// A pack expires when the youngest of what is in it is too old, and then every epoch
// in it has its loss record.
func TestPacksExpireWhole(t *testing.T) {
	dir := memoryDir(t)
	k := &clock{at: telemetry.Instant{Boot: time.Minute, Wall: issued.UnixNano()}}
	o := Options{Dir: dir, SegmentBytes: small, MaxAge: 1000 * time.Hour, Now: k.now, Boot: [16]byte{1}, packFrom: 1 << 20, noSync: true}
	want := map[telemetry.Epoch]uint64{}
	for range 5 {
		x := open(t, o)
		x.append(reading("t", "1"), reading("t", "2"))
		want[x.Stats().Epoch] = 3
		k.forward(30*time.Minute, 0)
		x.end()
	}
	o.packFrom = 2
	x := open(t, o)
	x.append(reading("t", "packs them"))
	eventually(t, "nothing is packed", func() bool { return len(packs(t, dir)) == 1 && len(x.smallFiles()) < 2 })
	x.end()
	o.MaxAge, o.packFrom = 2*time.Hour, 1<<20
	for _, c := range []struct {
		after time.Duration
		gone  bool
	}{{time.Hour, false}, {3 * time.Hour, true}} { // the youngest is 30 minutes old, the oldest two hours and a half
		k.forward(c.after, 0)
		x := open(t, o)
		x.append(reading("t", "looks at ages before the next"))
		x.append(reading("t", "next"))
		lost := map[telemetry.Epoch]ranges.Set{}
		for _, l := range x.losses() {
			lost[l.Epoch] = lost[l.Epoch].Add(l.Seqs)
		}
		for e, last := range want {
			if lost[e].Covers(seqs(1, last)) != c.gone {
				t.Errorf("%s later: epoch %s lost %v", c.after, e, lost[e])
			}
		}
		if n := len(packs(t, dir)); n != int(boolByte(!c.gone)) {
			t.Errorf("%s later: %d packs", c.after, n)
		}
		x.end()
	}
}

// A damaged segment is not given up by its age, which it does not tell: it is set
// aside, and what can be read of it is saved.
func TestDamagedSegmentDoesNotExpire(t *testing.T) {
	box, k := ageing(t)
	e := box.current.id
	f := sealOne(t, box, "2", "3", "4")
	path := filepath.Join(box.opts.Dir, f.name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(data[:8192]) // both meta pages
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	k.forward(5*time.Hour, 0)
	expireNow(t, box)
	if f.bad == nil || f.gone {
		t.Fatalf("damaged: %v, gone: %t", f.bad, f.gone)
	}
	if err := box.quarantineAll(); err != nil {
		t.Fatal(err)
	}
	recs, err := box.Read(t.Context(), e, 1, 10, 1000)
	if err != nil || len(recs) != 4 || len(lossesIn(t, box, e)) != 0 {
		t.Fatalf("%d records are left, %v, losses %v", len(recs), err, lossesIn(t, box, e))
	}
}

// A segment that fills slowly is ended, so that its first reading need not wait for
// the last to become old.
func TestSlowSegmentsAreEndedByAge(t *testing.T) {
	box, k := ageing(t)
	commitSome(t, box, "slow")
	for minutes := 0; minutes < 60; minutes += 2 {
		k.forward(2*time.Minute, 0)
		expireNow(t, box)
		commitSome(t, box, fmt.Sprint(minutes))
	}
	if s := box.Stats(); s.Segments < 6 || s.Segments > 9 { // an eighth of an hour each
		t.Fatalf("%d segments in an hour", s.Segments)
	}
}
