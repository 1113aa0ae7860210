package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/histogram"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// result is the whole run.
type result struct {
	Passed  bool          `json:"passed"`
	Seed    uint64        `json:"seed"`
	Broker  string        `json:"broker"`
	Store   string        `json:"store"`
	Rate    float64       `json:"rate"` // messages a second that sensors were to publish
	Control string        `json:"control,omitempty"`
	Seconds float64       `json:"seconds"`
	Faults  int           `json:"faults"`
	Skipped []skip        `json:"skipped"`
	Rounds  []roundResult `json:"rounds"`
}

// skip is a kind of fault that was not played.
type skip struct {
	Fault string `json:"fault"`
	Why   string `json:"why"`
}

// roundResult is one stack, from its start to the count.
type roundResult struct {
	Number int    `json:"number"`
	Passed bool   `json:"passed"`
	Faults []row  `json:"faults"`
	Folder string `json:"folder,omitempty"` // of data and logs, when they are kept
	tally
	footprint
	ToPuback   quantiles `json:"publish_to_puback_ms"`   // while nothing happened
	ToDatabase quantiles `json:"publish_to_database_ms"` // likewise
	Wrong      []string  `json:"wrong,omitempty"`        // why it did not pass

	Broken []string `json:"-"` // what was wrong before the count
}

// tally is the comparison of what was promised with what is there.
type tally struct {
	Published    uint64   `json:"published"`
	Acknowledged uint64   `json:"acknowledged"`
	Stored       uint64   `json:"stored"`      // different messages read back, unaltered
	Missing      uint64   `json:"missing"`     // acknowledged and not stored
	Doubled      uint64   `json:"doubled"`     // stored more often than sent
	Altered      uint64   `json:"altered"`     // not what was published
	Redelivered  uint64   `json:"redelivered"` // copies that a sensor sent again for want of a PUBACK
	Unexplained  uint64   `json:"unexplained"` // numbers that nobody accounts for
	Lost         uint64   `json:"lost"`        // numbers that the ledger calls lost
	FalseGaps    uint64   `json:"false_gaps"`  // of those, numbers that are there
	Epochs       int      `json:"epochs"`      // lives of the agent
	Due          float64  `json:"due"`         // messages that were to be published
	Examples     []string `json:"examples,omitempty"`
}

// row is one fault.
type row struct {
	Fault        string            `json:"fault"`
	Begin        time.Time         `json:"begin"`
	End          time.Time         `json:"end"`
	Lasted       float64           `json:"lasted_s"`
	Recovered    float64           `json:"recovered_s"` // after the fault was over
	Acknowledged uint64            `json:"acknowledged"`
	Alarms       map[string]uint64 `json:"alarms"` // raised, by kind
	Evidence     string            `json:"evidence"`
	Missing      uint64            `json:"missing"` // messages due in it that are not stored in the end
	Broken       string            `json:"wrong,omitempty"`
}

// quantiles are in milliseconds.
type quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func quantilesOf(h *histogram.Histogram) quantiles {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return quantiles{P50: ms(h.Quantile(0.5)), P99: ms(h.Quantile(0.99)), Max: ms(h.Max())}
}

// add takes the comparison of one fleet.
func (t *tally) add(f oracle.Findings, of *fleet) {
	t.Published += f.Published
	t.Acknowledged += f.Acknowledged
	t.Stored += f.Stored
	t.Missing += f.Missing
	t.Doubled += f.Duplicates
	t.Altered += f.Altered
	t.Redelivered += f.Redelivered
	// A load that fills a disk is kept waiting, and says nothing of the rate.
	if of.Size == 0 || of.Size < 10<<10 {
		t.Due += of.Rate * of.took.Seconds()
	}
	t.Examples = append(t.Examples, f.Examples...)
}

// judge fills in Passed and Wrong.
func (r *roundResult) judge(d *drill) {
	check := func(wrong bool, format string, args ...any) {
		if wrong {
			r.Wrong = append(r.Wrong, fmt.Sprintf(format, args...))
		}
	}
	for _, f := range r.Faults {
		check(f.Broken != "", "%s: %s", f.Fault, f.Broken)
	}
	r.Wrong = append(r.Wrong, r.Broken...)
	check(r.Missing > 0, "%d acknowledged messages are not in the cloud", r.Missing)
	check(r.Doubled > 0, "%d readings are there twice", r.Doubled)
	check(r.Altered > 0, "%d readings are not what was published", r.Altered)
	check(r.Unexplained > 0, "%d numbers are missing and nobody says why", r.Unexplained)
	check(r.FalseGaps > 0, "%d numbers are called lost and are there", r.FalseGaps)
	check(float64(r.Acknowledged) < 0.9*r.Due, "only %d of %.0f messages were acknowledged", r.Acknowledged, r.Due)
	r.Passed = len(r.Wrong) == 0
}

func (r *result) judge() {
	r.Passed = len(r.Rounds) > 0
	for _, round := range r.Rounds {
		r.Passed = r.Passed && round.Passed
		r.Faults += len(round.Faults)
	}
}

// sum is over all rounds.
func (r *result) sum() (t tally) {
	for _, round := range r.Rounds {
		t.Published += round.Published
		t.Acknowledged += round.Acknowledged
		t.Stored += round.Stored
		t.Missing += round.Missing
		t.Doubled += round.Doubled
		t.Altered += round.Altered
		t.Redelivered += round.Redelivered
		t.Unexplained += round.Unexplained
		t.Lost += round.Lost
		t.FalseGaps += round.FalseGaps
		t.Epochs += round.Epochs
	}
	return t
}

// found reports whether a control was found out: messages are missing.
func (r *result) found() bool { return r.Control != "" && r.sum().Missing > 0 }

// status is the exit status. A control must be found out; one that failed for
// anything but missing messages shows nothing.
func (r *result) status() int {
	switch {
	case r.Control == "" && r.Passed, r.found():
		return passed
	case r.Control != "" && !r.Passed:
		return notPlayed
	}
	return failed
}

// report is the result as tables.
func report(r result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  %-22s %9s %10s %13s %8s  %s\n", "fault", "lasted", "recovered", "acknowledged", "missing", "alarms")
	for _, round := range r.Rounds {
		for _, f := range round.Faults {
			fmt.Fprintf(&b, "  %-22s %7.1f s %8.1f s %13s %8s  %s\n", f.Fault, f.Lasted, f.Recovered,
				term.Count(f.Acknowledged), term.Count(f.Missing), alarmsOf(f))
		}
	}
	t := r.sum()
	b.WriteString("\n")
	line := func(name string, n uint64, note string) {
		fmt.Fprintf(&b, "  %-14s %12s   %s\n", name, term.Count(n), note)
	}
	line("published", t.Published, "")
	line("acknowledged", t.Acknowledged, "PUBACK read by the sensor")
	line("stored", t.Stored, "different messages read back, each byte compared")
	line("missing", t.Missing, "acknowledged and not stored")
	line("doubled", t.Doubled, "stored more often than sent")
	line("altered", t.Altered, "not what was published")
	line("redelivered", t.Redelivered, "sent again by a sensor for want of a PUBACK")
	line("unexplained", t.Unexplained, "numbers that nobody accounts for")
	line("lost", t.Lost, "numbers that the ledger says were given up, and why")
	line("false gaps", t.FalseGaps, "of those, numbers that are there")
	for _, round := range r.Rounds {
		fmt.Fprintf(&b, "\n  round %d, while nothing happened: due → PUBACK p50 %.1f ms, p99 %.1f ms; due → database p50 %.0f ms, p99 %.0f ms\n",
			round.Number, round.ToPuback.P50, round.ToPuback.P99, round.ToDatabase.P50, round.ToDatabase.P99)
		fmt.Fprintf(&b, "           RssAnon at most: agent %.1f MB, its sidecar %.1f, cloud-api %.1f, this program %.1f; %d files of %.0f MB in the end\n",
			float64(round.Memory["edge-agent"])/1e6, float64(round.Memory["daprd-edge"])/1e6, float64(round.Memory["cloud-api"])/1e6,
			float64(round.Memory[self])/1e6, round.Files, float64(round.Bytes)/1e6)
	}
	b.WriteString(verdict(r))
	return b.String()
}

func alarmsOf(f row) string {
	var list []string
	for kind, n := range f.Alarms {
		list = append(list, fmt.Sprintf("%s×%d", kind, n))
	}
	if f.Broken != "" {
		list = append(list, "FAILED")
	}
	return strings.Join(list, " ")
}

// verdict says how it ended and, if it failed, where to look.
func verdict(r result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  %d faults in %.0f s over %s and %s, seed %d", r.Faults, r.Seconds, r.Broker, r.Store, r.Seed)
	if len(r.Skipped) > 0 {
		fmt.Fprintf(&b, "; %d kinds were skipped", len(r.Skipped))
	}
	b.WriteString("\n")
	if r.Passed {
		if r.Control != "" {
			fmt.Fprintf(&b, "\n  PASSED, but %s loses messages: this drill did not find out (exit status 1).\n\n", r.Control)
			return b.String()
		}
		b.WriteString("\n  PASSED: everything that was acknowledged is in the cloud, once and unaltered.\n\n")
		return b.String()
	}
	b.WriteString("\n  FAILED\n")
	for _, round := range r.Rounds {
		for _, w := range append(round.Wrong, round.Examples...) {
			if !round.Passed {
				fmt.Fprintf(&b, "    %s\n", w)
			}
		}
		if round.Folder != "" {
			fmt.Fprintf(&b, "\n  Logs are in %s/log, the result of each fault with its times in the JSON (--json).\n", round.Folder)
		}
	}
	switch {
	case r.found():
		fmt.Fprintf(&b, "  As it must: %s loses messages, and this drill found out (exit status 0).\n", r.Control)
	case r.Control == "":
		fmt.Fprintf(&b, "  The same again: ./scripts/failover --seed %d with the same other flags.\n", r.Seed)
	}
	b.WriteString("\n")
	return b.String()
}
