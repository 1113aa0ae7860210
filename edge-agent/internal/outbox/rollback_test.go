package outbox

import (
	"errors"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// A card that was rolled back into the middle of an epoch is still emptied by receipts, which speak of more of
// that epoch than it has; of the current epoch nothing is believed that was never made.
func TestReceiptBeyondRolledBackEpochTrims(t *testing.T) {
	dir, image := memoryDir(t), memoryDir(t)
	x := open(t, Options{Dir: dir})
	torn := x.Stats().Epoch
	x.append(reading("t", "on the image"))
	copyDir(t, dir, image) // as the card of a device that stands still
	x.append(reading("t", "not on the image"), reading("t", "nor this"))
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}

	x = open(t, Options{Dir: image})
	x.append(reading("t", "goes on"))
	own := x.Stats().Epoch
	if s := x.all(own)[0].Start; s.Previous != torn || s.PreviousLast != 2 {
		t.Fatalf("the start names %s up to %d, want %s up to 2", s.Previous, s.PreviousLast, torn)
	}
	receipt := telemetry.Receipt{Agent: "greenhouse-1", Epochs: []telemetry.EpochReceipt{{Epoch: torn, Watermark: 4}, {Epoch: own, Watermark: 2}}}
	if err := x.Trim(receipt); err != nil {
		t.Fatal(err)
	}
	if s := x.Stats(); s.Records != 0 || s.NeverMade != 0 {
		t.Fatalf("%d records wait, %d receipts were refused", s.Records, s.NeverMade)
	}
	receipt.Epochs[1].Watermark = 3
	if err := x.Trim(receipt); !errors.Is(err, ErrNeverMade) {
		t.Fatalf("a receipt for what was never made: %v", err)
	}
}
