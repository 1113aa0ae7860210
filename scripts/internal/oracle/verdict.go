package oracle

import (
	"fmt"
	"time"
)

// ackShare is the part of the load that must have been acknowledged: below it
// the system did not keep up, and "nothing missing" would say little.
const ackShare = 0.9

// Verdict is the judgement over a run.
type Verdict struct {
	Findings
	Unexplained uint64 `json:"unexplained"`  // numbers that the cloud's ledger cannot account for
	Lost        uint64 `json:"lost"`         // numbers that the device recorded as lost
	CaughtUpMS  int64  `json:"caught_up_ms"` // from healing the network until nothing was left to send; -1: never
	Expected    uint64 `json:"expected"`     // rate × time
	Passed      bool   `json:"passed"`

	Faults []string `json:"faults,omitempty"` // why it did not pass
}

// Judge fills in Passed and Faults.
func (v *Verdict) Judge() {
	v.Faults = nil
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			v.Faults = append(v.Faults, fmt.Sprintf(format, args...))
		}
	}
	fault(v.Missing > 0, "%d acknowledged messages are not in the cloud", v.Missing)
	fault(v.Duplicates > 0, "%d readings are there twice", v.Duplicates)
	fault(v.Altered > 0, "%d readings are not what was published", v.Altered)
	fault(v.Unexplained > 0, "%d numbers are missing and nobody says why", v.Unexplained)
	fault(v.CaughtUpMS < 0, "the device did not catch up after the network was back")
	fault(float64(v.Acknowledged) < ackShare*float64(v.Expected),
		"only %d of %d messages were acknowledged, less than %.0f %%", v.Acknowledged, v.Expected, ackShare*100)
	fault(v.Expected == 0, "the run was too short for a single message")
	v.Passed = len(v.Faults) == 0
}

// CaughtUp sets CaughtUpMS, rounded up so that 0 means at once.
func (v *Verdict) CaughtUp(d time.Duration) {
	v.CaughtUpMS = int64((d + time.Millisecond - 1) / time.Millisecond)
}
