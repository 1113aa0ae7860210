package agent

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/status"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/uplink"
)

// Report says how the agent is. It asks nobody and blocks on nothing.
func (a *Agent) Report() status.Report {
	now := a.clock.Now()
	epochs := a.outbox.Epochs()
	r := status.Report{
		Agent: a.config.Agent, Version: a.version, Uptime: (now.Boot - a.started.Boot).Seconds(),
		Started: time.Unix(0, a.started.Wall).UTC(),
		Parts:   []status.Part{a.intakePart(), a.outboxPart(), a.uplinkPart(), a.sidecarPart(), a.clockPart()},
	}
	if len(epochs) > 0 {
		r.Epoch = epochs[len(epochs)-1].Epoch.String()
	}
	r.Settle()
	return r
}

func (a *Agent) intakePart() status.Part {
	p := status.Part{Name: "intake", State: status.OK}
	if a.server != nil {
		p.Facts = append(p.Facts,
			status.Fact{Key: "listen", Label: "MQTT listener", Value: a.server.Addr().String(), Unit: status.Text},
			status.Fact{Key: "sessions", Label: "Clients connected", Value: a.server.Sessions(), Unit: status.Count})
	}
	if a.broker != nil {
		s := a.broker.State()
		p.Facts = append(p.Facts, status.Fact{Key: "broker_connected", Label: "Subscribed to the broker", Value: s.Connected, Unit: status.Yes})
		if !s.Connected {
			p.State, p.Note = status.Degraded, "the broker does not deliver: "+s.Error
		}
	}
	return p
}

// uplinkNotes say what a mode means to who looks after the device.
var uplinkNotes = map[uplink.Mode]string{
	uplink.Starting:   "no receipt has come yet; readings are stored and wait",
	uplink.Unenrolled: "not enrolled: readings are stored and wait; run edge-agent enroll",
	uplink.Revoked:    "the cloud takes nothing more from this agent; readings are stored and wait",
	uplink.Offline:    "frames do not get out; readings are stored and wait",
	uplink.Unanswered: "frames get out and no receipts come; readings are stored and wait",
	uplink.Held:       "the cloud asked to wait",
}

func (a *Agent) uplinkPart() status.Part {
	s := a.uplink.Status()
	p := status.Part{Name: "uplink", State: status.OK, Note: uplinkNotes[s.Mode], Details: s, Facts: []status.Fact{
		{Key: "mode", Label: "State", Value: string(s.Mode), Unit: status.Text},
		{Key: "unconfirmed", Label: "Without a receipt", Value: s.Unconfirmed, Unit: status.Count},
		{Key: "oldest_unsent", Label: "Oldest unsent", Value: s.OldestUnsentAge.Seconds(), Unit: status.Seconds},
		{Key: "confirmed_through", Label: "Confirmed through", Value: fmt.Sprintf("%s / %d", s.ConfirmedThrough.Epoch, s.ConfirmedThrough.Seq), Unit: status.Text},
		{Key: "caught_up_in", Label: "Time to caught up", Value: caughtUpIn(s).Seconds(), Unit: status.Seconds},
		{Key: "in_flight", Label: "In flight", Value: s.InFlight, Unit: status.Bytes},
		{Key: "window", Label: "Window", Value: s.Window, Unit: status.Bytes},
		{Key: "round_trip", Label: "Round trip", Value: known(s.RoundTrip).Seconds(), Unit: status.Seconds},
		{Key: "rate", Label: "Confirmed a second", Value: int(s.RecordsPerSecond), Unit: status.Count},
		{Key: "last_receipt", Label: "Last receipt", Value: moment(s.LastReceipt), Unit: status.Text},
		{Key: "cloud", Label: "Cloud", Value: s.Cloud, Unit: status.Text},
	}}
	if p.Note != "" {
		p.State = status.Degraded
	}
	var alarms []string
	for _, alarm := range s.Alarms {
		alarms = append(alarms, fmt.Sprintf("alarm (%s): %s", alarm.Kind, alarm.Text))
	}
	if len(alarms) > 0 {
		p.State, p.Note = status.Degraded, strings.Join(append(alarms, p.Note), "; ")
	}
	return p
}

// caughtUpIn is negative, unknown, while nothing is confirmed.
func caughtUpIn(s uplink.Status) time.Duration {
	if s.CaughtUpIn == 0 && s.Unconfirmed > 0 && s.Mode != uplink.Current {
		return -1
	}
	return s.CaughtUpIn
}

// known makes of a zero that means unknown a negative, which is shown as that.
func known(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

func (a *Agent) sidecarPart() status.Part {
	s := a.sidecar.State()
	p := status.Part{Name: "sidecar", State: status.OK, Facts: []status.Fact{
		{Key: "connection", Label: "Connection", Value: s.Connection, Unit: status.Text},
		{Key: "subscribed", Label: "Receipts can come in", Value: s.Subscribed, Unit: status.Yes},
		{Key: "last_published", Label: "Last frame handed over", Value: moment(s.LastPublished), Unit: status.Text},
	}}
	if !s.Good() {
		p.State, p.Note = status.Degraded, "the sidecar or its broker does not answer: "+s.LastError
	}
	return p
}

// clockPart is never worse than ok: a wrong clock is an ordinary state.
func (a *Agent) clockPart() status.Part {
	now, sync := a.clock.Now(), a.clock.Sync()
	return status.Part{Name: "clock", State: status.OK, Facts: []status.Fact{
		{Key: "synchronised", Label: "Synchronised", Value: sync.Synchronised, Unit: status.Yes},
		{Key: "wall", Label: "The device says", Value: moment(time.Unix(0, now.Wall)), Unit: status.Text},
		{Key: "boot", Label: "Since boot", Value: now.Boot.Seconds(), Unit: status.Seconds},
	}}
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
