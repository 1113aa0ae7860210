package outbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// makeEpochs writes what n lives of an agent leave behind that each stored a few
// readings and were cut off, without waiting for a disk.
func makeEpochs(tb testing.TB, dir string, n int) []telemetry.Epoch {
	tb.Helper()
	var out []telemetry.Epoch
	var before telemetry.Epoch
	for i := range n {
		e := newEpochID(uint64(i + 1))
		h := head{Epoch: e, Seqs: telemetry.Range{First: 1}}
		at := telemetry.Instant{Boot: time.Second, Wall: int64(i)}
		recs := []telemetry.Record{{Seq: 1, At: at, Kind: telemetry.KindStart, Start: &telemetry.Start{Previous: before, PreviousLast: 3}}}
		for seq := uint64(2); seq <= 3; seq++ {
			r := &telemetry.Reading{Topic: "greenhouse/temperature", QoS: 1, Payload: fmt.Appendf(nil, "%d/%d", i, seq)}
			recs = append(recs, telemetry.Record{Seq: seq, At: at, Kind: telemetry.KindReading, Reading: r})
		}
		path := filepath.Join(dir, liveName(e, 1))
		db, err := openBolt(path, 64<<10, true)
		if err != nil {
			tb.Fatal(err)
		}
		w := writer{db: db}
		used, err := w.commit([]part{{&h, recs}}, nil)
		if err != nil {
			tb.Fatal(err)
		}
		if err := db.Close(); err != nil {
			tb.Fatal(err)
		}
		if err := os.Truncate(path, used); err != nil {
			tb.Fatal(err)
		}
		if i < n-1 { // the last one was cut off: nobody has sealed it
			if err := os.Rename(path, filepath.Join(dir, sealedName(e, h.Seqs))); err != nil {
				tb.Fatal(err)
			}
		}
		out, before = append(out, e), e
	}
	return out
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // pools are emptied at the second time
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func diskBytes(tb testing.TB, dir string) (files int, bytes int64) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range entries {
		if info, err := d.Info(); err == nil && d.Name() != nameSpare {
			files, bytes = files+1, bytes+info.Size()
		}
	}
	return files, bytes
}

// Ten thousand epochs of a few records each, a year of restarts without a
// network, are opened at once, take little memory and, packed, little room; every
// record is readable, and receipts in pages give it all back.
func TestTenThousandOpenEpochs(t *testing.T) {
	n := envInt(t, "OUTBOX_EPOCHS", 500, 10_000)
	dir := memoryDir(t)
	made := makeEpochs(t, dir, n)
	before := heap()
	start := time.Now()
	x := open(t, Options{Dir: dir, SegmentBytes: 8 << 20})
	x.append(reading("now", "ready"))
	ready := time.Since(start)
	used := heap() - before
	if limit := int64(4<<20 + n*1600); used > limit {
		t.Errorf("%d open epochs take %d bytes of memory, want at most %d", n, used, limit)
	}
	if ready > 2*time.Second && runtime.GOARCH == "amd64" {
		t.Errorf("the first record was durable after %s", ready)
	}
	if got := len(x.Epochs()); got != n+1 {
		t.Fatalf("%d epochs are open, want %d", got, n+1)
	}
	if last := x.all(x.Stats().Epoch)[0].Start; last.Previous != made[n-1] || last.PreviousLast != 3 {
		t.Fatalf("start names %s up to %d", last.Previous, last.PreviousLast)
	}
	files, size := settleFiles(t, x, dir)
	t.Logf("%d epochs: ready in %s, %d bytes of memory each, packed into %d files of %d bytes", n, ready, used/int64(n), files, size)
	if size > int64(n)*700+(16<<20) || files > 200 {
		t.Errorf("%d files of %d bytes are left", files, size)
	}
	for i, e := range made {
		recs := x.all(e)
		if len(recs) != 3 || string(recs[2].Reading.Payload) != fmt.Sprintf("%d/3", i) {
			t.Fatalf("epoch %d has %d records", i, len(recs))
		}
	}
	trimPages(t, x, made)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if files, _ := diskBytes(t, dir); files <= 3 { // the lock, the live segment, and what is beside it
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d files are left after the receipts", files)
		}
	}
}

// memoryDir is a folder in memory where there is one: bbolt syncs every new file,
// and ten thousand of those take a disk a minute.
func memoryDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "outbox-test-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// settleFiles waits until nothing is packed any more.
func settleFiles(tb testing.TB, x *opened, dir string) (files int, bytes int64) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); len(x.smallFiles()) >= packFrom; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("%d small files are left", len(x.smallFiles()))
		}
	}
	return diskBytes(tb, dir)
}

func trimPages(tb testing.TB, x *opened, epochs []telemetry.Epoch) {
	tb.Helper()
	for len(epochs) > 0 {
		n := min(len(epochs), telemetry.MaxEpochs)
		r := telemetry.Receipt{Agent: "greenhouse-1"}
		for _, e := range epochs[:n] {
			r.Epochs = append(r.Epochs, telemetry.EpochReceipt{Epoch: e, Watermark: 3})
		}
		if err := x.Trim(r); err != nil {
			tb.Fatal(err)
		}
		epochs = epochs[n:]
	}
}

// A folder that is put back as it was before, as from a card's image, and a copy
// that runs on a second machine give no number to two readings: each process has
// an epoch of its own, whose start says how far the one before went.
func TestRollbackAndCloneNeverReuseNumber(t *testing.T) {
	dir, image := memoryDir(t), memoryDir(t)
	meaning := map[telemetry.Epoch]map[uint64]string{}
	learn := func(x *opened) {
		t.Helper()
		for _, o := range x.Epochs() {
			if meaning[o.Epoch] == nil {
				meaning[o.Epoch] = map[uint64]string{}
			}
			for _, rec := range x.all(o.Epoch) {
				text := fmt.Sprintf("%+v %+v", rec.At, rec.Start)
				if rec.Reading != nil {
					text = string(rec.Reading.Payload)
				}
				if old, ok := meaning[o.Epoch][rec.Seq]; ok && old != text {
					t.Fatalf("epoch %s seq %d means %q and %q", o.Epoch, rec.Seq, old, text)
				}
				meaning[o.Epoch][rec.Seq] = text
			}
		}
	}
	run := func(dir, what string) telemetry.Epoch {
		t.Helper()
		x := open(t, Options{Dir: dir})
		e := x.Stats().Epoch
		for i := range 20 {
			x.append(reading("t", fmt.Sprintf("%s %d", what, i)))
		}
		learn(x)
		if err := x.Trim(telemetry.Receipt{Agent: "greenhouse-1", Epochs: []telemetry.EpochReceipt{{Epoch: e, Watermark: 15}}}); err != nil {
			t.Fatal(err)
		}
		x.append(reading("t", what+" after the receipt"))
		learn(x)
		if err := x.stop(); err != nil {
			t.Fatal(err)
		}
		return e
	}
	run(dir, "first life")
	copyDir(t, dir, image)
	second := run(dir, "second life")
	clone := memoryDir(t)
	copyDir(t, image, clone)
	run(clone, "the clone's life")
	back := memoryDir(t)
	copyDir(t, image, back)
	third := run(back, "life after the rollback")
	if second.Ordinal != third.Ordinal || second == third {
		t.Fatalf("the rolled back card began %s, as %s before", third, second)
	}

	// The cloud holds the second life, of which this card knows nothing.
	x := open(t, Options{Dir: back})
	err := x.Trim(telemetry.Receipt{Agent: "greenhouse-1", Epochs: []telemetry.EpochReceipt{{Epoch: second, Watermark: 22}}})
	if err != nil || x.Stats().UnknownEpochs != 1 {
		t.Fatalf("receipt of an epoch that is not here: %v", err)
	}
	if err := x.Again(second, telemetry.Range{First: 1, Last: 5}); err == nil {
		t.Fatal("it answered for an epoch that it never made")
	}
	if _, err := x.Append(context.Background(), reading("t", "goes on")); err != nil {
		t.Fatal(err)
	}
	learn(x)
}
