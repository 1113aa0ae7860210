package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// A folder on a card is verified, counted and exported without the agent, and
// nothing in it changes.
func TestCardIsReadWithoutAgent(t *testing.T) {
	dir := memoryDir(t)
	x := open(t, Options{Dir: dir})
	x.append(reading("a/b", "21.5"), reading("a/b", "\xff\x00"), Draft{Oversized: &telemetry.Oversized{Topic: "big", Size: 1 << 20}})
	if err := Verify(dir, new(bytes.Buffer)); !errors.Is(err, ErrLocked) {
		t.Fatalf("verify beside a running agent: %v", err)
	}
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	var out bytes.Buffer
	if err := Verify(dir, &out); err != nil {
		t.Fatalf("verify: %v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "1 segments, 0 damaged, 4 records") {
		t.Fatalf("verify says:\n%s", out.String())
	}
	out.Reset()
	if err := PrintStats(dir, &out); err != nil || !strings.Contains(out.String(), "4 of them without a receipt") {
		t.Fatalf("stats: %v\n%s", err, out.String())
	}
	out.Reset()
	if err := Export(dir, &out); err != nil {
		t.Fatal(err)
	}
	var lines []line
	for _, s := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var l line
		if err := json.Unmarshal([]byte(s), &l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	if len(lines) != 4 || lines[0].Start == nil || lines[1].Reading.Payload != "21.5" ||
		lines[2].Reading.Encoding != "base64" || lines[2].Reading.Payload != "/wA=" || lines[3].Loss.Reason != "oversized" {
		t.Fatalf("export:\n%s", out.String())
	}
	if after := snapshot(t, dir); after != before {
		t.Fatalf("the folder changed:\n%s\n%s", before, after)
	}
}

// snapshot is every file's name and bytes.
func snapshot(tb testing.TB, dir string) string {
	tb.Helper()
	var b strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range entries {
		data, err := os.ReadFile(filepath.Join(dir, d.Name()))
		if err != nil {
			tb.Fatal(err)
		}
		b.WriteString(d.Name() + ":" + string(data) + "\n")
	}
	return b.String()
}

// A damaged segment is reported, and what is good in it is exported.
func TestDamagedCardGivesUpWhatIsGood(t *testing.T) {
	dir := memoryDir(t)
	x := open(t, Options{Dir: dir})
	for range 40 {
		x.append(reading("a", strings.Repeat("x", 200)), reading("b", strings.Repeat("y", 200)))
	}
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(dir, "*"+suffixSegment))
	if len(names) != 1 {
		t.Fatalf("segments: %v", names)
	}
	damageRecord(t, names[0], rand.New(rand.NewPCG(1, 1)))
	var out bytes.Buffer
	if err := Verify(dir, &out); !errors.Is(err, ErrDamage) {
		t.Fatalf("verify: %v\n%s", err, out.String())
	}
	out.Reset()
	if err := Export(dir, &out); !errors.Is(err, ErrDamage) {
		t.Fatalf("export: %v", err)
	}
	if n := strings.Count(out.String(), "\n"); n < 77 || n > 80 {
		t.Fatalf("%d records exported of 81, one damaged", n)
	}
}

// damageRecord turns bits of a payload byte in every copy of one record.
func damageRecord(tb testing.TB, path string, rng *rand.Rand) {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	// The payloads are runs of x and y: hit the middle of one on a page in use.
	file, r, err := openSealed(path, false)
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	heads, err := r.heads()
	if err != nil {
		tb.Fatal(err)
	}
	want := heads[0].Seqs.First + 1 + rng.Uint64N(heads[0].Seqs.Len()-1)
	var target []byte
	_ = r.scan(heads[0].Epoch, telemetry.Range{First: want, Last: want}, func(rec telemetry.Record) bool {
		target = appendRecord(nil, heads[0].Epoch, &rec, telemetry.Instant{}, 1)[2:6] // its checksum
		return true
	})
	n := bytes.Count(data, target)
	if n == 0 {
		tb.Fatal("record not found in the file")
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(data, target, []byte{1, 2, 3, 4}), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// cardOf is a folder with some segments of one epoch, a pack and the end of another,
// as on a card that was taken out.
func cardOf(t *testing.T) string {
	t.Helper()
	dir := memoryDir(t)
	lives(t, dir, 5)
	packed(t, dir)
	x := segmented(t, 5, Options{Dir: dir, noSync: true, unclean: true, packFrom: 1 << 20})
	x.receipt(7, issued)
	x.append(reading("t", "the last"))
	x.end()
	return dir
}

// Each kind of damage is found by verify, in the file that has it and in no other;
// stats and export go on with the rest, and nothing is changed.
func TestVerifyFindsEachKindOfDamage(t *testing.T) {
	for _, c := range []struct {
		name string
		glob string
		how  func(data []byte) []byte
	}{
		{"a payload", "7-*-00000000000000000001-*", func(d []byte) []byte { d[bytes.Index(d, []byte("ssss"))] ^= 1; return d }},
		{"a meta page", "7-*-00000000000000000001-*", func(d []byte) []byte { d[30] ^= 1; return d }},
		{"both meta pages", "7-*-00000000000000000001-*", func(d []byte) []byte { clear(d[:8192]); return d }},
		{"cut off", "7-*-00000000000000000001-*", func(d []byte) []byte { return d[:len(d)/2] }},
		{"empty", "7-*-00000000000000000001-*", func([]byte) []byte { return nil }},
		{"a pack's payload", "pack-*", func(d []byte) []byte { d[bytes.Index(d, []byte("life 1"))] ^= 1; return d }},
		{"the newest", newestOf, func(d []byte) []byte { clear(d[8192 : 8192+4096]); d[20] ^= 1; return d }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := cardOf(t)
			path := newest(t, dir)
			if c.glob != newestOf {
				names, _ := filepath.Glob(filepath.Join(dir, c.glob+suffixSegment))
				if len(names) == 0 {
					t.Fatal("no such file")
				}
				path = names[0]
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.how(data), 0o600); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, dir)
			var out bytes.Buffer
			if err := Verify(dir, &out); !errors.Is(err, ErrDamage) {
				t.Fatalf("verify: %v\n%s", err, out.String())
			}
			for _, l := range strings.Split(out.String(), "\n") {
				if bad := strings.HasPrefix(l, "DAMAGED"); strings.Contains(l, suffixSegment) && bad != strings.Contains(l, filepath.Base(path)) {
					t.Errorf("verify says %q of %s", l, filepath.Base(path))
				}
				if strings.Count(l, filepath.Base(path)) > 1 {
					t.Errorf("twice the name: %q", l)
				}
			}
			out.Reset()
			if err := PrintStats(dir, &out); err != nil {
				t.Errorf("stats: %v", err)
			}
			out.Reset()
			if err := Export(dir, &out); !errors.Is(err, ErrDamage) || strings.Count(out.String(), "\n") < 100 {
				t.Errorf("export: %v, %d lines", err, strings.Count(out.String(), "\n"))
			}
			if snapshot(t, dir) != before {
				t.Error("the folder changed")
			}
		})
	}
}

const newestOf = "the newest"

// A folder that is none, one that holds nothing of an outbox, and an empty outbox
// are told apart.
func TestFolderThatIsNoOutboxIsSaid(t *testing.T) {
	dir := memoryDir(t)
	verbs := map[string]func(string) error{
		"verify": func(d string) error { return Verify(d, new(bytes.Buffer)) },
		"stats":  func(d string) error { return PrintStats(d, new(bytes.Buffer)) },
		"export": func(d string) error { return Export(d, new(bytes.Buffer)) },
	}
	for name, verb := range verbs {
		if err := verb(dir); !errors.Is(err, ErrNoOutbox) {
			t.Errorf("%s of an empty folder: %v", name, err)
		}
		if err := verb(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s of none: %v", name, err)
		}
	}
	x := open(t, Options{Dir: dir})
	x.end()
	for name, verb := range verbs {
		if err := verb(dir); err != nil {
			t.Errorf("%s of an outbox with nothing in it: %v", name, err)
		}
	}
}

// A writer that fails ends an export with its error: a full disk must not look like
// a whole export.
func TestExportSaysThatItsDiskIsFull(t *testing.T) {
	dir := cardOf(t)
	full := errors.New("disk full")
	for name, verb := range map[string]func() error{
		"export": func() error { return Export(dir, failing{full}) },
		"verify": func() error { return Verify(dir, failing{full}) },
		"stats":  func() error { return PrintStats(dir, failing{full}) },
	} {
		if err := verb(); !errors.Is(err, full) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// Export gives each kind of record all that it says, in the order of epochs and seqs.
func TestExportSaysEverything(t *testing.T) {
	dir := memoryDir(t)
	k := &clock{at: telemetry.Instant{Boot: 90 * time.Second, Wall: time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC).UnixNano()}}
	o := Options{Dir: dir, Now: k.now, Version: "9.9", Boot: [16]byte{0xab}, unclean: true}
	x := open(t, o)
	x.append(
		Draft{Reading: &telemetry.Reading{Topic: "a/<b>", QoS: 2, Dup: true, Retained: true, Payload: []byte("<&>\n\"")}},
		Draft{Anchor: &telemetry.Anchor{Synchronised: true, Moved: -5 * time.Second, MaxError: time.Millisecond}},
		Draft{Oversized: &telemetry.Oversized{Topic: "camera", Size: 77, SHA256: [32]byte{1, 2}}},
	)
	first := x.Stats().Epoch
	x.end()
	x = open(t, o)
	x.append(reading("t", "second life"))
	x.end()
	var out bytes.Buffer
	if err := Export(dir, &out); err != nil {
		t.Fatal(err)
	}
	var lines []line
	for _, s := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var l line
		d := json.NewDecoder(strings.NewReader(s))
		d.DisallowUnknownFields()
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	if len(lines) != 6 {
		t.Fatalf("%d lines:\n%s", len(lines), out.String())
	}
	for i, l := range lines[:4] {
		if l.Epoch != first.String() || l.Seq != uint64(i+1) || !strings.HasPrefix(l.Wall, "2026-03-04T05:06:07.") || l.Boot < int64(90*time.Second) {
			t.Errorf("line %d: %+v", i, l)
		}
	}
	if s := lines[0].Start; s.Version != "9.9" || s.Boot[:2] != "ab" || s.Previous != "" {
		t.Errorf("%+v", s)
	}
	if r := lines[1].Reading; *r != (lineReading{"a/<b>", 2, true, true, "<&>\n\"", "utf-8"}) {
		t.Errorf("%+v", r)
	}
	if a := lines[2].Anchor; *a != (lineAnchor{true, -5e9, 1e6}) {
		t.Errorf("%+v", a)
	}
	if l := lines[3].Loss; l.Reason != "oversized" || l.Topic != "camera" || l.Size != 77 || l.SHA256[:4] != "0102" || l.Count != 1 {
		t.Errorf("%+v", l)
	}
	if s := lines[4].Start; s.Previous != first.String() || s.Last != 4 || s.Clean {
		t.Errorf("%+v", s)
	}
}

// An export is what the outbox itself reads, record for record and in its order,
// whatever files it lies in.
func TestExportIsWhatTheOutboxReads(t *testing.T) {
	dir := cardOf(t)
	var out bytes.Buffer
	if err := Export(dir, &out); err != nil {
		t.Fatal(err)
	}
	x := open(t, Options{Dir: dir, SegmentBytes: small, packFrom: 1 << 20, KeepBytes: 1 << 30, noSync: true})
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	n := 0
	for _, o := range x.Epochs() {
		for _, rec := range x.all(o.Epoch) {
			want, err := json.Marshal(newLine(o.Epoch, &rec))
			if err != nil {
				t.Fatal(err)
			}
			if n >= len(lines) || lines[n] != string(want) {
				t.Fatalf("line %d of %d is not %s", n, len(lines), want)
			}
			n++
		}
	}
	if n != len(lines) || n < 100 {
		t.Fatalf("%d lines were exported, %d records are read", len(lines), n)
	}
}

// A writer that fails, as a full disk under the export, ends the verbs with its error.
func TestFailingWriterIsSaid(t *testing.T) {
	dir := cardOf(t)
	for name, verb := range map[string]func(string, io.Writer) error{"verify": Verify, "stats": PrintStats, "export": Export} {
		for _, room := range []int{0, 10, 300} {
			if err := verb(dir, &short{room}); !errors.Is(err, io.ErrShortWrite) {
				t.Errorf("%s with room for %d bytes: %v", name, room, err)
			}
		}
		if x := open(t, Options{Dir: dir, noSync: true}); x.stop() != nil { // and the folder is free
			t.Errorf("%s holds the folder", name)
		}
	}
}

// short is a writer that has room for some bytes.
type short struct{ room int }

func (s *short) Write(b []byte) (int, error) {
	if s.room -= len(b); s.room < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}
