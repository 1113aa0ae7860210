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

// Timeline is what is known of true time within one boot: its synchronised
// anchors, ascending by Boot, and bounds for when there is none.
type Timeline struct {
	Points []Point

	// NotAfter bounds the offset when there are no points: a reading cannot
	// have been recorded after the cloud received it. 0 when not known.
	NotAfter int64
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
// anchor's offset. Without any the recorded time stands, unless it lies in the
// cloud's future.
func (t *Timeline) Correct(at telemetry.Instant) int64 {
	if len(t.Points) == 0 {
		if t.NotAfter != 0 {
			return min(at.Wall, int64(at.Boot)+t.NotAfter)
		}
		return at.Wall
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
