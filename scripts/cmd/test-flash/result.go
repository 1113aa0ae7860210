package main

import (
	"fmt"
	"strings"

	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// result is the whole run.
type result struct {
	Passed   bool         `json:"passed"`
	Seconds  float64      `json:"seconds"`
	Prepared float64      `json:"prepared_s"` // image, packages, programs, broker and cloud
	Error    string       `json:"error,omitempty"`
	Cases    []caseResult `json:"cases"`
}

// caseResult is one case. What is counted is all that was published since the
// beginning: a later case may not lose what an earlier one had.
type caseResult struct {
	Case    string  `json:"case"`
	Passed  bool    `json:"passed"`
	Seconds float64 `json:"seconds"`
	Control bool    `json:"control,omitempty"` // it passes when readings are missing
	Boots   []boot  `json:"boots"`
	oracle.Findings
	OnCardAlone uint64 `json:"on_card_alone"` // acknowledged while the network was cut, and rightly found missing then
}

// boot is one start of the guest, up to what was waited for.
type boot struct {
	Until   string  `json:"until"`
	Seconds float64 `json:"seconds"`
}

func (r result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  %-12s %9s %7s %14s %14s %9s %9s %15s\n", "case", "seconds", "boots", "acknowledged", "stored", "missing", "doubled", "on card alone")
	for _, c := range r.Cases {
		fmt.Fprintf(&b, "  %-12s %9.0f %7d %14s %14s %9s %9s %15s", c.Case, c.Seconds, len(c.Boots), term.Count(c.Acknowledged),
			term.Count(c.Stored), term.Count(c.Missing), term.Count(c.Duplicates), term.Count(c.OnCardAlone))
		switch {
		case !c.Passed:
			b.WriteString("  FAILED")
		case c.Control:
			b.WriteString("  missing, as it must be")
		}
		b.WriteString("\n")
	}
	if !r.Passed {
		fmt.Fprintf(&b, "\n  FAILED after %.0f s\n", r.Seconds)
		return b.String()
	}
	fmt.Fprintf(&b, "\n  PASSED in %.0f s (%.0f of them until broker and cloud ran): nothing acknowledged is missing, nothing is there twice or altered,\n"+
		"  no number is unexplained\n", r.Seconds, r.Prepared)
	return b.String()
}
