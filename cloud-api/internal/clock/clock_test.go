package clock

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

var truth = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC).UnixNano()

const s = int64(time.Second)

// at is a reading s seconds after boot by a clock that is wrong by off seconds;
// the boot was at truth.
func at(seconds, off int64) telemetry.Instant {
	return telemetry.Instant{Boot: time.Duration(seconds * s), Wall: truth + (seconds+off)*s}
}

func point(seconds int64) Point { return Point{Boot: time.Duration(seconds * s), Offset: truth} }

// The best known time of a reading follows from the anchors of its boot.
func TestCorrect(t *testing.T) {
	const years = -56 * 365 * 86400
	for _, c := range []struct {
		name string
		line Timeline
		at   telemetry.Instant
		want int64 // seconds after boot, in truth
		raw  bool  // as recorded
	}{
		{"synchronised before: as recorded", Timeline{Points: []Point{point(10)}}, at(20, 1), 0, true},
		{"synchronised before, then stepped", Timeline{Points: []Point{point(10)}}, at(20, 3600), 20, false},
		{"synchronised only later", Timeline{Points: []Point{point(10)}}, at(5, years), 5, false},
		{"between two anchors", Timeline{Points: []Point{point(10), point(30)}}, at(20, -3), 20, false},
		{"no anchor, nothing known", Timeline{}, at(5, years), 0, true},
		{"no anchor, plausible", Timeline{NotAfter: truth + 7*s}, at(5, 3), 0, true},
		{"no anchor, from 1970", Timeline{NotAfter: truth + 7*s}, at(5, years), 12, false},
		{"no anchor, from the future", Timeline{NotAfter: truth + 7*s}, at(5, 86400), 12, false},
		{"no anchor, before the epoch before", Timeline{NotAfter: truth + 7*s, NotBefore: truth}, at(5, -60), 12, false},
		{"no anchor, never heard live, before the epoch before", Timeline{NotBefore: truth + 9*s}, at(5, -60), 9, false},
	} {
		want := truth + c.want*s
		if c.raw {
			want = c.at.Wall
		}
		if got := c.line.Correct(c.at); got != want {
			t.Errorf("%s: %s, want %s", c.name, time.Unix(0, got).UTC(), time.Unix(0, want).UTC())
		}
	}
}

// Points are kept in order, one for each moment.
func TestAddKeepsOrder(t *testing.T) {
	var line Timeline
	for _, n := range []int64{5, 1, 9, 5, 3} {
		line.Add(point(n))
	}
	if len(line.Points) != 4 {
		t.Fatalf("%v", line.Points)
	}
	for i := range line.Points[1:] {
		if line.Points[i].Boot >= line.Points[i+1].Boot {
			t.Errorf("%v", line.Points)
		}
	}
}

// A point that comes where none was, before the first, or after a step changes
// times that are stored; one that only drifts does not.
func TestChanges(t *testing.T) {
	line := Timeline{Points: []Point{point(10), point(20)}}
	stepped := point(30)
	stepped.Offset += int64(Stepped) + 1
	drifted := point(30)
	drifted.Offset += int64(Stepped) / 2
	for name, c := range map[string]struct {
		line Timeline
		p    Point
		want bool
	}{
		"the first": {Timeline{}, point(1), true}, "earlier": {line, point(5), true}, "a step": {line, stepped, true}, "drift": {line, drifted, false}, "between": {line, point(15), false},
	} {
		if got := c.line.Changes(c.p); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// Only a synchronised anchor makes a point.
func TestFromAnchor(t *testing.T) {
	if _, ok := FromAnchor(at(5, 0), telemetry.Anchor{}); ok {
		t.Error("an anchor that was not synchronised made a point")
	}
	if p, ok := FromAnchor(at(5, 0), telemetry.Anchor{Synchronised: true}); !ok || p != point(5) {
		t.Errorf("%+v, %t", p, ok)
	}
}
