package uplink

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// cutRecords and cutBytes bound one frame before compression, whatever the
	// link carries: about 3 MB with the records' own structures, on devices that
	// have 512 MB for everything.
	cutRecords = 8192
	cutBytes   = 1 << 20

	recordCost = 24  // bytes a record costs besides topic and payload, by guess
	sealCost   = 256 // bytes of header and signature
	cutTries   = 8   // halvings are enough for any guess to come right

	firstRatio = 0.5 // encoded bytes for each byte of a record, before it is learnt
)

var (
	errNothing = errors.New("nothing to read")       // the range is not on the device
	errRoom    = errors.New("no room in the window") // one record alone is larger than what is free
)

// cutter makes frames of the size asked for. It learns how well they compress.
type cutter struct {
	ratio float64
}

func newCutter() cutter { return cutter{ratio: firstRatio} }

// raw returns how many bytes of records to read for a frame of size bytes.
func (c *cutter) raw(size int) int {
	return min(max(int(float64(size-sealCost)/c.ratio), 1), cutBytes)
}

// learn takes one frame. A worse ratio is believed at once, a better one slowly:
// a frame too large is cut twice.
func (c *cutter) learn(size int, recs []telemetry.Record) {
	if len(recs) < 4 { // says more about the header than about the readings
		return
	}
	got := max(float64(size-sealCost)/float64(weigh(recs)), 0.01)
	if got > c.ratio {
		c.ratio = min(got, 2)
		return
	}
	c.ratio += (got - c.ratio) / 8
}

// weigh returns the bytes of recs before compression.
func weigh(recs []telemetry.Record) (n int) {
	for _, r := range recs {
		n += recordCost
		if r.Reading != nil {
			n += len(r.Reading.Topic) + len(r.Reading.Payload)
		}
	}
	return n
}

// frame is a run of records, encoded.
type frame struct {
	data  []byte
	seqs  telemetry.Range
	first telemetry.Instant // when the first of them was recorded
	ended bool              // reading stopped for want of records, not of room
	paged bool              // it names other epochs
	asked []telemetry.Epoch // those of them whose state at the cloud is not known
}

// cutFrame encodes records of e from want.First on, in at most size bytes, or
// most when a single record is larger than that. It returns errNothing when none
// of want is on the device, and errRoom, with the frame, when the first record
// alone is too large.
func (u *Uplink) cutFrame(ctx context.Context, e *epoch, want telemetry.Range, size, most int) (frame, error) {
	records := min(want.Len(), cutRecords, e.limitAt(want.First))
	if want.Len() == 0 { // 1..MaxUint64 has no length that fits
		records = min(cutRecords, e.limitAt(want.First))
	}
	recs, err := u.o.Outbox.Read(ctx, e.Epoch, want.First, int(records), u.cut.raw(size))
	if err != nil {
		return frame{}, fmt.Errorf("read outbox: %w", err)
	}
	for len(recs) > 0 && recs[len(recs)-1].Seq > want.Last {
		recs = recs[:len(recs)-1]
	}
	if len(recs) == 0 {
		return frame{}, errNothing
	}
	ended := uint64(len(recs)) < records && weigh(recs) < u.cut.raw(size)/2
	for range cutTries {
		f, err := u.encode(e, recs)
		switch {
		case errors.Is(err, telemetry.ErrFrameTooLarge) && len(recs) > 1:
			recs, ended = recs[:len(recs)/2], false
			continue
		case err != nil:
			return frame{}, fmt.Errorf("encode frame: %w", err)
		}
		u.cut.learn(len(f.data), recs)
		if len(f.data) <= size || len(recs) == 1 && len(f.data) <= most {
			f.ended = ended
			return f, nil
		}
		if len(recs) == 1 {
			return f, errRoom
		}
		fewer := len(recs) * size / len(f.data) * 9 / 10
		recs, ended = recs[:max(fewer, 1)], false
	}
	return frame{}, errRoom
}

// encode seals recs with a page of the list of open epochs.
func (u *Uplink) encode(e *epoch, recs []telemetry.Record) (frame, error) {
	seqs := telemetry.Range{First: recs[0].Seq, Last: recs[len(recs)-1].Seq}
	e.Durable = max(e.Durable, seqs.Last)
	paged := u.paged(int(float64(weigh(recs))*u.cut.ratio), time.Now())
	h, asked := u.header(e, paged)
	h.First, h.Last = seqs.First, seqs.Last
	data, err := u.seal(h, recs, u.o.Key)
	return frame{data: data, seqs: seqs, first: recs[0].At, paged: paged, asked: asked}, err
}

// limitAt returns how many records a frame that begins at seq may have.
func (e *epoch) limitAt(seq uint64) uint64 {
	n := uint64(cutRecords)
	for _, l := range e.limits {
		if l.seqs.First <= seq && seq <= l.seqs.Last {
			n = min(n, l.records, l.seqs.Last-seq+1)
		}
	}
	return n
}

// traceparent returns a new W3C trace context, so that one frame's log lines
// can be joined across the agent, two sidecars and the cloud.
func traceparent() string {
	var id [24]byte
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	return "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-01"
}
