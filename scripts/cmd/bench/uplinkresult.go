package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// uplinkResult is what `bench uplink` found.
type uplinkResult struct {
	Machine  string    `json:"machine"`
	Readings int       `json:"readings"` // of the backlog
	Idle     sidecars  `json:"idle_rss_bytes"`
	Wire     wire      `json:"wire"`
	Drain    drain     `json:"drain"`
	Live     quantiles `json:"live_to_database_ms"` // while the backlog drained
	Missing  uint64    `json:"missing"`
	Doubled  uint64    `json:"doubled"`
	Altered  uint64    `json:"altered"`
}

// sidecars are bytes resident at most, of each.
type sidecars struct {
	Edge  int64 `json:"edge"`
	Cloud int64 `json:"cloud"`
}

// wire is what went over the link.
type wire struct {
	Readings uint64  `json:"readings"`
	Frames   float64 `json:"frames"`
	Raw      int64   `json:"raw_bytes"` // JSON, as published
	Up       int64   `json:"up_bytes"`  // frames, and all that the broker's protocol adds
	Down     int64   `json:"down_bytes"`
}

// drain is how the backlog went.
type drain struct {
	Readings uint64  `json:"readings"`
	Filled   float64 `json:"filled_s"` // in which it was put there, with the network cut
	Seconds  float64 `json:"seconds"`  // from the healing of the network
	// Reconnected is the part of it until the first reading was in the database.
	Reconnected float64  `json:"reconnected_s"`
	Sidecars    sidecars `json:"sidecar_rss_bytes"`
	Programs    []usage  `json:"programs"`
}

func (w wire) ratio() float64         { return float64(w.Up) / float64(w.Raw) }
func (w wire) ratioBothWays() float64 { return float64(w.Up+w.Down) / float64(w.Raw) }
func (w wire) perFrame() float64      { return float64(w.Readings) / w.Frames }
func (d drain) perSecond() float64    { return float64(d.Readings) / (d.Seconds - d.Reconnected) }
func (s sidecars) most() int64        { return max(s.Edge, s.Cloud) }
func (w wire) bytes(n int64) float64  { return float64(n) / float64(w.Readings) }

// verdict is nil when everything is there and every figure is what is promised.
func (r *uplinkResult) verdict() error {
	if r.Missing+r.Doubled+r.Altered > 0 {
		return errors.New("the run lost, doubled or altered something: its figures mean nothing")
	}
	var missed []string
	want := func(good bool, format string, args ...any) {
		if !good {
			missed = append(missed, fmt.Sprintf(format, args...))
		}
	}
	want(r.Wire.ratio() <= 0.13, "%.3f bytes on the wire for each of JSON, want at most 0.13", r.Wire.ratio())
	want(r.Drain.perSecond() >= 50_000, "%.0f readings/s, want at least 50000", r.Drain.perSecond())
	want(r.Drain.Seconds < 60 || r.Readings > 1_000_000, "%.0f s for the backlog, want less than 60", r.Drain.Seconds)
	want(r.Live.P99 < 2000, "live readings %.0f ms old at p99, want less than 2000", r.Live.P99)
	want(r.Idle.most() <= 62e6, "a sidecar of %.0f MB idle, want at most 62", float64(r.Idle.most())/1e6)
	want(r.Drain.Sidecars.most() <= 100e6, "a sidecar of %.0f MB draining, want at most 100", float64(r.Drain.Sidecars.most())/1e6)
	if len(missed) > 0 {
		return errors.New("missed: " + strings.Join(missed, "; "))
	}
	return nil
}

func (r *uplinkResult) table() string {
	var b strings.Builder
	w, d := r.Wire, r.Drain
	fmt.Fprintf(&b, "\n%s\n\n", r.Machine)
	fmt.Fprintf(&b, "  missing %d, doubled %d, altered %d\n\n", r.Missing, r.Doubled, r.Altered)
	fmt.Fprintf(&b, "  wire: %s readings in %.0f frames, %.0f a frame\n", term.Count(w.Readings), w.Frames, w.perFrame())
	fmt.Fprintf(&b, "    JSON                  %7.2f bytes a reading\n", w.bytes(w.Raw))
	fmt.Fprintf(&b, "    up, NATS and all      %7.2f bytes a reading, %.3f of the JSON\n", w.bytes(w.Up), w.ratio())
	fmt.Fprintf(&b, "    with receipts down    %7.2f bytes a reading, %.3f of the JSON\n\n", w.bytes(w.Up+w.Down), w.ratioBothWays())
	fmt.Fprintf(&b, "  backlog: %s readings from the outbox to their receipts in %.1f s: %.1f s until the first arrived, then %.0f/s\n",
		term.Count(d.Readings), d.Seconds, d.Reconnected, d.perSecond())
	fmt.Fprintf(&b, "    live readings meanwhile, due → database: p50 %.0f, p99 %.0f, at most %.0f ms\n\n", r.Live.P50, r.Live.P99, r.Live.Max)
	fmt.Fprintf(&b, "  %-20s %14s %14s\n", "sidecar, MB resident", "idle", "draining")
	for _, s := range []struct {
		name           string
		idle, draining int64
	}{{"edge", r.Idle.Edge, d.Sidecars.Edge}, {"cloud", r.Idle.Cloud, d.Sidecars.Cloud}} {
		fmt.Fprintf(&b, "  %-20s %14.1f %14.1f\n", s.name, float64(s.idle)/1e6, float64(s.draining)/1e6)
	}
	fmt.Fprintf(&b, "\n  %-20s %10s %14s %14s\n", "draining", "CPU, s", "RssAnon, MB", "RssFile, MB")
	for _, u := range d.Programs {
		fmt.Fprintf(&b, "  %-20s %10.1f %14.1f %14.1f\n", u.Name, u.CPU, float64(u.AnonMax)/1e6, float64(u.FileMax)/1e6)
	}
	b.WriteString("\n")
	return b.String()
}
