package clock

import (
	"context"
	"log/slog"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// look is how often the clock is looked at: a jump is known within it.
	look = time.Second
	// jump is how far the wall clock may stray from time since boot before an
	// anchor says so. NTP's slewing stays far below it within an hour.
	jump = time.Second
	// regular anchors bound by how much a slowly drifting clock can be wrong
	// in between: at 100 ppm, a poor crystal, 0.36 s.
	regular = time.Hour
)

// Recorder makes an anchor durable.
type Recorder interface {
	Anchor(ctx context.Context, at telemetry.Instant, a telemetry.Anchor) error
}

// Anchors records what the clock says: at the start, when the kernel's opinion
// of it changes, when it jumps, and each hour.
type Anchors struct {
	Clock    Clock
	Recorder Recorder
	Logger   *slog.Logger

	last   telemetry.Instant
	synced bool
	any    bool
	failed bool
}

// Run returns nil when ctx ends. An anchor that cannot be recorded, for a full
// outbox takes none, is tried again at the next look.
func (a *Anchors) Run(ctx context.Context) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		err := a.Look(ctx)
		if err != nil && !a.failed && ctx.Err() == nil {
			a.Logger.Warn("clock: anchor not recorded, retrying", "error", err)
		}
		a.failed = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Look records an anchor if there is a reason to.
func (a *Anchors) Look(ctx context.Context) error {
	now, sync := a.Clock.Now(), a.Clock.Sync()
	moved := time.Duration(now.Wall-a.last.Wall) - (now.Boot - a.last.Boot)
	switch {
	case !a.any:
		moved = 0
	case sync.Synchronised != a.synced, moved.Abs() > jump, now.Boot-a.last.Boot >= regular:
	default:
		return nil
	}
	anchor := telemetry.Anchor{Synchronised: sync.Synchronised, Moved: moved, MaxError: sync.MaxError}
	if err := a.Recorder.Anchor(ctx, now, anchor); err != nil {
		return err
	}
	a.last, a.synced, a.any = now, sync.Synchronised, true
	return nil
}
