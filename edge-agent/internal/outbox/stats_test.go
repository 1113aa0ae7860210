package outbox

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// The rate is that of the last minutes, is unknown for the first second, and goes
// to nothing when nothing comes.
func TestRateForgets(t *testing.T) {
	var r rate
	t0 := time.Unix(1000, 0)
	if v := r.perSecond(t0); v != 0 {
		t.Fatalf("of nothing: %v", v)
	}
	for i := range 600 {
		r.add(t0.Add(time.Duration(i)*time.Second), 1000)
	}
	if v := r.perSecond(t0.Add(599 * time.Second)); v < 600 || v > 1100 {
		t.Fatalf("of 1000 a second: %v", v)
	}
	if v := r.perSecond(t0.Add(599*time.Second + rateWindow)); v != 0 {
		t.Fatalf("ten minutes after the last: %v", v)
	}
	var young rate
	young.add(t0, 50)
	if v := young.perSecond(t0.Add(time.Second / 2)); v != 0 {
		t.Fatalf("of half a second: %v", v)
	}
	if v := young.perSecond(t0.Add(2 * time.Second)); v < 20 || v > 30 {
		t.Fatalf("of 50 bytes in two seconds: %v", v)
	}
}

// The time to full is what is left by the rate; without a rate, or when it would be
// years, it is not known; a full outbox is full in no time.
func TestTimeToFullIsKnownOrNot(t *testing.T) {
	t0 := time.Unix(1000, 0)
	r := rate{since: t0, last: t0.Add(100 * time.Second), bytes: 100 * 1000}
	now := t0.Add(100 * time.Second)
	for _, c := range []struct {
		bytes int64
		want  time.Duration
	}{{3_600_000, time.Hour}, {0, 0}, {-5, 0}, {1 << 62, -1}} {
		if got := r.reach(now, c.bytes); got != c.want {
			t.Errorf("%d bytes at 1000 a second: %s, want %s", c.bytes, got, c.want)
		}
	}
	if got := new(rate).reach(now, 5); got >= 0 {
		t.Errorf("without a rate: %s", got)
	}
}

// Stats counts what no receipt covers, by records and by bytes, and says when the
// oldest of it was made.
func TestStatsCountWhatIsNotReceipted(t *testing.T) {
	k := &clock{at: telemetry.Instant{Boot: time.Hour, Wall: 5_000}}
	x := segmented(t, 3, Options{Now: k.now, noSync: true})
	e := x.Epochs()[0]
	s := x.Stats()
	if s.Records != e.Durable || s.OldestEpoch != e.Epoch || s.Oldest.Wall != 5_000 || s.Segments != 3 || s.Epochs != 1 || s.FreeBytes <= 0 {
		t.Fatalf("%+v", s)
	}
	if s.Appended != e.Durable || s.Readings != e.Durable-1 || s.AppendedBytes < 900*s.Readings {
		t.Fatalf("%+v", s)
	}
	k.forward(time.Minute, 0)
	x.receipt(5, time.Time{}, telemetry.Range{First: 8, Last: 9})
	s = x.Stats()
	if s.Records != e.Durable-7 {
		t.Fatalf("%d records of %d, 7 are receipted", s.Records, e.Durable)
	}
	before := s.Unreceipted
	x.receipt(e.Durable, time.Time{})
	x.append(reading("t", "new"))
	eventually(t, "receipted segments count", func() bool { s = x.Stats(); return s.Records == 1 && s.Unreceipted < before })
	if s.OldestEpoch != e.Epoch || s.Oldest.Boot < time.Hour+time.Minute {
		t.Fatalf("the oldest is of %+v", s.Oldest)
	}
	x.receipt(s.Durable, time.Time{})
	if s = x.Stats(); s.Records != 0 || s.Oldest != (telemetry.Instant{}) || !s.OldestEpoch.IsZero() {
		t.Fatalf("with nothing left: %+v", s)
	}
}

// Losses are counted by reason.
func TestLossesAreCountedByReason(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small, MaxBytes: 4 * small, Full: DropOldest, noSync: true})
	for i := range 3 {
		x.append(Draft{Oversized: &telemetry.Oversized{Topic: "t", Size: uint64(i)}})
	}
	for x.Stats().Lost[telemetry.ReasonDropped] == 0 {
		x.append(reading("t", strings.Repeat("d", 3000)))
	}
	s := x.Stats()
	if s.Lost[telemetry.ReasonOversized] < 3 || s.Lost[telemetry.ReasonCorrupt] != 0 {
		t.Fatalf("%v", s.Lost)
	}
}
