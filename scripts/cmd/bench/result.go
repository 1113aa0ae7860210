package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/histogram"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// wayResult is what `bench way` found.
type wayResult struct {
	Machine  string           `json:"machine"`
	Options  map[string]any   `json:"options"`
	Findings oracle.Findings  `json:"findings"`
	Expected uint64           `json:"expected"`
	AckRate  float64          `json:"acknowledged_per_second"`
	DBRate   float64          `json:"stored_per_second"`
	ToPuback quantiles        `json:"publish_to_puback_ms"`
	ToDB     quantiles        `json:"publish_to_database_ms"`
	Programs []usage          `json:"programs"`
	Sizes    map[string]int64 `json:"arm64_bytes"`
}

// quantiles are in milliseconds.
type quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// usage is what one program took.
type usage struct {
	Name    string  `json:"name"`
	CPU     float64 `json:"cpu_seconds"`
	AnonMax int64   `json:"rss_anon_max_bytes"`
	FileMax int64   `json:"rss_file_max_bytes"`
}

func quantilesOf(h *histogram.Histogram) quantiles {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return quantiles{P50: ms(h.Quantile(0.5)), P99: ms(h.Quantile(0.99)), Max: ms(h.Max())}
}

func (r *wayResult) fill(f oracle.Findings, expected uint64, toPuback, toDB *histogram.Histogram, acked, stored time.Duration) {
	r.Findings, r.Expected = f, expected
	r.AckRate = float64(f.Acknowledged) / acked.Seconds()
	r.DBRate = float64(f.Stored) / stored.Seconds()
	r.ToPuback, r.ToDB = quantilesOf(toPuback), quantilesOf(toDB)
}

// verdict is nil when the run may be quoted.
func (r *wayResult) verdict() error {
	f := r.Findings
	if f.Missing+f.Duplicates+f.Altered > 0 || f.Acknowledged < r.Expected {
		return errors.New("the run lost, doubled or did not acknowledge something: its figures mean nothing\n" + strings.Join(f.Examples, "\n"))
	}
	return nil
}

func (r *wayResult) table() string {
	var b strings.Builder
	f := r.Findings
	fmt.Fprintf(&b, "\n%s\n\n", r.Machine)
	fmt.Fprintf(&b, "  due %s, acknowledged %s, stored %s; missing %d, doubled %d, altered %d\n\n", term.Count(r.Expected),
		term.Count(f.Acknowledged), term.Count(f.Stored), f.Missing, f.Duplicates, f.Altered)
	fmt.Fprintf(&b, "  acknowledged  %9.0f /s\n  stored        %9.0f /s\n\n", r.AckRate, r.DBRate)
	fmt.Fprintf(&b, "  %-20s %10s %10s %10s\n", "latency, ms", "p50", "p99", "max")
	for _, q := range []struct {
		name string
		q    quantiles
	}{{"due → PUBACK", r.ToPuback}, {"due → database", r.ToDB}} {
		fmt.Fprintf(&b, "  %-20s %10.1f %10.1f %10.1f\n", q.name, q.q.P50, q.q.P99, q.q.Max)
	}
	fmt.Fprintf(&b, "\n  %-20s %10s %14s %14s\n", "program", "CPU, s", "RssAnon, MB", "RssFile, MB")
	for _, u := range r.Programs {
		fmt.Fprintf(&b, "  %-20s %10.1f %14.1f %14.1f\n", u.Name, u.CPU, float64(u.AnonMax)/1e6, float64(u.FileMax)/1e6)
	}
	names := make([]string, 0, len(r.Sizes))
	for n := range r.Sizes {
		names = append(names, n)
	}
	slices.Sort(names)
	b.WriteString("\n")
	for _, n := range names {
		fmt.Fprintf(&b, "  %s for arm64, stripped: %.1f MB\n", n, float64(r.Sizes[n])/1e6)
	}
	b.WriteString("\n")
	return b.String()
}
