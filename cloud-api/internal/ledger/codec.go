package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// ErrCorrupt is returned by Decode for bytes that Encode did not write.
var ErrCorrupt = errors.New("ledger: not a ledger")

// version is the first byte of every encoded ledger.
const version = 1

// Encode returns the ledger as bytes for a store to keep: a version, then the
// sets as differences in variable-length integers, a few bytes a range.
func (e *Epoch) Encode() []byte {
	b := []byte{version}
	b = appendSet(b, e.Held)
	b = appendSet(b, e.Expired)
	b = appendSet(b, e.Quarantined)
	b = binary.AppendUvarint(b, uint64(len(e.Lost)))
	for _, why := range slices.Sorted(maps.Keys(e.Lost)) {
		b = append(b, byte(why))
		b = appendSet(b, e.Lost[why])
	}
	b = binary.AppendUvarint(b, e.Oversized)
	d := e.Device
	for _, v := range []uint64{d.Lowest, d.Durable, d.Trimmed, d.MarkEpoch.Ordinal} {
		b = binary.AppendUvarint(b, v)
	}
	b = append(b, d.MarkEpoch.ID[:]...)
	b = binary.AppendUvarint(b, d.MarkSeq)
	b = binary.AppendVarint(b, unixNano(d.Seen))
	return e.appendStart(b)
}

func (e *Epoch) appendStart(b []byte) []byte {
	if e.Start == nil {
		return append(b, 0)
	}
	flags := byte(1)
	if e.Start.PreviousClean {
		flags |= 2
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, e.Start.Previous.Ordinal)
	b = append(b, e.Start.Previous.ID[:]...)
	b = binary.AppendUvarint(b, e.Start.PreviousLast)
	b = append(b, e.Start.Boot[:]...)
	b = binary.AppendUvarint(b, uint64(len(e.Start.Version)))
	b = append(b, e.Start.Version...)
	b = binary.AppendVarint(b, int64(e.StartedAt.Boot))
	return binary.AppendVarint(b, e.StartedAt.Wall)
}

func appendSet(b []byte, s Set) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	var at uint64
	for _, r := range s {
		b = binary.AppendUvarint(b, r.First-at)
		b = binary.AppendUvarint(b, r.Last-r.First)
		at = r.Last
	}
	return b
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// Decode reads what Encode wrote; no bytes are an empty ledger. It returns
// ErrCorrupt for anything else.
func Decode(b []byte) (*Epoch, error) {
	if len(b) == 0 {
		return &Epoch{}, nil
	}
	if b[0] != version {
		return nil, fmt.Errorf("%w: version %d", ErrCorrupt, b[0])
	}
	d := decoder{b: b[1:]}
	e := &Epoch{Held: d.set(), Expired: d.set(), Quarantined: d.set()}
	for range d.count(2) {
		why := telemetry.Reason(d.byte())
		if e.Lost == nil {
			e.Lost = map[telemetry.Reason]Set{}
		}
		e.Lost[why] = d.set()
	}
	e.Oversized = d.uint()
	e.Device = Device{Lowest: d.uint(), Durable: d.uint(), Trimmed: d.uint(), MarkEpoch: d.epoch(), MarkSeq: d.uint()}
	if ns := d.int(); ns != 0 {
		e.Device.Seen = time.Unix(0, ns).UTC()
	}
	d.start(e)
	if d.bad || len(d.b) != 0 {
		return nil, ErrCorrupt
	}
	return e, nil
}

// decoder reads from b and remembers the first failure; after it every read
// returns zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	return v * d.skip(n)
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	return v * int64(d.skip(n))
}

// skip drops n bytes and returns 1, or marks the input bad and returns 0.
func (d *decoder) skip(n int) uint64 {
	if n <= 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return 1
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// count reads how many items follow, each of at least size bytes: never more
// than there is input for, so nothing is allocated on a claim.
func (d *decoder) count(size uint64) uint64 {
	n := d.uint()
	if n > uint64(len(d.b))/size {
		d.bad, d.b = true, nil
		return 0
	}
	return n
}

func (d *decoder) set() Set {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	s := make(Set, 0, n)
	var at uint64
	for range n {
		first := at + d.uint()
		last := first + d.uint()
		s, at = append(s, telemetry.Range{First: first, Last: last}), last
	}
	return s
}

func (d *decoder) epoch() telemetry.Epoch {
	e := telemetry.Epoch{Ordinal: d.uint()}
	copy(e.ID[:], d.bytes(8))
	return e
}

func (d *decoder) start(e *Epoch) {
	flags := d.byte()
	if flags&1 == 0 {
		return
	}
	s := &telemetry.Start{Previous: d.epoch(), PreviousLast: d.uint(), PreviousClean: flags&2 != 0}
	copy(s.Boot[:], d.bytes(16))
	s.Version = string(d.bytes(d.uint()))
	e.Start = s
	e.StartedAt = telemetry.Instant{Boot: time.Duration(d.int()), Wall: d.int()}
}
