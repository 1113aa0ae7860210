package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/status"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// soonFull is when a filling outbox becomes worth a note: time to do something.
const soonFull = 24 * time.Hour

func (a *Agent) outboxPart() status.Part {
	s := a.outbox.Stats()
	p := status.Part{Name: "outbox", State: status.OK, Facts: []status.Fact{
		{Key: "records", Label: "Without a receipt", Value: s.Records, Unit: status.Count},
		{Key: "unreceipted_bytes", Label: "They take", Value: s.Unreceipted, Unit: status.Bytes},
		{Key: "oldest", Label: "Oldest of them", Value: moment(wall(s.Oldest)), Unit: status.Text},
		{Key: "bytes", Label: "On the disk", Value: s.Bytes, Unit: status.Bytes},
		{Key: "max_bytes", Label: "At most", Value: s.MaxBytes, Unit: status.Bytes},
		{Key: "free_bytes", Label: "Free on the disk", Value: s.FreeBytes, Unit: status.Bytes},
		{Key: "queued", Label: "Waiting for a commit", Value: s.Queued, Unit: status.Count},
		{Key: "durable", Label: "Last durable seq", Value: s.Durable, Unit: status.Count},
		{Key: "readings", Label: "Stored since the start", Value: s.Readings, Unit: status.Count},
		{Key: "epochs", Label: "Epochs", Value: s.Epochs, Unit: status.Count},
		{Key: "lost", Label: "Lost since the start", Value: lost(s), Unit: status.Text},
		{Key: "quarantined", Label: "Damaged files", Value: s.Quarantined, Unit: status.Count},
	}}
	if s.TimeToFull >= 0 {
		p.Facts = append(p.Facts, status.Fact{Key: "time_to_full", Label: "Time to full", Value: s.TimeToFull.Seconds(), Unit: status.Seconds})
	}
	p.State, p.Note = outboxState(s, outbox.Policy(a.config.Outbox.Full))
	return p
}

// outboxState fails only while the agent cannot do what it is for.
func outboxState(s outbox.Stats, full outbox.Policy) (state, note string) {
	switch {
	case !s.FullSince.IsZero() && full == outbox.Refuse:
		return status.Failing, "full: nothing more is taken; connect the device, or give it more outbox.max_bytes"
	case !s.FullSince.IsZero():
		return status.Degraded, "full: the oldest readings are given up; connect the device, or give it more outbox.max_bytes"
	case s.Foreign+s.NeverMade > 0:
		return status.Degraded, "receipts came that cannot be for this device; was its card copied, or its agent id given twice?"
	case s.Quarantined > 0:
		return status.Degraded, "the card gave back wrong bytes; damaged files were set aside: replace the card"
	case s.TimeToFull > 0 && s.TimeToFull < soonFull:
		return status.Degraded, "full within a day at the present rate"
	}
	return status.OK, ""
}

func wall(i telemetry.Instant) time.Time {
	if i == (telemetry.Instant{}) {
		return time.Time{}
	}
	return time.Unix(0, i.Wall)
}

func lost(s outbox.Stats) string {
	var all []string
	for reason, n := range s.Lost {
		if n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, reason))
		}
	}
	if len(all) == 0 {
		return "nothing"
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
