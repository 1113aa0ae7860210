package outbox

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// lives leaves behind what n lives of an agent stored, a few records each, and
// returns what each record means.
func lives(tb testing.TB, dir string, n int) map[telemetry.Epoch]map[uint64]string {
	tb.Helper()
	want := map[telemetry.Epoch]map[uint64]string{}
	for life := range n {
		x := open(tb, Options{Dir: dir, unclean: life%2 == 0, packFrom: 1 << 20, noSync: true})
		for i := range 1 + life%3 {
			x.append(reading(fmt.Sprintf("t/%d", i), fmt.Sprintf("life %d, %d", life, i)))
		}
		if life%4 == 3 {
			x.append(Draft{Oversized: &telemetry.Oversized{Topic: "big", Size: uint64(life)}}, Draft{Anchor: &telemetry.Anchor{Moved: time.Second}})
		}
		e := x.Stats().Epoch
		want[e] = map[uint64]string{}
		for _, rec := range x.all(e) {
			want[e][rec.Seq] = meaning(&rec)
		}
		x.end()
	}
	return want
}

// wantAll fails unless everything is there, and means what it meant.
func (x *opened) wantAll(want map[telemetry.Epoch]map[uint64]string) {
	x.tb.Helper()
	for e, known := range want {
		recs := x.all(e)
		if len(recs) != len(known) {
			x.tb.Fatalf("epoch %s: %d records of %d", e, len(recs), len(known))
		}
		for i := range recs {
			if got := meaning(&recs[i]); got != known[recs[i].Seq] {
				x.tb.Fatalf("epoch %s seq %d: %s, want %s", e, recs[i].Seq, got, known[recs[i].Seq])
			}
		}
	}
}

func packs(tb testing.TB, dir string) []string {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(dir, prefixPack+"*"+suffixSegment))
	if err != nil {
		tb.Fatal(err)
	}
	return names
}

// packed has the small files of a folder gathered into one pack.
func packed(tb testing.TB, dir string) {
	tb.Helper()
	x := open(tb, Options{Dir: dir, packFrom: 2, noSync: true})
	x.append(reading("t", "begins"))
	eventually(tb, "nothing is packed", func() bool { return len(x.smallFiles()) < 2 })
	x.end()
}

// Small files of past epochs become one pack that holds the same records, is read
// after a restart, and goes when receipts cover all of it.
func TestPackHoldsWhatItReplaces(t *testing.T) {
	dir := memoryDir(t)
	want := lives(t, dir, 12)
	packed(t, dir)
	if n := len(packs(t, dir)); n != 1 {
		t.Fatalf("%d packs", n)
	}
	x := open(t, Options{Dir: dir, packFrom: 1 << 20})
	x.append(reading("t", "now"))
	x.wantAll(want)
	if s := x.Stats(); s.Segments > 3 || s.Epochs != len(want)+2 {
		t.Fatalf("%d segments, %d epochs", s.Segments, s.Epochs)
	}
	for e, known := range want {
		x.trim(e, time.Time{}, telemetry.Range{First: 1, Last: uint64(len(known))})
	}
	eventually(t, "the pack stays", func() bool { return len(packs(t, dir)) == 0 })
}

// A pack is kept while anything in it is needed, whatever of the rest is receipted.
func TestPackStaysForOneRecord(t *testing.T) {
	dir := memoryDir(t)
	want := lives(t, dir, 8)
	packed(t, dir)
	x := open(t, Options{Dir: dir, packFrom: 1 << 20})
	x.append(reading("t", "now"))
	var last telemetry.Epoch
	for e := range want {
		if e.Compare(last) > 0 {
			last = e
		}
	}
	for e, known := range want {
		if n := uint64(len(known)); e != last {
			x.trim(e, time.Time{}, telemetry.Range{First: 1, Last: n})
		} else {
			x.trim(e, time.Time{}, telemetry.Range{First: 1, Last: n - 1})
		}
	}
	x.append(reading("t", "a commit"), reading("t", "and the chores after it"))
	if len(packs(t, dir)) != 1 {
		t.Fatal("the pack went with a record that nobody has")
	}
	if recs := x.all(last); len(recs) != len(want[last]) {
		t.Fatalf("%d records of the last epoch", len(recs))
	}
}

// A process that ended between a pack and the removal of what it replaces leaves
// every record in two files: each is read once, and exported once.
func TestPackBesideItsOriginals(t *testing.T) {
	dir, before := memoryDir(t), memoryDir(t)
	want := lives(t, dir, 6)
	copyDir(t, dir, before)
	packed(t, dir)
	copyDir(t, before, dir) // what was removed is back
	var out bytes.Buffer
	if err := Export(dir, &out); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, l := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		if seen[l] {
			t.Fatalf("exported twice: %s", l)
		}
		seen[l] = true
	}
	x := open(t, Options{Dir: dir, packFrom: 1 << 20})
	x.append(reading("t", "now"))
	x.wantAll(want)
	for e, known := range want {
		x.trim(e, time.Time{}, telemetry.Range{First: 1, Last: uint64(len(known))})
	}
	eventually(t, "files stay that receipts cover", func() bool { return x.Stats().Segments <= 2 })
}

// A pack whose tree is damaged everywhere, its heads among it, is known by the copy
// at its end, or by its own blocks where that is gone too; either way its records are saved.
func TestDamagedPackIsSaved(t *testing.T) {
	for _, c := range []struct {
		name    string
		trailer bool
	}{{"the copy of its heads is left", true}, {"and that is damaged too", false}} {
		t.Run(c.name, func(t *testing.T) {
			dir := memoryDir(t)
			want := lives(t, dir, 9)
			packed(t, dir)
			path := packs(t, dir)[0]
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 2 * 4096 { // both meta pages
				data[i] ^= 0x5a
			}
			for i := 2*4096 + 8; i < len(data)-4096; i += 4096 {
				data[i] ^= 0xff // what kind of page it is
			}
			heads := readTrailer(bytes.NewReader(data), int64(len(data)))
			for i := range heads { // wherever a head lies in the pages
				old := heads[i].encode()
				bad := bytes.Clone(old)
				bad[len(bad)-1] ^= 1
				keep := len(data)
				if c.trailer {
					keep = len(data) - len(encodeTrailer(heads))
				}
				copy(data, bytes.ReplaceAll(data[:keep], old, bad))
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			x := open(t, Options{Dir: dir, packFrom: 1 << 20})
			x.append(reading("t", "now"))
			eventually(t, "the damaged pack stays", func() bool { return x.Stats().Quarantined == 1 })
			x.wantAll(want)
			if l := x.losses(); len(l) > 0 {
				t.Fatalf("lost %+v", l)
			}
		})
	}
}

// A small file that proves damaged while it is packed is set aside, its readable
// records are saved, and the others are packed without it.
func TestDamagedFileAmongThoseToPack(t *testing.T) {
	dir := memoryDir(t)
	want := lives(t, dir, 6)
	names, _ := filepath.Glob(filepath.Join(dir, "3-*"+suffixSegment))
	if len(names) != 1 {
		t.Fatal(names)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	hit := bytes.Index(data, []byte("life 2, 1"))
	for i := hit; i >= 0; i = bytes.Index(data, []byte("life 2, 1")) {
		data[i] = 'X'
	}
	if err := os.WriteFile(names[0], data, 0o600); err != nil || hit < 0 {
		t.Fatal(hit, err)
	}
	x := open(t, Options{Dir: dir, packFrom: 3})
	x.append(reading("t", "now"))
	eventually(t, "the damaged file stays", func() bool { return x.Stats().Quarantined == 1 && len(x.smallFiles()) < 3 })
	for e, known := range want {
		recs := x.all(e)
		missing := len(known) - len(recs)
		if want := int(boolByte(e.Ordinal == 3)); missing != want {
			t.Errorf("epoch %s: %d records are missing, want %d", e, missing, want)
		}
	}
	if l := x.losses(); len(l) != 1 || l[0].Epoch.Ordinal != 3 || l[0].Seqs != (telemetry.Range{First: 3, Last: 3}) || l[0].Reason != telemetry.ReasonCorrupt {
		t.Fatalf("losses: %+v", l)
	}
}

// The copy of the heads at a pack's end is read only when all of it is right.
func TestTrailerIsAllOrNothing(t *testing.T) {
	heads := []head{{Epoch: testEpoch, Seqs: telemetry.Range{First: 1, Last: 9}}, {Epoch: newEpochID(4), Seqs: telemetry.Range{First: 3, Last: 3}}}
	b := append(bytes.Repeat([]byte{7}, 100), encodeTrailer(heads)...)
	if got := readTrailer(bytes.NewReader(b), int64(len(b))); len(got) != 2 || got[1] != heads[1] {
		t.Fatalf("%+v", got)
	}
	for i := 100; i < len(b); i++ {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if got := readTrailer(bytes.NewReader(bad), int64(len(bad))); got != nil {
			t.Fatalf("byte %d turned: %+v", i, got)
		}
	}
	for n := range len(b) {
		if got := readTrailer(bytes.NewReader(b), int64(n)); got != nil {
			t.Fatalf("cut at %d: %+v", n, got)
		}
	}
}
