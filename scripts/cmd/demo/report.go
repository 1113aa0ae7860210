package main

import (
	"fmt"
	"strings"

	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// report is the verdict as a table.
func report(v oracle.Verdict) string {
	var b strings.Builder
	row := func(name string, n uint64, note string) {
		fmt.Fprintf(&b, "  %-14s %12s   %s\n", name, term.Count(n), note)
	}
	b.WriteString("\n")
	row("published", v.Published, fmt.Sprintf("of %s that were due", term.Count(v.Expected)))
	row("acknowledged", v.Acknowledged, "PUBACK read by the sensor")
	row("stored", v.Stored, "different messages read back, each byte compared")
	row("missing", v.Missing, "acknowledged but not stored")
	row("duplicates", v.Duplicates, "stored twice")
	row("altered", v.Altered, "not what was published")
	row("unexplained", v.Unexplained, "gaps that nobody accounts for")
	row("redelivered", v.Redelivered, "sent again by a sensor for want of a PUBACK")
	if v.CaughtUpMS >= 0 {
		fmt.Fprintf(&b, "  %-14s %9d ms   from healing the network to nothing left on the device\n", "caught up", v.CaughtUpMS)
	}
	b.WriteString("\n")
	if v.Passed {
		b.WriteString("  PASSED: everything that was acknowledged is in the cloud, once and unaltered.\n\n")
		return b.String()
	}
	b.WriteString("  FAILED\n")
	for _, f := range append(v.Faults, v.Examples...) {
		fmt.Fprintf(&b, "    %s\n", f)
	}
	b.WriteString("\n")
	return b.String()
}
