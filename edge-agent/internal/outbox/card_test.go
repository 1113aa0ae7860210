package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// A folder on a card is verified, counted and exported without the agent, and
// nothing in it changes.
func TestCardIsReadWithoutAgent(t *testing.T) {
	dir := t.TempDir()
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
	dir := t.TempDir()
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
