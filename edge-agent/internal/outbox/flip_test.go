package outbox

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// flipStore makes a store of every kind of file: sealed segments, a pack, and the
// segment that a process was killed over.
func flipStore(tb testing.TB) (dir string, want map[telemetry.Epoch]map[uint64]string) {
	tb.Helper()
	dir, want = memoryDir(tb), map[telemetry.Epoch]map[uint64]string{}
	o := Options{Dir: dir, SegmentBytes: 256 << 10, noSync: true, unclean: true, packFrom: 2}
	for life := range 5 {
		x := open(tb, o)
		e := x.Stats().Epoch
		n := 3
		if life > 2 {
			n, o.packFrom = 100, 1000
		}
		for i := range n {
			x.append(reading("t/"+fmt.Sprint(i%5), fmt.Sprintf("%d/%d/%s", life, i, strings.Repeat("p", i*13%900))),
				reading("u", strings.Repeat("q", i)))
		}
		for deadline := time.Now().Add(5 * time.Second); life == 2 && len(x.smallFiles()) > 1 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		want[e] = map[uint64]string{}
		for _, rec := range x.all(e) {
			want[e][rec.Seq] = meaning(&rec)
		}
		if err := x.stop(); err != nil {
			tb.Fatal(err)
		}
	}
	return dir, want
}

// meaning is all of a record.
func meaning(rec *telemetry.Record) string {
	switch {
	case rec.Reading != nil:
		return fmt.Sprintf("%+v %+v", rec.At, *rec.Reading)
	case rec.Loss != nil:
		l := *rec.Loss
		big := fmt.Sprintf("%+v", l.Oversized)
		l.Oversized = nil
		return fmt.Sprintf("%+v %+v %s", rec.At, l, big)
	case rec.Anchor != nil:
		return fmt.Sprintf("%+v %+v", rec.At, *rec.Anchor)
	}
	return fmt.Sprintf("%+v %+v", rec.At, *rec.Start)
}

// A bit turned anywhere in a store is found out or harmless: no reading comes back
// wrong, and none goes missing without a loss record.
func TestBitFlipsAreDetectedOrHarmless(t *testing.T) {
	flips := envInt(t, "OUTBOX_FLIPS", 60, 1000)
	seed := seeded(t)
	rng := rand.New(rand.NewPCG(seed, 5))
	master, want := flipStore(t)
	quarantined := 0
	for i := range flips {
		dir := memoryDir(t)
		copyDir(t, master, dir)
		names, _ := filepath.Glob(filepath.Join(dir, "*"+suffixSegment))
		// By size, so that every bit is as likely.
		var total int64
		var sizes []int64
		for _, n := range names {
			info, err := os.Stat(n)
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, min(info.Size(), 200<<10)) // the rest was never written
			total += sizes[len(sizes)-1]
		}
		at, k := rng.Int64N(total), 0
		for ; at >= sizes[k]; k++ {
			at -= sizes[k]
		}
		turn(t, names[k], at, 1<<rng.IntN(8))
		quarantined += checkFlipped(t, dir, want, fmt.Sprintf("flip %d: byte %d of %s", i, at, filepath.Base(names[k])))
		_ = os.RemoveAll(dir)
	}
	t.Logf("%d flips, %d files quarantined, no wrong reading", flips, quarantined)
	if quarantined == 0 && flips > 100 {
		t.Fatal("nothing was ever found out")
	}
}

func turn(tb testing.TB, path string, at int64, mask byte) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		tb.Fatal(err)
	}
	b[0] ^= mask
	if _, err := f.WriteAt(b, at); err != nil {
		tb.Fatal(err)
	}
}

// checkFlipped reads a store with a turned bit and returns how many files were
// quarantined.
func checkFlipped(t *testing.T, dir string, want map[telemetry.Epoch]map[uint64]string, what string) int {
	t.Helper()
	x := open(t, Options{Dir: dir, SegmentBytes: 256 << 10, noSync: true})
	defer func() {
		if err := x.stop(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}()
	x.append(reading("after", "the flip"))
	got := map[telemetry.Epoch]ranges.Set{}
	lost := map[telemetry.Epoch]ranges.Set{}
	for try := 0; ; try++ {
		wait, before := x.Wait(), x.Stats().Quarantined
		clear(got)
		for _, o := range x.Epochs() {
			for from := uint64(1); ; {
				recs, err := x.Read(context.Background(), o.Epoch, from, 1000, 1<<20)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if len(recs) == 0 {
					break
				}
				for i := range recs {
					rec := &recs[i]
					if known := want[o.Epoch]; known != nil && known[rec.Seq] != meaning(rec) {
						t.Fatalf("%s: epoch %s seq %d reads %.100s, want %.100s", what, o.Epoch, rec.Seq, meaning(rec), known[rec.Seq])
					}
					if l := rec.Loss; l != nil {
						lost[l.Epoch] = lost[l.Epoch].Add(l.Seqs)
					}
				}
				got[o.Epoch] = got[o.Epoch].Add(telemetry.Range{First: recs[0].Seq, Last: recs[len(recs)-1].Seq})
				from = recs[len(recs)-1].Seq + 1
			}
		}
		left := x.damaged()
		if left == 0 && x.Stats().Quarantined == before {
			break
		}
		if left == 0 {
			continue // it was done about meanwhile: read once more
		}
		select {
		case <-wait:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: nothing is done about %d damaged files", what, left)
		}
	}
	for e, known := range want {
		all := telemetry.Range{First: 1, Last: uint64(len(known))}
		if miss := got[e].Union(lost[e]).Missing(all); len(miss) > 0 {
			t.Fatalf("%s: epoch %s: %v went missing without a word", what, e, miss)
		}
	}
	return x.Stats().Quarantined
}
