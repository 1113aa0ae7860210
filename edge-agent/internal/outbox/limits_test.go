package outbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const small = 256 << 10 // a segment in these tests

// fill appends readings until n segments are there.
func (x *opened) fill(n int) {
	x.tb.Helper()
	for range 100_000 {
		if x.Stats().Segments >= n {
			return
		}
		x.append(reading("fill", strings.Repeat("f", 4000)))
	}
	x.tb.Fatalf("%d segments and no more", x.Stats().Segments)
}

func (x *opened) receipt(watermark uint64, issued time.Time, held ...telemetry.Range) {
	x.tb.Helper()
	er := telemetry.EpochReceipt{Epoch: x.Stats().Epoch, Watermark: watermark, Held: held}
	if err := x.Trim(telemetry.Receipt{Agent: "greenhouse-1", Issued: issued, Epochs: []telemetry.EpochReceipt{er}}); err != nil {
		x.tb.Fatal(err)
	}
}

// eventually waits for what the committer does by itself.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatal(what)
		}
	}
}

// losses returns the loss records of the current epoch.
func (x *opened) losses() (out []telemetry.Loss) {
	x.tb.Helper()
	for _, rec := range x.all(x.Stats().Epoch) {
		if rec.Loss != nil {
			out = append(out, *rec.Loss)
		}
	}
	return out
}

// What is receipted goes by whole segments, is kept while keep_bytes allows, and
// is not taken for unreceipted after a restart.
func TestReceiptedSegmentsGoOrAreKept(t *testing.T) {
	for _, keep := range []int64{0, 64 << 20} {
		t.Run(fmt.Sprint("keep=", keep), func(t *testing.T) {
			o := Options{Dir: memoryDir(t), SegmentBytes: small, KeepBytes: keep}
			x := open(t, o)
			x.fill(4)
			e := x.Epochs()[0]
			x.receipt(e.Durable, time.Time{})
			if keep == 0 {
				eventually(t, "receipted segments stay", func() bool { return x.Stats().Segments == 1 })
				if got := x.Epochs()[0]; got.Lowest <= 1 || got.Trimmed != e.Durable {
					t.Fatalf("%+v", got)
				}
				return
			}
			x.append(reading("t", "one more"))
			if s := x.Stats(); s.Segments != 4 || s.Records != 1 {
				t.Fatalf("%d segments, %d records without a receipt", s.Segments, s.Records)
			}
			if err := x.stop(); err != nil {
				t.Fatal(err)
			}
			x = open(t, o)
			if got := x.Epochs()[0]; got.Lowest != 1 || got.Trimmed != e.Durable || got.Durable != e.Durable+1 {
				t.Fatalf("after a restart: %+v", got)
			}
		})
	}
}

// A receipt for another agent, and one for seqs that were never made, delete
// nothing, not even of what else they cover, and count as alarms.
func TestWrongReceiptsDeleteNothing(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small})
	x.fill(3)
	e := x.Epochs()[0]
	right := telemetry.EpochReceipt{Epoch: e.Epoch, Watermark: e.Durable}
	if err := x.Trim(telemetry.Receipt{Agent: "other", Epochs: []telemetry.EpochReceipt{right}}); !errors.Is(err, ErrForeign) {
		t.Fatal(err)
	}
	for _, wrong := range []telemetry.EpochReceipt{
		{Epoch: e.Epoch, Watermark: e.Durable + 1},
		{Epoch: e.Epoch, Held: []telemetry.Range{{First: 2, Last: e.Durable + 9}}},
	} {
		if err := x.Trim(telemetry.Receipt{Agent: "greenhouse-1", Epochs: []telemetry.EpochReceipt{right, wrong}}); !errors.Is(err, ErrNeverMade) {
			t.Fatal(err)
		}
	}
	if err := x.Again(e.Epoch, telemetry.Range{First: 1, Last: e.Durable + 1}); !errors.Is(err, ErrNeverMade) {
		t.Fatal(err)
	}
	x.append(reading("t", "still here"))
	if s := x.Stats(); s.Segments != 3 || s.Foreign != 1 || s.NeverMade != 3 || s.Records != e.Durable+1 {
		t.Fatalf("%+v", s)
	}
}

// What the cloud asks for again is unreceipted while it is on the device, until a
// receipt issued later; for what is gone one loss record is made, however often
// the cloud asks.
func TestAgainResendsOrExplains(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small})
	x.fill(3)
	x.append(reading("t", "1"), reading("t", "2"), reading("t", "3"))
	e := x.Epochs()[0]
	t0 := time.Unix(1_700_000_000, 0)
	x.receipt(e.Durable, t0)
	eventually(t, "receipted segments stay", func() bool { return x.Stats().Segments == 1 })
	low := x.Epochs()[0].Lowest
	for range 5 {
		if err := x.Again(e.Epoch, telemetry.Range{First: 2, Last: low + 1}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no loss record", func() bool { return len(x.losses()) > 0 })
	if err := x.Again(e.Epoch, telemetry.Range{First: 2, Last: low + 1}); err != nil {
		t.Fatal(err)
	}
	x.append(reading("t", "after"))
	want := telemetry.Loss{Epoch: e.Epoch, Seqs: telemetry.Range{First: 2, Last: low - 1}, Reason: telemetry.ReasonReceipted, Count: low - 2}
	if got := x.losses(); len(got) != 1 || got[0] != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if got := x.Epochs()[0]; got.Trimmed != low-1 {
		t.Fatalf("asked for from %d again: %+v", low, got)
	}
	x.receipt(e.Durable, t0) // a receipt from before it was asked
	if got := x.Epochs()[0]; got.Trimmed != low-1 {
		t.Fatalf("an old receipt took back what was asked for: %+v", got)
	}
	x.receipt(e.Durable, t0.Add(time.Second))
	if got := x.Epochs()[0]; got.Trimmed != e.Durable {
		t.Fatalf("a newer receipt did not: %+v", got)
	}
}

// A hole that the cloud named gets a durable loss record; what is on the device,
// or was never made, does not.
func TestExplainOnlyWhatIsNotThere(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small})
	x.fill(2)
	e := x.Epochs()[0]
	ctx := context.Background()
	loss := func(first, last uint64) telemetry.Loss {
		return telemetry.Loss{Epoch: e.Epoch, Seqs: telemetry.Range{First: first, Last: last}, Reason: telemetry.ReasonUnknown}
	}
	if err := x.Explain(ctx, loss(1, 3)); !errors.Is(err, ErrDraft) {
		t.Fatalf("what is on the device: %v", err)
	}
	if err := x.Explain(ctx, loss(1, e.Durable+3)); !errors.Is(err, ErrNeverMade) {
		t.Fatalf("what was never made: %v", err)
	}
	x.receipt(e.Durable, time.Time{})
	eventually(t, "receipted segments stay", func() bool { return x.Stats().Segments == 1 })
	if err := x.Explain(ctx, loss(1, 3)); err != nil {
		t.Fatal(err)
	}
	if got := x.losses(); len(got) != 1 || got[0] != loss(1, 3) {
		t.Fatalf("%+v", got)
	}
}

// A full outbox that refuses holds drafts for a while, fails them with ErrFull and
// what comes then at once, keeps what it has, and takes readings again when a
// receipt makes room.
func TestFullOutboxRefuses(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small, MaxBytes: 4 * small, FullGrace: 50 * time.Millisecond})
	var err error
	n := 0
	for ; err == nil && n < 10_000; n++ {
		_, err = x.Append(context.Background(), reading("t", strings.Repeat("x", 3000)))
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("after %d records: %v", n, err)
	}
	s := x.Stats()
	if s.FullSince.IsZero() || s.Bytes > s.MaxBytes || int64(n)*3000 < s.MaxBytes/3 {
		t.Fatalf("%d records: %+v", n, s)
	}
	start := time.Now()
	if err := x.Submit(context.Background(), reading("t", "x"), nil); !errors.Is(err, ErrFull) || time.Since(start) > 40*time.Millisecond {
		t.Fatalf("after %s: %v", time.Since(start), err)
	}
	e := x.Epochs()[0]
	if recs := x.all(e.Epoch); uint64(len(recs)) != e.Durable || len(recs) < n-1 {
		t.Fatalf("%d records of %d are there, %d were acknowledged", len(recs), e.Durable, n-1)
	}
	x.receipt(e.Durable/2, time.Time{})
	eventually(t, "nothing is taken although there is room", func() bool {
		_, err := x.Append(context.Background(), reading("t", "again"))
		return err == nil
	})
	if s := x.Stats(); !s.FullSince.IsZero() {
		t.Fatalf("still full since %s", s.FullSince)
	}
}

// A full outbox that drops gives up its oldest segment for a loss record that
// counts what went, and never refuses. Nobody is told that what went was receipted.
func TestFullOutboxDropsOldest(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small, MaxBytes: 4 * small, Full: DropOldest})
	n := uint64(0)
	for ; x.Stats().Lost[telemetry.ReasonDropped] == 0; n++ {
		x.append(reading("t", strings.Repeat("x", 3000)))
	}
	eventually(t, "the segment stays", func() bool { return x.Epochs()[0].Lowest > 1 })
	e := x.Epochs()[0]
	l := x.losses()[0]
	if l.Seqs != (telemetry.Range{First: 1, Last: e.Lowest - 1}) || l.Count != l.Seqs.Len()-1 || l.Bytes != 3001*l.Count || l.First.Wall == 0 || l.Last.Wall < l.First.Wall {
		t.Fatalf("lowest %d, loss %+v", e.Lowest, l)
	}
	if e.Trimmed != 0 {
		t.Fatalf("dropped without a receipt, and said to be trimmed up to %d", e.Trimmed)
	}
	if s := x.Stats(); s.Bytes > s.MaxBytes || s.Lost[telemetry.ReasonDropped] != l.Count {
		t.Fatalf("%+v", s)
	}
}

// Whatever is set aside for the next segment, an outbox that drops takes everything
// and gives up no more than its oldest segments: the present one, the one set aside
// and what bbolt adds leave a fifth for payloads when segments are as small as here.
func TestDropsNoMoreThanItMust(t *testing.T) {
	for name, reserve := range map[string]int64{"no reserve": -1, "as usual": 0, "less": minSegment, "more than fits": 64 << 20} {
		t.Run(name, func(t *testing.T) {
			const most = 16 * minSegment
			x := open(t, Options{Dir: memoryDir(t), MaxBytes: most, ReserveBytes: reserve, Full: DropOldest})
			const size = 48 << 10
			for range 2 * most / size {
				x.append(reading("t", strings.Repeat("x", size)))
			}
			kept := 0
			for _, rec := range x.all(x.Stats().Epoch) {
				if rec.Reading != nil {
					kept += size
				}
			}
			if s := x.Stats(); s.Bytes > s.MaxBytes || kept < most/5 || s.Lost[telemetry.ReasonDropped] == 0 {
				t.Fatalf("%d bytes of payload are left, %+v", kept, s)
			}
		})
	}
}

// An outbox without a reserve, full of what is receipted and kept, gives that up
// one after the other for what comes in, although each removal has to be told.
func TestKeptSegmentsMakeRoomWithoutReserve(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small, MaxBytes: 6 * small, KeepBytes: 6 * small, ReserveBytes: -1})
	for n := range uint64(600) {
		x.append(reading("t", strings.Repeat("x", 3000)))
		if n%10 == 9 {
			x.receipt(n-5, issued.Add(time.Duration(n)*time.Second))
		}
	}
	if s := x.Stats(); s.Bytes > s.MaxBytes || s.Lost[telemetry.ReasonDropped] > 0 || !s.FullSince.IsZero() {
		t.Fatalf("%+v", s)
	}
}

// A loss record that nobody receipted is told again before its own segment is
// dropped, and neighbours become one: a year of drops ends in a few records.
func TestLossesAreCarriedForward(t *testing.T) {
	o := Options{Dir: memoryDir(t), SegmentBytes: small, MaxBytes: 4 * small, Full: DropOldest}
	x := open(t, o)
	x.append(Draft{Oversized: &telemetry.Oversized{Topic: "camera", Size: 9 << 20}})
	first := x.Stats().Epoch
	for range 900 {
		x.append(reading("t", strings.Repeat("x", 3000)))
	}
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	x = open(t, o)
	for range 900 {
		x.append(reading("t", strings.Repeat("x", 3000)))
	}
	var oversized, old int
	var until uint64
	for _, l := range x.losses() {
		if l.Oversized != nil && l.Oversized.Topic == "camera" {
			oversized++
		}
		if l.Epoch == first && l.Oversized == nil {
			old++
			until = max(until, l.Seqs.Last)
		}
	}
	// 901 readings and what was told of them, all of it gone by now: about
	// eighteen segments.
	if oversized == 0 || old == 0 || until < 902 || old > 40 {
		t.Fatalf("%d losses of the epoch before reach to %d; %d of the oversized message", old, until, oversized)
	}
}

// No segment can be removed that holds a record which is neither receipted nor
// given up durably, whoever asks.
func TestUnlinkBelievesNobody(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small})
	x.fill(3)
	x.receipt(10, time.Time{})
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	for _, f := range x.files {
		if err := x.unlink(f); !errors.Is(err, errNeeded) {
			t.Fatalf("%s: %v", f.name, err)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(x.opts.Dir, "*"+suffixSegment)); len(names) != 3 {
		t.Fatalf("%d segments are left", len(names))
	}
}

// clock is a device's clocks, set by the test.
type clock struct {
	mu sync.Mutex
	at telemetry.Instant
}

func (c *clock) now() telemetry.Instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at.Boot++ // no two moments are the same
	return c.at
}

func (c *clock) forward(boot, wall time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at.Boot += boot
	c.at.Wall += int64(wall)
}

// Readings older than max_age are given up; a clock that jumps from 1970 makes
// nothing old, one that was synchronised before and after does, and so does time
// for which the device ran.
func TestAgeCountsOnlyKnownTime(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, c := range []struct {
		name       string
		boot, wall time.Duration
		synced     bool
		want       bool
	}{
		{"the clock jumps", time.Minute, 50 * year, false, false},
		{"the device ran", 3 * time.Hour, 3 * time.Hour, false, true},
		{"a right clock says so", time.Minute, 3 * time.Hour, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := &clock{at: telemetry.Instant{Boot: time.Minute, Wall: 1}}
			o := Options{Dir: memoryDir(t), SegmentBytes: small, MaxAge: 2 * time.Hour, Now: k.now, Boot: [16]byte{1}}
			x := open(t, o)
			x.append(Draft{Anchor: &telemetry.Anchor{Synchronised: c.synced}}, reading("t", "old"))
			if err := x.stop(); err != nil {
				t.Fatal(err)
			}
			k.forward(c.boot, c.wall)
			x = open(t, o)
			x.append(Draft{Anchor: &telemetry.Anchor{Synchronised: c.synced}}, reading("t", "new"))
			k.forward(2*time.Minute, 2*time.Minute)
			x.append(reading("t", "newer"))
			x.append(reading("t", "newest")) // the look at ages came before it
			expired := len(x.losses()) == 1 && x.losses()[0].Reason == telemetry.ReasonExpired
			if expired != c.want {
				t.Fatalf("losses: %+v", x.losses())
			}
		})
	}
}

// Time across reboots counts only while the device ran.
func TestRunningTimeAddsUpAcrossBoots(t *testing.T) {
	k := &clock{at: telemetry.Instant{Boot: time.Minute}}
	o := Options{Dir: memoryDir(t), SegmentBytes: small, MaxAge: 2 * time.Hour, Now: k.now}
	var expired bool
	for boot := byte(1); boot <= 5; boot++ {
		k.mu.Lock()
		k.at.Boot = time.Second
		k.mu.Unlock()
		o.Boot = [16]byte{boot}
		x := open(t, o)
		x.append(reading("t", fmt.Sprint(boot)))
		before := x.Stats().Segments
		k.forward(50*time.Minute, 0)
		x.nudge()
		eventually(t, "a segment that fills slowly is not ended", func() bool {
			return x.Stats().Segments > before || len(x.losses()) > 0
		})
		x.append(reading("t", "later"))
		x.append(reading("t", "and the look at ages is done"))
		expired = len(x.losses()) > 0
		if expired != (boot >= 3) { // the device ran for 150 minutes by then
			t.Fatalf("boot %d: losses %+v", boot, x.losses())
		}
		if err := x.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// With the wear profile a commit waits for its interval, acknowledgements with it,
// unless Flush says that nothing more will come.
func TestWearProfileCommitsSeldom(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		x := open(t, Options{Dir: dir, Profile: Wear, Interval: 250 * time.Millisecond})
		x.append(reading("t", "first"))
		start := time.Now()
		var done sync.WaitGroup
		for i := range 40 {
			done.Add(1)
			if err := x.Submit(t.Context(), reading("t", fmt.Sprint(i)), func(uint64, error) { done.Done() }); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		done.Wait()
		if d := time.Since(start); d < 240*time.Millisecond || d > 260*time.Millisecond {
			t.Errorf("acknowledged after %s", d)
		}
		start = time.Now()
		done.Add(1)
		_ = x.Submit(t.Context(), reading("t", "hurry"), func(uint64, error) { done.Done() })
		x.Flush()
		done.Wait()
		if d := time.Since(start); d > 10*time.Millisecond {
			t.Errorf("after Flush it took %s", d)
		}
		if err := x.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// A full queue makes Submit wait, a context ends the wait, and acknowledgements
// come in the order of the Submits.
func TestQueueIsBoundedAndInOrder(t *testing.T) {
	box, err := Open(Options{Dir: memoryDir(t), Agent: "a", QueueRecords: 3})
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for range 3 {
		if err := box.Submit(t.Context(), reading("t", "x"), func(seq uint64, err error) { got = append(got, seq) }); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := box.Submit(ctx, reading("t", "x"), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a fourth into a queue of three: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if err := box.Run(ctx); err != nil { // drains what is queued
		t.Fatal(err)
	}
	if fmt.Sprint(got) != "[2 3 4]" {
		t.Fatalf("acknowledged %v", got)
	}
	if err := box.Submit(t.Context(), reading("t", "x"), nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("after Run: %v", err)
	}
	if err := box.Run(t.Context()); err == nil {
		t.Fatal("Run ran twice")
	}
	if err := box.Close(); err != nil {
		t.Fatal(err)
	}
}

// What no record can be is refused at once, and a second process is kept out.
func TestWrongUseIsRefused(t *testing.T) {
	dir := memoryDir(t)
	x := open(t, Options{Dir: dir})
	for _, d := range []Draft{
		{},
		{Reading: &telemetry.Reading{}, Anchor: &telemetry.Anchor{}},
		{Reading: &telemetry.Reading{Payload: make([]byte, telemetry.MaxPayload+1)}},
		{Reading: &telemetry.Reading{Topic: strings.Repeat("t", telemetry.MaxTopic+1)}},
		{Reading: &telemetry.Reading{QoS: 3}},
	} {
		if err := x.Submit(t.Context(), d, nil); !errors.Is(err, ErrDraft) {
			t.Errorf("%+v: %v", d, err)
		}
	}
	if _, err := Open(Options{Dir: dir, Agent: "a"}); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one: %v", err)
	}
	for _, o := range []Options{{}, {Dir: dir}, {Dir: dir, Agent: "A"}, {Dir: dir, Agent: "a", Full: "x"}, {Dir: dir, Agent: "a", Profile: "x"}} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// Wait's channel, taken before a look, is closed by the next commit.
func TestWaitMissesNothing(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t)})
	for i := range 50 {
		wait := x.Wait()
		go func() { _, _ = x.Append(context.Background(), reading("t", fmt.Sprint(i))) }()
		select {
		case <-wait:
		case <-time.After(5 * time.Second):
			t.Fatal("nobody woke")
		}
	}
}

// The largest reading there can be passes through a segment that has no room for
// it beside others.
func TestLargestReadingPasses(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small, MaxBytes: 64 << 20})
	big := reading(strings.Repeat("t", telemetry.MaxTopic), strings.Repeat("p", telemetry.MaxPayload))
	for range 3 {
		x.append(reading("t", "before"), big, reading("t", "after"))
	}
	n := 0
	for _, rec := range x.all(x.Stats().Epoch) {
		if rec.Reading != nil && len(rec.Reading.Payload) == telemetry.MaxPayload && len(rec.Reading.Topic) == telemetry.MaxTopic {
			n++
		}
	}
	if n != 3 {
		t.Fatalf("%d of 3", n)
	}
}

// Every metric is there, with what Stats says, and goes when the outbox is closed.
// The time to full is absent until something comes in.
func TestMetricsSayWhatStatsSays(t *testing.T) {
	reg := prometheus.NewRegistry()
	x := open(t, Options{Dir: memoryDir(t), MaxBytes: 16 << 20, Registerer: reg})
	known := func() bool {
		all, _ := reg.Gather()
		for _, f := range all {
			if f.GetName() == "edge_outbox_time_to_full_seconds" {
				return true
			}
		}
		return false
	}
	if s := x.Stats(); known() || s.TimeToFull >= 0 {
		t.Fatalf("full in %s, and nothing came in", s.TimeToFull)
	}
	x.append(reading("t", "1"), Draft{Oversized: &telemetry.Oversized{Topic: "t", Size: 5}})
	eventually(t, "no time to full", known) // a rate needs a second
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range all {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				got[f.GetName()+"/"+l.GetValue()] = m.GetCounter().GetValue()
			}
		}
		if !strings.HasPrefix(f.GetName(), "edge_outbox_") || f.GetHelp() == "" {
			t.Errorf("metric %s", f.GetName())
		}
	}
	for name, want := range map[string]float64{"edge_outbox_records": 3, "edge_outbox_segments": 1, "edge_outbox_lost_readings_total/oversized": 1, "edge_outbox_appended_records_total": 3, "edge_outbox_full": 0} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v", name, got[name], want)
		}
	}
	if got["edge_outbox_commit_seconds"] == 0 || got["edge_outbox_time_to_full_seconds"] == 0 {
		t.Errorf("commits %v, time to full %v", got["edge_outbox_commit_seconds"], got["edge_outbox_time_to_full_seconds"])
	}
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	if all, _ := reg.Gather(); len(all) > 0 {
		t.Errorf("%d metrics are left", len(all))
	}
}
