package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// result is the whole run.
type result struct {
	Passed  bool           `json:"passed"`
	Stock   bool           `json:"stock"` // with Dapr's own daprd
	Seconds float64        `json:"seconds"`
	Rate    float64        `json:"rate"` // messages a second that sensors were to publish
	Brokers []brokerResult `json:"brokers"`
}

// brokerResult is all faults over one broker.
type brokerResult struct {
	Broker       string `json:"broker"`
	Control      bool   `json:"control,omitempty"` // with an agent that must be found out
	Passed       bool   `json:"passed"`
	Skipped      string `json:"skipped,omitempty"` // why it was not run
	Error        string `json:"error,omitempty"`   // why it ended early
	Acknowledged uint64 `json:"acknowledged"`      // messages, over all faults
	Rows         []row  `json:"faults"`
}

// row is one fault over one broker.
type row struct {
	Fault        string            `json:"fault"`
	Passed       bool              `json:"passed"`
	Published    uint64            `json:"published"`
	Acknowledged uint64            `json:"acknowledged"`
	Stored       uint64            `json:"stored"`
	Missing      uint64            `json:"missing"`      // acknowledged and not stored, of this fault or those before
	Doubled      uint64            `json:"doubled"`      // stored more often than sent, likewise
	Altered      uint64            `json:"altered"`      // not what was published, likewise
	Redelivered  uint64            `json:"redelivered"`  // copies that a sensor sent again for want of a PUBACK
	Unexplained  uint64            `json:"unexplained"`  // numbers that nobody accounts for
	Alarms       map[string]uint64 `json:"alarms"`       // raised since the fault before, by kind
	Lasted       float64           `json:"lasted_s"`     // the fault itself
	Publishing   float64           `json:"publishing_s"` // how long sensors published
	CaughtUp     float64           `json:"caught_up_s"`  // from the end of the fault
	Evidence     string            `json:"evidence"`     // that it took place
	Ends         int               `json:"sidecar_ends"` // by themselves
	Faults       []string          `json:"faults,omitempty"`
	Examples     []string          `json:"examples,omitempty"`
}

// reset forgets an earlier comparison.
func (r *row) reset() {
	r.Published, r.Acknowledged, r.Stored, r.Redelivered = 0, 0, 0, 0
	r.Missing, r.Doubled, r.Altered, r.Publishing = 0, 0, 0, 0
	r.Examples = nil
}

// add takes the comparison of one fleet: of this fault, or of one before, which
// must not have become worse.
func (r *row) add(now oracle.Findings, f *fleet) {
	f.latest = now
	was := f.before
	r.Published += now.Published - was.Published
	r.Acknowledged += now.Acknowledged - was.Acknowledged
	r.Stored += now.Stored - min(now.Stored, was.Stored)
	r.Redelivered += now.Redelivered - min(now.Redelivered, was.Redelivered)
	r.Missing += now.Missing - min(now.Missing, was.Missing)
	r.Doubled += now.Duplicates - min(now.Duplicates, was.Duplicates)
	r.Altered += now.Altered - min(now.Altered, was.Altered)
	if was.Published == 0 {
		r.Publishing = max(r.Publishing, f.length.Seconds())
	}
	if now.Missing+now.Duplicates+now.Altered > was.Missing+was.Duplicates+was.Altered {
		r.Examples = append(r.Examples, now.Examples...)
	}
}

// whole reports whether everything is there that must be.
func (r *row) whole() bool { return r.Missing == 0 && r.Unexplained == 0 }

// raised reports whether the cloud raised every alarm that it must.
func (r *row) raised(f faults.Fault) bool {
	return !slices.ContainsFunc(f.Must, func(kind string) bool { return r.Alarms[kind] == 0 })
}

func (r *row) fault(format string, args ...any) {
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}

// judge fills in Passed and Faults; rate is what the sensors were to publish a
// second.
func (r *row) judge(f faults.Fault, rate float64) {
	check := func(wrong bool, format string, args ...any) {
		if wrong {
			r.fault(format, args...)
		}
	}
	if f.Control {
		check(r.Missing == 0, "what was destroyed was not found missing: the counting is worth nothing")
		r.Passed = len(r.Faults) == 0
		return
	}
	check(r.Missing > 0, "%d acknowledged messages are not in the cloud", r.Missing)
	check(r.Doubled > 0, "%d readings are there twice", r.Doubled)
	check(r.Altered > 0, "%d readings are not what was published", r.Altered)
	check(r.Unexplained > 0, "%d numbers are missing and nobody says why", r.Unexplained)
	check(float64(r.Acknowledged) < 0.9*rate*r.Publishing,
		"only %d messages were acknowledged in %.1f s: less than 90 %% of %.0f/s", r.Acknowledged, r.Publishing, rate)
	for _, kind := range f.Must {
		check(r.Alarms[kind] == 0, "no alarm %q was raised", kind)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Alarms)) {
		check(!slices.Contains(f.Must, kind) && !slices.Contains(f.May, kind), "an alarm %q was raised that nothing called for", kind)
	}
	r.Passed = len(r.Faults) == 0
	if r.Passed {
		r.Examples = nil
	}
}

// judge fills in what follows from the rows. Each broker must have carried least
// messages.
func (r *result) judge(least uint64) {
	ran := false
	r.Passed = true
	for i := range r.Brokers {
		b := &r.Brokers[i]
		for _, row := range b.Rows {
			b.Acknowledged += row.Acknowledged
		}
		if b.Error == "" && b.Skipped == "" && !b.Control && b.Acknowledged < least {
			b.Error = fmt.Sprintf("only %d messages were acknowledged, want %d", b.Acknowledged, least)
		}
		b.Passed = b.Error == ""
		for _, row := range b.Rows {
			b.Passed = b.Passed && row.Passed
		}
		if b.Skipped == "" {
			ran = true
			r.Passed = r.Passed && b.Passed
		}
	}
	r.Passed = r.Passed && ran
}

// report is the result as a table.
func report(r result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  %-9s %-20s %9s %9s %9s %8s %8s %8s %11s %9s\n", "broker", "fault",
		"published", "acked", "stored", "missing", "doubled", "altered", "unexplained", "caught up")
	for _, br := range r.Brokers {
		for _, row := range br.Rows {
			fmt.Fprintf(&b, "  %-9s %-20s %9s %9s %9s %8s %8s %8s %11s %7.1f s%s\n", br.Broker, row.Fault,
				term.Count(row.Published), term.Count(row.Acknowledged), term.Count(row.Stored), term.Count(row.Missing),
				term.Count(row.Doubled), term.Count(row.Altered), term.Count(row.Unexplained), row.CaughtUp, failed(row))
		}
		switch {
		case br.Skipped != "":
			fmt.Fprintf(&b, "  %-9s SKIP: %s\n", br.Broker, br.Skipped)
		case br.Error != "":
			fmt.Fprintf(&b, "  %-9s FAILED: %s\n", br.Broker, firstLine(br.Error))
		case br.Control:
			fmt.Fprintf(&b, "  %-9s the control: an agent that deletes on publish is found out\n", br.Broker)
		default:
			fmt.Fprintf(&b, "  %-9s %d faults, %s messages acknowledged\n", br.Broker, len(br.Rows), term.Count(br.Acknowledged))
		}
	}
	if r.Passed {
		fmt.Fprintf(&b, "\n  PASSED in %.0f s: after every fault everything that was acknowledged was in the cloud, once and unaltered%s.\n\n", r.Seconds, r.exception())
		return b.String()
	}
	b.WriteString("\n  FAILED\n")
	for _, br := range r.Brokers {
		for _, row := range br.Rows {
			for _, f := range append(row.Faults, row.Examples...) {
				fmt.Fprintf(&b, "    %s %s: %s\n", br.Broker, row.Fault, f)
			}
		}
	}
	b.WriteString("\n")
	return b.String()
}

// exception names the control, where it was run.
func (r result) exception() string {
	for _, b := range r.Brokers {
		for _, row := range b.Rows {
			if row.Passed && row.Missing > 0 {
				return "; and what the control destroyed was found missing"
			}
		}
	}
	return ""
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func failed(r row) string {
	if r.Passed {
		return ""
	}
	return "  FAILED"
}
