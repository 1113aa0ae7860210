// Package clock corrects the times of readings: a Pi has no clock until the
// network gives it one, so a reading carries time since boot and the wall clock
// as it was, and anchors say when that clock was synchronised. This is the only
// place where a corrected time is made; what was recorded is never changed.
package clock

import (
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Stepped is how far a wall clock may be from the anchor before it and still be
// believed. Kernel clocks drift by seconds a day at worst; a larger difference
// is a step that no anchor has told of yet.
const Stepped = 2 * time.Second

// Point ties time since boot to true time.
type Point struct {
	Boot   time.Duration // since the kernel started
	Offset int64         // nanoseconds: true time in Unix nanoseconds minus Boot
}

// Plausible is the earliest time that a clock without an anchor is believed: the
// year this was written in. A Pi without a clock says 1970.
var Plausible = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()

// Timeline is what is known of true time within one boot: its synchronised
// anchors, ascending by Boot, and bounds for when there is none.
type Timeline struct {
	Points []Point

	// NotAfter is the largest Offset that is possible: the cloud received a
	// frame at that time less the Boot at which it was sent. 0 when not known.
	NotAfter int64
	// NotBefore is the last corrected time of the epoch before, in Unix
	// nanoseconds. 0 when not known.
	NotBefore int64
}

// FromAnchor returns the point that a synchronised anchor makes; ok is false
// for an anchor that was not synchronised.
func FromAnchor(at telemetry.Instant, a telemetry.Anchor) (p Point, ok bool) {
	return Point{Boot: at.Boot, Offset: at.Wall - int64(at.Boot)}, a.Synchronised
}

// Add puts a point in its place.
func (t *Timeline) Add(p Point) {
	i, found := slices.BinarySearchFunc(t.Points, p.Boot, func(q Point, boot time.Duration) int {
		return int(min(max(q.Boot-boot, -1), 1))
	})
	if found {
		t.Points[i] = p
		return
	}
	t.Points = slices.Insert(t.Points, i, p)
}

// Correct returns the best known true time of at, in Unix nanoseconds.
//
// After a synchronised anchor the recorded wall clock is the best there is: the
// kernel disciplines it. If it stepped since, or if the first synchronised
// anchor of the boot came later, time since boot is added to the nearest
// anchor's offset. Without any anchor the recorded time stands as long as it
// lies between what came before it and its own arrival.
func (t *Timeline) Correct(at telemetry.Instant) int64 {
	if len(t.Points) == 0 {
		return t.bounded(at)
	}
	i, _ := slices.BinarySearchFunc(t.Points, at.Boot, func(q Point, boot time.Duration) int {
		if q.Boot <= boot {
			return -1
		}
		return 1
	})
	if i == 0 {
		return int64(at.Boot) + t.Points[0].Offset
	}
	byAnchor := int64(at.Boot) + t.Points[i-1].Offset
	if d := time.Duration(at.Wall - byAnchor); d > Stepped || d < -Stepped {
		return byAnchor
	}
	return at.Wall
}

// bounded is Correct without an anchor.
func (t *Timeline) bounded(at telemetry.Instant) int64 {
	latest := int64(at.Boot) + t.NotAfter
	switch {
	case t.NotAfter == 0 && at.Wall < t.NotBefore:
		return t.NotBefore
	case t.NotAfter == 0:
		return at.Wall
	case at.Wall > latest, at.Wall < max(t.NotBefore, Plausible):
		return latest
	}
	return at.Wall
}

// Changes reports whether putting p into the timeline moves times that were
// corrected without it by more than drift does.
func (t *Timeline) Changes(p Point) bool {
	if len(t.Points) == 0 || p.Boot < t.Points[0].Boot {
		return true
	}
	for i := len(t.Points) - 1; i >= 0; i-- {
		if q := t.Points[i]; q.Boot <= p.Boot {
			d := time.Duration(p.Offset - q.Offset)
			return d > Stepped || d < -Stepped
		}
	}
	return false
}
