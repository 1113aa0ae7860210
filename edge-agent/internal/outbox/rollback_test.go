package outbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

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

// meanings is what each number of each epoch meant on any machine that had it.
type meanings map[telemetry.Epoch]map[uint64]string

// learn holds everything that an outbox has against what it meant elsewhere.
func (m meanings) learn(t *testing.T, x *opened, what string) {
	t.Helper()
	for _, o := range x.Epochs() {
		if m[o.Epoch] == nil {
			m[o.Epoch] = map[uint64]string{}
		}
		for _, rec := range x.all(o.Epoch) {
			is := meaning(&rec)
			if was, ok := m[o.Epoch][rec.Seq]; ok && was != is {
				t.Fatalf("%s: epoch %s seq %d means %.80s, and meant %.80s", what, o.Epoch, rec.Seq, is, was)
			}
			m[o.Epoch][rec.Seq] = is
		}
	}
}

// However often cards are copied, put back and run beside each other, live or cut
// off, receipted or full: no number ever means two things on any of them, and each
// start names an epoch that its own card had.
func TestManyClonesNeverReuseNumber(t *testing.T) {
	seed := seeded(t)
	rng := rand.New(rand.NewPCG(seed, 10))
	known := meanings{}
	cards := []string{memoryDir(t)}
	for step := range envInt(t, "OUTBOX_CLONES", 12, 80) {
		dir := cards[rng.IntN(len(cards))]
		what := fmt.Sprintf("seed %d, step %d", seed, step)
		had := map[telemetry.Epoch]uint64{}
		x := open(t, Options{
			Dir: dir, SegmentBytes: minSegment, MaxBytes: 6 * minSegment, Full: DropOldest, packFrom: 3,
			unclean: rng.IntN(2) == 0, noSync: true,
		})
		for _, o := range x.Epochs() {
			had[o.Epoch] = o.Durable
		}
		e := x.Stats().Epoch
		for i := range 1 + rng.IntN(30) {
			x.append(reading("t", fmt.Sprintf("%s, %d: %s", dir, i, strings.Repeat("c", rng.IntN(9000)))))
			if rng.IntN(20) == 0 && len(cards) < 8 { // a card read out while the device runs
				clone := memoryDir(t)
				copyDir(t, dir, clone)
				cards = append(cards, clone)
			}
		}
		known.learn(t, x, what)
		if recs, err := x.Read(t.Context(), e, 1, 1, 1); err == nil && len(recs) > 0 && recs[0].Start != nil {
			s := recs[0].Start
			if last, ok := had[s.Previous]; !s.Previous.IsZero() && (!ok || last != s.PreviousLast) {
				t.Fatalf("%s: the start names %s up to %d, the card had %v", what, s.Previous, s.PreviousLast, had)
			}
		}
		if rng.IntN(2) == 0 {
			x.trim(e, issued.Add(time.Duration(step)*time.Second), seqs(1, 1+rng.Uint64N(x.Stats().Durable)))
			x.append(reading("t", "after the receipt"))
			known.learn(t, x, what)
		}
		x.end()
		if rng.IntN(4) == 0 && len(cards) > 1 { // an image is put back over another card
			from := cards[rng.IntN(len(cards))]
			if to := cards[rng.IntN(len(cards))]; to != from {
				if err := os.RemoveAll(to); err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(to, 0o700); err != nil {
					t.Fatal(err)
				}
				copyDir(t, from, to)
			}
		}
	}
	if len(cards) < 2 && !testing.Short() {
		t.Fatal("no card was ever copied")
	}
}
