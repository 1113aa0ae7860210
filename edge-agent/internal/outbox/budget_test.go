package outbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// taken returns the bytes that a folder's files have on the disk, reservations
// included and damaged files not.
func taken(tb testing.TB, dir string) (sum int64) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range entries {
		info, err := d.Info()
		if err != nil || strings.HasSuffix(d.Name(), suffixBad) {
			continue // gone meanwhile
		}
		sum += info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return sum
}

// Whatever its bounds and its policy, an outbox never has more on the disk than it
// may, besides one small segment for records of its own; it says itself how much that
// is; and with refuse it gives up nothing.
func TestFolderStaysWithinItsBounds(t *testing.T) {
	seed := seeded(t)
	for i := range uint64(envInt(t, "OUTBOX_BUDGETS", 1, 12)) {
		rng := rand.New(rand.NewPCG(seed+i, 6))
		o := Options{
			Dir: memoryDir(t), MaxBytes: minSegment * (4 + rng.Int64N(20)), SegmentBytes: minSegment * (1 + rng.Int64N(4)),
			KeepBytes: minSegment * rng.Int64N(8), ReserveBytes: minSegment * (rng.Int64N(4) - 1),
			Full: []Policy{Refuse, DropOldest}[rng.IntN(2)], FullGrace: time.Millisecond, noSync: true, packFrom: 1 << 20,
		}
		what := fmt.Sprintf("seed %d: max %d, segment %d, keep %d, reserve %d, %s", seed+i, o.MaxBytes, o.SegmentBytes, o.KeepBytes, o.ReserveBytes, o.Full)
		x := open(t, o)
		acknowledged := 0
		for step := range 300 {
			_, err := x.Append(t.Context(), reading("t", strings.Repeat("b", rng.IntN(20_000))))
			switch {
			case err == nil:
				acknowledged++
			case o.Full == DropOldest || !errors.Is(err, ErrFull):
				t.Fatalf("%s: step %d: %v", what, step, err)
			}
			if got := taken(t, o.Dir); got > o.MaxBytes+minSegment {
				t.Fatalf("%s: %d bytes are taken at step %d", what, got, step)
			}
			if rng.IntN(30) == 0 {
				x.receipt(rng.Uint64N(x.Stats().Durable+1), issued.Add(time.Duration(step)*time.Second))
			}
		}
		s := x.Stats()
		if s.Bytes > o.MaxBytes+minSegment || o.Full == Refuse && s.Lost[telemetry.ReasonDropped] > 0 {
			t.Fatalf("%s: %+v", what, s)
		}
		if acknowledged < 10 {
			t.Fatalf("%s: only %d readings were taken", what, acknowledged)
		}
		x.end()
	}
}

// Segments are as large as they are meant to be by default: 64 MiB, never more, and
// no file goes on growing.
func TestSegmentsRollAtTheirSize(t *testing.T) {
	dir := memoryDir(t)
	o, size := Options{Dir: dir, noSync: true}, int64(64<<20)
	if testing.Short() {
		o.SegmentBytes, size = 8<<20, 8<<20
	}
	x := open(t, o)
	drafts := make([]Draft, 250)
	for i := range drafts {
		drafts[i] = reading("t", strings.Repeat("r", 4000))
	}
	for x.Stats().Segments < 3 {
		x.append(drafts...)
	}
	x.end()
	names, _ := filepath.Glob(filepath.Join(dir, "*"+suffixSegment))
	if len(names) != 3 {
		t.Fatal(names)
	}
	for i, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > size || i < 2 && info.Size() < size-2<<20 {
			t.Errorf("%s has %d bytes", filepath.Base(name), info.Size())
		}
	}
}

// Bounds that make no sense together are brought into line, and zero stands for the
// defaults that the documentation names.
func TestOptionsAreBroughtIntoLine(t *testing.T) {
	for _, c := range []struct {
		name                  string
		given                 Options
		segment, reserve, max int64
	}{
		{"nothing given", Options{}, 64 << 20, 64 << 20, 1 << 30},
		{"a small folder", Options{MaxBytes: 64 << 20}, 16 << 20, 16 << 20, 64 << 20},
		{"a tiny folder", Options{MaxBytes: 1000}, minSegment, minSegment, 1000},
		{"segments larger than fit", Options{MaxBytes: 40 << 20, SegmentBytes: 64 << 20}, 10 << 20, 10 << 20, 40 << 20},
		{"segments too small", Options{SegmentBytes: 1}, minSegment, minSegment, 1 << 30},
		{"a reserve larger than a segment", Options{SegmentBytes: 1 << 20, ReserveBytes: 1 << 30}, 1 << 20, 1 << 20, 1 << 30},
		{"a small reserve", Options{ReserveBytes: 1 << 20}, 64 << 20, 1 << 20, 1 << 30},
		{"no reserve", Options{ReserveBytes: -1}, 64 << 20, -1, 1 << 30},
	} {
		o := c.given
		o.Dir, o.Agent = "x", "greenhouse-1"
		if err := o.setDefaults(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if o.SegmentBytes != c.segment || o.ReserveBytes != c.reserve || o.MaxBytes != c.max {
			t.Errorf("%s: segment %d, reserve %d, max %d", c.name, o.SegmentBytes, o.ReserveBytes, o.MaxBytes)
		}
		if o.Profile != Latency || o.Full != Refuse || o.Interval != 250*time.Millisecond || o.FullGrace != 30*time.Second || o.QueueRecords != 8192 || o.QueueBytes != 4<<20 || o.MaxAge != 0 || o.KeepBytes != 0 {
			t.Errorf("%s: %+v", c.name, o)
		}
		if o.Boot == ([16]byte{}) || o.Now().Boot <= 0 || o.Now().Wall == 0 {
			t.Errorf("%s: boot %x at %+v", c.name, o.Boot, o.Now())
		}
	}
}

// Every reading that was ever taken is on the device or counted as lost, once,
// however often its loss was told anew; and so it is in the loss records that are left.
func TestLostReadingsAreCountedOnce(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small, MaxBytes: 4 * small, Full: DropOldest, noSync: true})
	const rounds, big = 200, 7
	readings, oversized := uint64(0), uint64(0)
	for range rounds {
		drafts := []Draft{reading("t", strings.Repeat("c", 9000)), reading("u", strings.Repeat("d", 3000))}
		for range big {
			drafts = append(drafts, Draft{Oversized: &telemetry.Oversized{Topic: strings.Repeat("camera/", 30), Size: 1 << 20}})
		}
		x.append(drafts...)
		readings, oversized = readings+2, oversized+big
	}
	there := uint64(0)
	recs := x.all(x.Stats().Epoch)
	told := map[telemetry.Reason]uint64{}
	for _, rec := range recs {
		switch {
		case rec.Reading != nil:
			there++
		case rec.Loss != nil:
			told[rec.Loss.Reason] += rec.Loss.Count
		}
	}
	s := x.Stats()
	if there+s.Lost[telemetry.ReasonDropped] != readings || s.Lost[telemetry.ReasonOversized] != oversized {
		t.Errorf("%d readings: %d are there, %v are counted as lost", readings, there, s.Lost)
	}
	if there == readings || told[telemetry.ReasonOversized] == oversized {
		t.Fatal("nothing was dropped")
	}
	if there+told[telemetry.ReasonDropped]+told[telemetry.ReasonOversized] != readings+oversized {
		t.Errorf("%d messages: %d are there, loss records tell of %v", readings+oversized, there, told)
	}
}

// While an outbox is full, a draft waits for as long as it is given and no longer;
// after that each is refused at once, and none waits once there is room again.
func TestFullGraceIsKept(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		x := open(t, Options{Dir: dir, SegmentBytes: small, MaxBytes: 4 * small, noSync: true})
		var err error
		var start time.Time
		for n := 0; err == nil && n < 10_000; n++ {
			start = time.Now()
			_, err = x.Append(t.Context(), reading("t", strings.Repeat("g", 3000)))
		}
		if d := time.Since(start); !errors.Is(err, ErrFull) || d < 30*time.Second || d > 36*time.Second {
			t.Errorf("the first that did not fit: %v after %s", err, d)
		}
		start = time.Now()
		if _, err := x.Append(t.Context(), reading("t", "x")); !errors.Is(err, ErrFull) || time.Since(start) > 0 {
			t.Errorf("the next: %v after %s", err, time.Since(start))
		}
		x.receipt(x.Stats().Durable, issued)
		synctest.Wait()
		start = time.Now()
		if _, err := x.Append(t.Context(), reading("t", "x")); err != nil || time.Since(start) > 0 {
			t.Errorf("with room again: %v after %s", err, time.Since(start))
		}
		if err := x.stop(); err != nil {
			t.Error(err)
		}
	})
}

// What is asked for and was never receipted is not called receipted.
func TestReasonOfWhatIsGoneIsKnownOrNot(t *testing.T) {
	o := Options{Dir: memoryDir(t), SegmentBytes: small, KeepBytes: 1 << 30, noSync: true}
	x := segmented(t, 4, o)
	e := x.Epochs()[0]
	names, _ := filepath.Glob(filepath.Join(o.Dir, "[0-9]*"+suffixSegment))
	_, second, _, _ := parseName(filepath.Base(names[1]))
	half := seqs(second.First, second.First+second.Len()/2)
	x.receipt(0, issued, half)
	x.append(reading("t", "the receipt is durable"))
	x.end()
	if err := os.Remove(names[1]); err != nil { // as a file system check may
		t.Fatal(err)
	}
	x = open(t, Options{Dir: o.Dir, SegmentBytes: small, KeepBytes: 1 << 30, noSync: true})
	x.append(reading("t", "goes on"))
	x.again(e.Epoch, second.First, second.Last)
	eventually(t, "no answer", func() bool { return len(x.losses()) >= 2 })
	why := map[telemetry.Reason]ranges.Set{}
	for _, l := range x.losses() {
		why[l.Reason] = why[l.Reason].Add(l.Seqs)
	}
	rest := seqs(half.Last+1, second.Last)
	if len(why) != 2 || !why[telemetry.ReasonReceipted].Covers(half) || !why[telemetry.ReasonUnknown].Covers(rest) || why[telemetry.ReasonReceipted].Overlaps(rest) {
		t.Fatalf("%v, want %v receipted and %v unknown", why, half, rest)
	}
}

// The room that one life set aside is the next one's, and what is too small for a
// segment, or not empty, is given back.
func TestSpareOutlivesItsProcess(t *testing.T) {
	dir := memoryDir(t)
	o := Options{Dir: dir, SegmentBytes: small, noSync: true}
	x := open(t, o)
	x.append(reading("t", "x"))
	x.end()
	spare := filepath.Join(dir, nameSpare)
	box := still(t, o)
	if box.spare != small {
		t.Fatalf("%d bytes are set aside, want %d", box.spare, small)
	}
	commitSome(t, box, "y")
	if s := box.Stats(); s.Bytes > 4*small || box.spare != small {
		t.Fatalf("%d set aside of %d", box.spare, s.Bytes)
	}
	if err := box.Close(); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func() error{
		"too small":   func() error { return reserve(spare, minSegment/2, true) },
		"not empty":   func() error { return os.WriteFile(spare, make([]byte, 2*minSegment), 0o600) },
		"only a name": func() error { return os.WriteFile(spare, nil, 0o600) },
	} {
		if err := errors.Join(os.RemoveAll(spare), make()); err != nil {
			t.Fatal(err)
		}
		box := still(t, o)
		if _, err := os.Stat(spare); box.spare != 0 || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %d bytes count as set aside, %v", name, box.spare, err)
		}
		if err := box.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A device short of file descriptors waits for better times: nothing ends, nothing
// is taken for damaged, and all goes on when there are some.
func TestShortageOfFilesPasses(t *testing.T) {
	dir := memoryDir(t)
	want := lives(t, dir, 8)
	x := open(t, Options{Dir: dir, SegmentBytes: small, MaxBytes: 8 * small, packFrom: 3, FullGrace: time.Hour, noSync: true})
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	probe, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	none := syscall.Rlimit{Cur: uint64(probe.Fd()), Max: was.Max}
	probe.Close()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	serr := x.Submit(t.Context(), reading("t", "while there are none"), func(_ uint64, err error) { done <- err })
	var rerr error
	for e := range want {
		if _, err := x.Read(t.Context(), e, 1, 1, 1); err != nil {
			rerr = err
		}
	}
	select {
	case err := <-done:
		t.Logf("acknowledged all the same: %v", err) // something was closed meanwhile
		done <- err
	case <-time.After(100 * time.Millisecond): // long enough for it to fail if it did
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if serr != nil || rerr != nil && !errors.Is(rerr, syscall.EMFILE) {
		t.Fatal(serr, rerr)
	}
	x.nudge()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not go on")
	}
	x.wantAll(want)
	if s := x.Stats(); s.Quarantined > 0 || x.damaged() > 0 {
		t.Fatalf("%d files were taken for damaged", s.Quarantined)
	}
}

// A whole page that the card lost, wherever it lies, is found out or harmless: zeros,
// noise, or what another page holds.
func TestLostPagesAreDetectedOrHarmless(t *testing.T) {
	seed := seeded(t)
	rng := rand.New(rand.NewPCG(seed, 8))
	master, want := flipStore(t)
	names, _ := filepath.Glob(filepath.Join(master, "*"+suffixSegment))
	quarantined, hurt := 0, 0
	for range envInt(t, "OUTBOX_PAGES", 6, 120) {
		dir := memoryDir(t)
		copyDir(t, master, dir)
		path := filepath.Join(dir, filepath.Base(names[rng.IntN(len(names))]))
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pages := min(len(data), 200<<10) / boltpage.PageSize
		at := rng.IntN(pages)
		page := data[at*boltpage.PageSize : (at+1)*boltpage.PageSize]
		kind := []string{"zeros", "ones", "noise", "another page"}[rng.IntN(4)]
		for i := range page {
			page[i] = map[string]byte{"zeros": 0, "ones": 0xff, "noise": byte(rng.Uint32())}[kind]
		}
		if kind == "another page" {
			from := rng.IntN(pages)
			copy(page, data[from*boltpage.PageSize:])
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		hurt++
		quarantined += checkFlipped(t, dir, want, fmt.Sprintf("page %d of %s is %s", at, filepath.Base(path), kind))
		_ = os.RemoveAll(dir)
	}
	t.Logf("%d pages lost, %d files quarantined", hurt, quarantined)
	if quarantined == 0 && hurt >= 100 {
		t.Fatal("nothing was ever found out")
	}
}
