package agent

import (
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/drill"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/uplink"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// ErrRestart is among what Run returns when a drill ordered a restart: whoever
// started this agent starts it again.
var ErrRestart = drill.ErrRestart

// openDrill lets drills be ordered. An agent without that works all the same.
func (a *Agent) openDrill() error {
	var err error
	a.drill, err = drill.Listen(drill.Options{
		Dir: a.config.Data, Gate: a.gate, Store: store{a.outbox}, Health: a.health, Logger: a.log,
	})
	if err != nil {
		a.log.Warn("no drills can be ordered", "error", err)
		a.drill = nil
		return nil
	}
	a.onClose(a.drill.Close)
	return nil
}

// health says what decides whether a drill is safe.
func (a *Agent) health() drill.Health {
	s, u := a.outbox.Stats(), a.uplink.Status()
	h := drill.Health{
		Epoch: s.Epoch.String(), Waiting: s.Records, Oldest: u.OldestUnconfirmedAge, Full: !s.FullSince.IsZero(),
		Online:  u.Mode == uplink.Current || u.Mode == uplink.CatchingUp,
		Damaged: s.Quarantined, FreeBytes: s.FreeBytes, RoomBytes: s.MaxBytes - s.Unreceipted,
	}
	for _, n := range s.Lost {
		h.Lost += n
	}
	return h
}

// receipt hands a receipt to the uplink, and one that is good to drills too.
func (a *Agent) receipt(raw []byte) error {
	if err := a.uplink.HandleReceipt(raw); err != nil || a.drill == nil || len(raw) == 0 {
		return err
	}
	// HandleReceipt has verified it with the same root.
	if r, err := telemetry.OpenReceipt(raw, a.config.Agent, a.roots.Root(), time.Time{}); err == nil {
		a.drill.Receipt(r, raw)
	}
	return nil
}
