//go:build faults

package uplink

import (
	"os"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// FaultVariable makes an uplink of the kind that this one must not be: with the
// value "publish" it takes a Publish that returned nil for the cloud's word, gives
// back what the frame held, and hears no receipt. Tests of whole systems show with
// it that they find out who deletes too early.
const FaultVariable = "HOLDFAST_FAULT_DELETE_ON"

func fault(u *Uplink) {
	if os.Getenv(FaultVariable) == "publish" {
		u.credulous = true
	}
}

// believe makes of what was published under one number the receipt that nobody sent.
func (u *Uplink) believe(id uint64) {
	r := telemetry.Receipt{
		Cloud: "published", Agent: u.o.Agent, Revision: u.cloud.revision + 1, Issued: time.Now(), Window: uint64(u.o.MaxWindow),
	}
	for _, e := range u.epochs.all {
		has := e.held.Add(telemetry.Range{First: 1, Last: e.mark})
		for _, f := range e.flights {
			if f.send == id {
				has = has.Add(f.seqs)
			}
		}
		says := telemetry.EpochReceipt{Epoch: e.Epoch}
		for _, x := range has {
			switch {
			case x.First <= 1:
				says.Watermark = x.Last
			case len(says.Held) < telemetry.MaxHeld:
				says.Held = append(says.Held, x)
			}
		}
		r.Epochs = append(r.Epochs, says)
	}
	select {
	case u.receipts <- r:
	default:
	}
}
