package outbox

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Half-born and spare files go when a folder is opened; strange ones and those set
// aside stay as they are.
func TestOpenTidiesOnlyItsOwn(t *testing.T) {
	dir := memoryDir(t)
	x := open(t, Options{Dir: dir, ReserveBytes: -1})
	x.append(reading("t", "x"))
	x.end()
	e := newEpochID(77)
	for _, name := range []string{
		liveName(e, 1) + suffixTemp, prefixPack + "00" + suffixSegment + suffixTemp, nameSpare, // ours, unfinished
		"notes.txt", "x.seg", sealedName(e, telemetry.Range{First: 1, Last: 2}) + suffixBad, // not ours, or done with
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("stray"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	x = open(t, Options{Dir: dir, ReserveBytes: -1})
	x.append(reading("t", "y"))
	left := map[string]bool{}
	entries, _ := os.ReadDir(dir)
	for _, d := range entries {
		left[d.Name()] = true
	}
	for name, want := range map[string]bool{
		liveName(e, 1) + suffixTemp: false, prefixPack + "00" + suffixSegment + suffixTemp: false, nameSpare: false,
		"notes.txt": true, "x.seg": true, sealedName(e, telemetry.Range{First: 1, Last: 2}) + suffixBad: true,
	} {
		if left[name] != want {
			t.Errorf("%s is there: %t, want %t", name, left[name], want)
		}
	}
	s := x.Stats()
	if s.Quarantined != 1 || s.QuarantinedBytes != 5 {
		t.Errorf("%d quarantined of %d bytes", s.Quarantined, s.QuarantinedBytes)
	}
	if s.Epoch.Ordinal <= 77 {
		t.Errorf("epoch %s takes an ordinal that one set aside had", s.Epoch)
	}
}

// damage does something to the newest segment of a folder that one life left.
func damage(tb testing.TB, records int, how func(path string, data []byte) []byte) (dir string, e telemetry.Epoch) {
	tb.Helper()
	dir = memoryDir(tb)
	x := open(tb, Options{Dir: dir, unclean: true})
	for range records {
		x.append(reading("t", strings.Repeat("p", 100)))
	}
	e = x.Stats().Epoch
	x.end()
	path := newest(tb, dir)
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if data = how(path, data); data != nil {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir, e
}

// Whatever is wrong with the segment that was being written, opening succeeds, new
// records are taken, the segment is set aside, and every number of it that is known
// of is read back or has a loss record.
func TestDamagedEndIsSetAside(t *testing.T) {
	const records = 30
	for _, c := range []struct {
		name string
		how  func(path string, data []byte) []byte
		all  bool // everything can be saved
	}{
		{"cut to nothing", func(_ string, _ []byte) []byte { return []byte{} }, false},
		{"cut in the middle of a page", func(_ string, d []byte) []byte { return d[:3*boltpage.PageSize+100] }, false},
		{"zeros", func(_ string, d []byte) []byte { clear(d); return d }, false},
		{"noise", func(_ string, d []byte) []byte {
			for i := range d {
				d[i] = byte(i*i + i/7)
			}
			return d
		}, false},
		{"one meta page wrong", func(_ string, d []byte) []byte { d[20] ^= 1; return d }, true},
		{"the other meta page wrong", func(_ string, d []byte) []byte { d[boltpage.PageSize+20] ^= 1; return d }, true},
		{"both meta pages wrong", func(_ string, d []byte) []byte { d[20] ^= 1; d[boltpage.PageSize+20] ^= 1; return d }, true},
		{"another epoch's name", func(path string, d []byte) []byte {
			_ = os.Rename(path, filepath.Join(filepath.Dir(path), liveName(newEpochID(1), 1)))
			return nil
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, e := damage(t, records, c.how)
			x := open(t, Options{Dir: dir})
			x.append(reading("t", "after"))
			eventually(t, "the damaged segment stays", func() bool { return x.Stats().Quarantined == 1 })
			recs := x.all(e)
			if c.all && len(recs) != records+1 {
				t.Fatalf("%d records of %d were saved", len(recs), records+1)
			}
			lost := uint64(0)
			for _, l := range x.losses() {
				if l.Epoch == e {
					lost += l.Seqs.Len()
				}
			}
			var durable uint64
			for _, o := range x.Epochs() {
				if o.Epoch == e {
					durable = o.Durable
				}
			}
			if uint64(len(recs))+lost < durable {
				t.Fatalf("%d read, %d lost, of %d", len(recs), lost, durable)
			}
			names, _ := filepath.Glob(filepath.Join(dir, "*"+suffixBad))
			if len(names) != 1 {
				t.Fatalf("set aside: %v", names)
			}
		})
	}
}

// A sealed segment is not opened when the folder is: damage in it shows when it is read.
func TestMiddleSegmentsAreOpenedLazily(t *testing.T) {
	dir := memoryDir(t)
	x := segmented(t, 5, Options{Dir: dir})
	e := x.Epochs()[0]
	x.end()
	names, _ := filepath.Glob(filepath.Join(dir, "[0-9]*"+suffixSegment))
	if err := os.WriteFile(names[1], make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	_, seqs, _, _ := parseName(filepath.Base(names[1]))
	x = open(t, Options{Dir: dir, SegmentBytes: small})
	if x.Stats().Quarantined > 0 || x.damaged() > 0 {
		t.Fatal("opening read it")
	}
	recs, err := x.Read(t.Context(), e.Epoch, seqs.First, 10, 1000)
	if err != nil || len(recs) > 0 {
		t.Fatalf("%d records of zeros, %v", len(recs), err)
	}
	eventually(t, "the damaged segment stays", func() bool { return x.Stats().Quarantined == 1 })
	l := x.losses()
	if len(l) != 1 || l[0].Seqs != seqs || l[0].Epoch != e.Epoch || l[0].Reason != telemetry.ReasonCorrupt {
		t.Fatalf("%+v, want all of %v", l, seqs)
	}
	wantRun(t, must(x.Read(t.Context(), e.Epoch, seqs.First, 10, 1<<20)), seqs.Last+1)
}

func must(recs []telemetry.Record, err error) []telemetry.Record {
	if err != nil {
		panic(err)
	}
	return recs
}

// A folder is made with those above it; a file in its place, or one that may not
// be written, is an error that names it.
func TestOpenSaysWhatIsWrongWithTheFolder(t *testing.T) {
	root := memoryDir(t)
	deep := filepath.Join(root, "a", "b", "c")
	x := open(t, Options{Dir: deep})
	x.append(reading("t", "x"))
	x.end()
	if info, err := os.Stat(deep); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatal(info, err)
	}
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := Open(Options{Dir: dir, Agent: "a", Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if os.Geteuid() == 0 {
		return // root may write everywhere
	}
	locked := filepath.Join(root, "locked")
	if err := os.Mkdir(locked, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: locked, Agent: "a"}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a folder that may not be written: %v", err)
	}
}

// An epoch begins with its first append, and not with a process that only looks: a
// folder opened and closed is as it was.
func TestOpeningAloneChangesNothing(t *testing.T) {
	dir := memoryDir(t)
	x := open(t, Options{Dir: dir, ReserveBytes: -1})
	x.append(reading("t", "x"))
	first := x.Stats().Epoch
	x.end()
	before := snapshot(t, dir)
	for range 3 {
		x = open(t, Options{Dir: dir, ReserveBytes: -1})
		if recs := x.all(first); len(recs) != 2 {
			t.Fatalf("%d records", len(recs))
		}
		x.end()
		if after := snapshot(t, dir); after != before && strings.Count(after, suffixSegment) != strings.Count(before, suffixSegment) {
			t.Fatal("the folder changed")
		}
		before = snapshot(t, dir)
	}
	x = open(t, Options{Dir: dir})
	x.append(reading("t", "y"))
	if s := x.all(x.Stats().Epoch)[0].Start; s.Previous != first || s.PreviousLast != 2 || !s.PreviousClean {
		t.Fatalf("%+v", s)
	}
}

// A start says whether the epoch before was closed or cut off.
func TestStartKnowsHowTheEpochBeforeEnded(t *testing.T) {
	for _, clean := range []bool{true, false} {
		dir := memoryDir(t)
		x := open(t, Options{Dir: dir, unclean: !clean})
		x.append(reading("t", "x"), reading("t", "y"))
		before := x.Stats().Epoch
		x.end()
		x = open(t, Options{Dir: dir, Version: "1.2.3", Boot: [16]byte{9}})
		x.append(reading("t", "z"))
		s := x.all(x.Stats().Epoch)[0].Start
		if s.Previous != before || s.PreviousLast != 3 || s.PreviousClean != clean || s.Version != "1.2.3" || s.Boot != [16]byte{9} {
			t.Errorf("closed %t: %+v", clean, s)
		}
	}
}

// More epochs than are remembered may come and go; what is forgotten is not
// answered for, and what is remembered is.
func TestForgottenEpochsAreNotAnsweredFor(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t)})
	commitSome(t, box, "1")
	box.mu.Lock()
	var ids []telemetry.Epoch
	for i := range remembered + 50 {
		e := box.epochLocked(telemetry.Epoch{Ordinal: 0, ID: [8]byte{byte(i >> 8), byte(i), 1}})
		e.last = 9
		e.receipted = e.receipted.Add(telemetry.Range{First: 1, Last: 9})
		ids = append(ids, e.id)
	}
	box.forgetLocked()
	box.mu.Unlock()
	one := telemetry.Range{First: 3, Last: 4}
	if err := box.Again(ids[0], one); !errors.Is(err, ErrNeverMade) {
		t.Fatalf("the oldest: %v", err)
	}
	if err := box.Again(ids[len(ids)-1], one); err != nil {
		t.Fatalf("the newest: %v", err)
	}
	if err := box.commitInside(); err != nil {
		t.Fatal(err)
	}
	recs, err := box.Read(t.Context(), box.current.id, 3, 10, 1000)
	if err != nil || len(recs) != 1 || recs[0].Loss == nil || recs[0].Loss.Epoch != ids[len(ids)-1] || recs[0].Loss.Seqs != one || recs[0].Loss.Reason != telemetry.ReasonReceipted {
		t.Fatalf("%+v, %v", recs, err)
	}
	forgotten := []telemetry.EpochReceipt{{Epoch: ids[0], Watermark: 9}}
	if err := box.Trim(telemetry.Receipt{Agent: "greenhouse-1", Issued: time.Now(), Epochs: forgotten}); err != nil || box.Stats().UnknownEpochs != 1 {
		t.Fatalf("a receipt of an unknown epoch: %v", err)
	}
}
