package telemetry_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// An epoch has one text, which comes back to it; every other text is refused.
func TestEpochsRoundTrip(t *testing.T) {
	for _, want := range []telemetry.Epoch{{}, testEpoch, {Ordinal: math.MaxUint64, ID: [8]byte{255, 254, 253, 252, 251, 250, 249, 248}}} {
		if got, err := telemetry.ParseEpoch(want.String()); err != nil || got != want {
			t.Errorf("%s: %v (%v)", want, got, err)
		}
	}
	if s := testEpoch.String(); s != "12-51d80e7c339af01b" {
		t.Errorf("epoch %s", s)
	}
	for _, text := range []string{
		"", "-", "12", "12-", "12-51d80e7c339af01", "12-51d80e7c339af01b0", "-51d80e7c339af01b", "012-51d80e7c339af01b", "+1-51d80e7c339af01b",
		"12-51D80E7C339AF01B", "12-51d80e7c339af01g", "18446744073709551616-51d80e7c339af01b", " 12-51d80e7c339af01b", "12-51d80e7c339af01b\n",
	} {
		if e, err := telemetry.ParseEpoch(text); !errors.Is(err, telemetry.ErrEpoch) {
			t.Errorf("%q: %v (%v), want ErrEpoch", text, e, err)
		}
	}
}

// Epochs order by their ordinal as a number, and then by their id.
func TestEpochsCompare(t *testing.T) {
	ascending := []telemetry.Epoch{
		{}, {ID: [8]byte{7: 1}}, {ID: [8]byte{1}}, {Ordinal: 9}, {Ordinal: 10}, {Ordinal: 10, ID: [8]byte{7: 255}}, {Ordinal: 10, ID: [8]byte{255}},
	}
	for i, a := range ascending {
		for j, b := range ascending {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := a.Compare(b); got != want {
				t.Errorf("%s against %s: %d, want %d", a, b, got, want)
			}
		}
	}
}

// An agent id is what can stand in a topic, a file name and a host name.
func TestAgentIDs(t *testing.T) {
	for _, id := range []string{"a", "0", "greenhouse-pi-7", "-", strings.Repeat("a", 63)} {
		if err := telemetry.ValidateAgent(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", "A", "a.b", "a/b", "a b", "é", "a\n", strings.Repeat("a", 64)} {
		if err := telemetry.ValidateAgent(id); !errors.Is(err, telemetry.ErrAgent) {
			t.Errorf("%q: %v, want ErrAgent", id, err)
		}
	}
}

// The length of a range counts both ends, and that of an empty one is 0.
func TestRangesHaveALength(t *testing.T) {
	for r, want := range map[telemetry.Range]uint64{
		{First: 1, Last: 1}: 1, {First: 1, Last: 10}: 10, {First: 2, Last: 1}: 0, {First: 1, Last: math.MaxUint64}: math.MaxUint64, {}: 0,
	} {
		if got := r.Len(); got != want {
			t.Errorf("%v: %d, want %d", r, got, want)
		}
	}
}

// Every reason has a name of its own; one from a later version is called other.
func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for r := telemetry.ReasonDropped; r <= telemetry.ReasonReceipted; r++ {
		seen[r.String()] = true
	}
	if len(seen) != 6 || seen["other"] || telemetry.Reason(0).String() != "other" || telemetry.Reason(200).String() != "other" {
		t.Fatalf("%v", seen)
	}
}
