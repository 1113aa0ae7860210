package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// segmented is an outbox of n segments with readings numbered by their seq.
func segmented(tb testing.TB, n int, o Options) *opened {
	tb.Helper()
	o.SegmentBytes = small
	if o.Dir == "" {
		o.Dir = memoryDir(tb)
	}
	x := open(tb, o)
	for next := 2; x.Stats().Segments < n; { // 1 is the start
		drafts := make([]Draft, 20)
		for i := range drafts {
			drafts[i] = reading("n", fmt.Sprintf("%d:%s", next, strings.Repeat("s", 900)))
			next++
		}
		x.append(drafts...)
	}
	return x
}

// wantRun fails unless recs follow each other from first and are what segmented made.
func wantRun(tb testing.TB, recs []telemetry.Record, first uint64) {
	tb.Helper()
	for i, rec := range recs {
		want := first + uint64(i)
		if rec.Seq != want || rec.Reading != nil && !bytes.HasPrefix(rec.Reading.Payload, fmt.Appendf(nil, "%d:", want)) {
			tb.Fatalf("seq %d at place %d, want %d: %.20q", rec.Seq, i, want, rec.Reading.Payload)
		}
	}
}

// Read begins where it is asked to, in any segment, gives at most as many records
// and bytes as asked for, at least one, and nothing where nothing is.
func TestReadKeepsItsBounds(t *testing.T) {
	x := segmented(t, 4, Options{})
	e := x.Epochs()[0]
	for from := uint64(1); from <= e.Durable; from += 37 {
		for _, c := range []struct{ records, bytes int }{{1, 1}, {5, 1 << 20}, {1000, 5000}, {1000, 1}, {3, 2000}} {
			recs, err := x.Read(t.Context(), e.Epoch, from, c.records, c.bytes)
			if err != nil || len(recs) == 0 || len(recs) > c.records {
				t.Fatalf("from %d, at most %d: %d records, %v", from, c.records, len(recs), err)
			}
			wantRun(t, recs, from)
			size := 0
			for _, rec := range recs {
				if rec.Reading != nil {
					size += len(rec.Reading.Topic) + len(rec.Reading.Payload)
				}
			}
			if size > c.bytes && len(recs) > 1 {
				t.Fatalf("from %d: %d bytes in %d records, at most %d were asked for", from, size, len(recs), c.bytes)
			}
		}
	}
	unknown := newEpochID(99)
	for name, read := range map[string]func() ([]telemetry.Record, error){
		"beyond the end":   func() ([]telemetry.Record, error) { return x.Read(t.Context(), e.Epoch, e.Durable+1, 10, 1000) },
		"an unknown epoch": func() ([]telemetry.Record, error) { return x.Read(t.Context(), unknown, 1, 10, 1000) },
	} {
		if recs, err := read(); len(recs) > 0 || err != nil {
			t.Errorf("%s: %d records, %v", name, len(recs), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := x.Read(ctx, e.Epoch, 1, 1, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
}

// Read goes over what was receipted and removed to the first record that is there.
func TestReadSkipsWhatIsGone(t *testing.T) {
	x := segmented(t, 4, Options{})
	e := x.Epochs()[0]
	x.receipt(e.Durable, time.Time{})
	eventually(t, "receipted segments stay", func() bool { return x.Stats().Segments == 1 })
	low := x.Epochs()[0].Lowest
	recs, err := x.Read(t.Context(), e.Epoch, 1, 10, 1<<20)
	if err != nil || len(recs) == 0 || recs[0].Seq != low || low == 1 {
		t.Fatalf("the lowest is %d; %d records, %v", low, len(recs), err)
	}
	wantRun(t, recs, low)
}

// Many readers, of segments that go away under them and of the one in writing, get
// records in order or nothing, and never an error.
func TestReadersBesideTrimAndAppend(t *testing.T) {
	x := segmented(t, 6, Options{})
	e := x.Epochs()[0]
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for who := range 3 {
		wg.Go(func() {
			for from := uint64(1); ; {
				select {
				case <-stop:
					return
				default:
				}
				recs, err := x.Read(context.Background(), e.Epoch, from, 50+who, 1<<16)
				if err != nil {
					t.Errorf("read from %d: %v", from, err)
					return
				}
				for i := range recs {
					if recs[i].Seq != recs[0].Seq+uint64(i) || recs[i].Seq < from {
						t.Errorf("read from %d: %d at place %d", from, recs[i].Seq, i)
						return
					}
				}
				if from = 1; len(recs) > 0 {
					from = recs[len(recs)-1].Seq + 1
				}
			}
		})
	}
	for i := range 60 {
		last := x.append(reading("t", strings.Repeat("y", 3000)), reading("t", "z"))
		x.receipt(min(last, e.Durable/60*uint64(i+1)), time.Time{})
	}
	close(stop)
	wg.Wait()
	if x.Stats().Quarantined > 0 {
		t.Fatal("a segment was taken for damaged")
	}
}

// However many segments are read, few stay open.
func TestFewFilesStayOpen(t *testing.T) {
	x := segmented(t, 8, Options{})
	e := x.Epochs()[0]
	for range 3 {
		for from := uint64(1); from <= e.Durable; from += 40 {
			if _, err := x.Read(t.Context(), e.Epoch, from, 1, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	segments := 0
	for _, d := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && strings.HasPrefix(name, x.opts.Dir) && strings.HasSuffix(name, suffixSegment) {
			segments++
		}
	}
	if segments > maxHandles+2 { // the one in writing is open twice: for bbolt and for readers
		t.Fatalf("%d segments are open", segments)
	}
}

// What a reader was given does not change when what it came from goes away.
func TestRecordsOutliveTheirSegment(t *testing.T) {
	x := segmented(t, 4, Options{})
	e := x.Epochs()[0]
	recs, err := x.Read(t.Context(), e.Epoch, 1, 100, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	live, err := x.Read(t.Context(), e.Epoch, e.Durable, 1, 1<<20)
	if err != nil || len(live) != 1 {
		t.Fatal(len(live), err)
	}
	x.receipt(e.Durable, time.Time{})
	eventually(t, "receipted segments stay", func() bool { return x.Stats().Segments == 1 })
	for range 30 {
		x.append(reading("t", strings.Repeat("w", 5000)))
	}
	wantRun(t, recs, 1)
	wantRun(t, live, e.Durable)
}

// Payloads are bytes: whatever is in them, and in a topic, comes out bit for bit,
// with QoS and flags.
func TestReadingsComeOutBitForBit(t *testing.T) {
	dir := memoryDir(t)
	x := open(t, Options{Dir: dir})
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	var want []telemetry.Reading
	for _, topic := range []string{"", "a", "a/b/c", "/", "ümlaut/日本", strings.Repeat("long/", 2000), "a"} {
		for i, payload := range [][]byte{nil, {}, {0}, all, bytes.Repeat([]byte{0xff}, 70_000), []byte("{\"v\":21.5}")} {
			want = append(want, telemetry.Reading{Topic: topic, Payload: payload, QoS: uint8(i % 3), Dup: i%2 == 0, Retained: i%4 == 1})
		}
	}
	at := telemetry.Instant{Boot: 1<<62 + 3, Wall: -1 << 60}
	for i := range want {
		x.append(Draft{At: at, Reading: &want[i]})
	}
	e := x.Stats().Epoch
	check := func(when string) {
		t.Helper()
		recs := x.all(e)[1:]
		if len(recs) != len(want) {
			t.Fatalf("%s: %d of %d", when, len(recs), len(want))
		}
		for i, rec := range recs {
			r := rec.Reading
			if r.Topic != want[i].Topic || !bytes.Equal(r.Payload, want[i].Payload) || r.QoS != want[i].QoS || r.Dup != want[i].Dup || r.Retained != want[i].Retained || rec.At != at {
				t.Fatalf("%s: reading %d came out as %.60q of %.20q", when, i, r.Payload, r.Topic)
			}
		}
	}
	check("from the segment in writing")
	x.end()
	x = open(t, Options{Dir: dir})
	check("after a restart")
}
