package outbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// A block is the value of one bbolt key: some records in a row, the key is the
// seq of the first. Several records a key cost bbolt half the time and three
// quarters of its overhead of one a key.
//
//	block  = record…
//	record = length ‖ crc ‖ flags ‖ Δboot ‖ Δwall ‖ content
//
// length counts what follows it (uvarint). crc is CRC-32C (little endian) over
// epoch, seq, both instants in full, flags and content, a reading's topic in
// full and not by its number in the dictionary: so bytes that are right in the
// wrong place are found out, as is a damaged dictionary. Δ is against the record
// before in the block (zigzag varint).

// Blocks of a small commit are such that four of them with their keys fill a page:
// bbolt never splits a leaf of four keys or fewer, so the next commit rewrites one
// page at most of what was there. In larger commits that matters less, and larger
// blocks leave less room unused and make fewer writes: of the next size two fill a
// page, of the largest two fill four pages, which bbolt writes in one.
const (
	smallBlock  = 996
	mediumBlock = 2016
	largeBlock  = 8160
)

// blockBytes is how large blocks of a commit of so many bytes grow, unless one
// record alone is larger.
func blockBytes(commit int) int {
	switch {
	case commit < 48<<10:
		return smallBlock
	case commit < 160<<10:
		return mediumBlock
	}
	return largeBlock
}

const (
	flagKind     = 0x07
	flagQoS      = 0x18
	flagDup      = 0x20
	flagRetained = 0x40
	qosShift     = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is in the chain of every error that means wrong bytes in what the
// outbox wrote, as against bytes that could not be read.
var errDamaged = errors.New("damaged record")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errDamaged}, args...)...)
}

// appendRecord appends rec to a block of epoch e. before is the instant of the
// record before in the block, zero for the first; topic is the dictionary's
// number for a reading's topic, 0 when it stands in the record itself.
func appendRecord(block []byte, e telemetry.Epoch, rec *telemetry.Record, before telemetry.Instant, topic uint64) []byte {
	flags := recordFlags(rec)
	var head [2*binary.MaxVarintLen64 + 5]byte
	n := 5
	head[4] = flags
	n += binary.PutVarint(head[n:], int64(rec.At.Boot-before.Boot))
	n += binary.PutVarint(head[n:], rec.At.Wall-before.Wall)
	if r := rec.Reading; r != nil {
		var ref [2 * binary.MaxVarintLen64]byte
		m, name := binary.PutUvarint(ref[:], topic), ""
		if topic == 0 {
			m, name = m+binary.PutUvarint(ref[m:], uint64(len(r.Topic))), r.Topic
		}
		binary.LittleEndian.PutUint32(head[:], readingSum(e, rec, flags))
		block = binary.AppendUvarint(block, uint64(n+m+len(name)+len(r.Payload)))
		block = append(append(append(block, head[:n]...), ref[:m]...), name...)
		return append(block, r.Payload...)
	}
	content := appendContent(nil, rec)
	binary.LittleEndian.PutUint32(head[:], contentSum(e, rec, flags, content))
	block = binary.AppendUvarint(block, uint64(n+len(content)))
	return append(append(block, head[:n]...), content...)
}

func recordFlags(rec *telemetry.Record) byte {
	f := byte(rec.Kind)
	if r := rec.Reading; r != nil {
		f |= r.QoS << qosShift & flagQoS
		if r.Dup {
			f |= flagDup
		}
		if r.Retained {
			f |= flagRetained
		}
	}
	return f
}

// appendIdentity appends who a record is and when it was.
func appendIdentity(b []byte, e telemetry.Epoch, rec *telemetry.Record, flags byte) []byte {
	b = binary.BigEndian.AppendUint64(appendEpoch(b, e), rec.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(rec.At.Boot))
	return append(binary.BigEndian.AppendUint64(b, uint64(rec.At.Wall)), flags)
}

func contentSum(e telemetry.Epoch, rec *telemetry.Record, flags byte, content []byte) uint32 {
	var b [41]byte
	return crc32.Update(crc32.Checksum(appendIdentity(b[:0], e, rec, flags), castagnoli), castagnoli, content)
}

func readingSum(e telemetry.Epoch, rec *telemetry.Record, flags byte) uint32 {
	var b [160]byte // of most topics too: a checksum in few pieces is quicker
	head := appendText(appendIdentity(b[:0], e, rec, flags), rec.Reading.Topic)
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, rec.Reading.Payload)
}

// recordSize returns at least what a record takes in a block, in bytes.
func recordSize(rec *telemetry.Record) int {
	const fixed = 48 // length, checksum, flags, instants, the topic's number and length
	switch {
	case rec.Reading != nil:
		return fixed + len(rec.Reading.Topic) + len(rec.Reading.Payload)
	case rec.Loss != nil && rec.Loss.Oversized != nil:
		return fixed + 160 + len(rec.Loss.Oversized.Topic)
	}
	return fixed + 160
}

// topics returns the topic that a dictionary has under a number.
type topics func(id uint64) (string, error)

// decodeBlock calls emit with each record of a block whose first seq is first,
// in order, until emit returns false. Records keep referring to block. It returns
// an error with errDamaged in its chain at the first one that is not right.
func decodeBlock(e telemetry.Epoch, first uint64, block []byte, name topics, emit func(telemetry.Record) bool) error {
	var bad error
	eachRecord(e, first, block, name, func(rec telemetry.Record, err error) bool {
		bad = err
		return err == nil && emit(rec)
	})
	return bad
}

// eachRecord is decodeBlock that can go on after a record that is not right, as
// far as the lengths lead it.
func eachRecord(e telemetry.Epoch, first uint64, block []byte, name topics, emit func(telemetry.Record, error) bool) {
	var at telemetry.Instant
	for seq := first; len(block) > 0; seq++ {
		d := decoder{b: block}
		body := d.bytes(d.uvarint())
		if d.bad {
			emit(telemetry.Record{Seq: seq}, damaged("seq %d: cut off", seq))
			return
		}
		rec, err := decodeRecord(e, seq, at, body, name)
		if !emit(rec, err) {
			return
		}
		at, block = rec.At, d.b
	}
}

func decodeRecord(e telemetry.Epoch, seq uint64, before telemetry.Instant, body []byte, name topics) (telemetry.Record, error) {
	d := decoder{b: body}
	sum, flags := d.uint32(), d.byte()
	rec := telemetry.Record{Seq: seq, Kind: telemetry.Kind(flags & flagKind)}
	rec.At.Boot = before.Boot + time.Duration(d.varint())
	rec.At.Wall = before.Wall + d.varint()
	if d.bad {
		return rec, damaged("seq %d: cut off", seq)
	}
	if rec.Kind == telemetry.KindReading {
		if err := d.reading(&rec, flags, name); err != nil {
			return rec, err
		}
		if readingSum(e, &rec, flags) != sum {
			return rec, damaged("seq %d: checksum", seq)
		}
		return rec, nil
	}
	if contentSum(e, &rec, flags, d.b) != sum {
		return rec, damaged("seq %d: checksum", seq)
	}
	return rec, d.content(&rec)
}

func (d *decoder) reading(rec *telemetry.Record, flags byte, name topics) error {
	r := &telemetry.Reading{QoS: flags & flagQoS >> qosShift, Dup: flags&flagDup != 0, Retained: flags&flagRetained != 0}
	id := d.uvarint()
	if id == 0 {
		r.Topic = string(d.bytes(d.uvarint()))
	}
	if d.bad {
		return damaged("seq %d: cut off", rec.Seq)
	}
	if id != 0 {
		var err error
		if r.Topic, err = name(id); err != nil {
			return err
		}
	}
	r.Payload = d.b[:len(d.b):len(d.b)]
	rec.Reading = r
	return nil
}

// appendContent encodes what is particular to a loss, an anchor or a start.
func appendContent(b []byte, rec *telemetry.Record) []byte {
	switch {
	case rec.Loss != nil:
		return appendLoss(b, rec.Loss)
	case rec.Anchor != nil:
		b = append(b, boolByte(rec.Anchor.Synchronised))
		b = binary.AppendVarint(b, int64(rec.Anchor.Moved))
		return binary.AppendVarint(b, int64(rec.Anchor.MaxError))
	case rec.Start != nil:
		s := rec.Start
		b = appendEpoch(b, s.Previous)
		b = binary.AppendUvarint(b, s.PreviousLast)
		b = append(append(b, boolByte(s.PreviousClean)), s.Boot[:]...)
		return appendText(b, s.Version)
	}
	panic("BUG: record without content")
}

func appendLoss(b []byte, l *telemetry.Loss) []byte {
	b = appendEpoch(b, l.Epoch)
	b = appendRange(b, l.Seqs)
	b = append(b, byte(l.Reason))
	b = binary.AppendUvarint(b, l.Count)
	b = binary.AppendUvarint(b, l.Bytes)
	b = appendInstant(appendInstant(b, l.First), l.Last)
	o := l.Oversized
	b = append(b, boolByte(o != nil))
	if o == nil {
		return b
	}
	b = binary.AppendUvarint(appendText(b, o.Topic), o.Size)
	return append(b, o.SHA256[:]...)
}

// content decodes what appendContent wrote. The checksum was right, so an error
// here is that of another version.
func (d *decoder) content(rec *telemetry.Record) error {
	switch rec.Kind {
	case telemetry.KindLoss:
		rec.Loss = d.loss()
	case telemetry.KindAnchor:
		rec.Anchor = &telemetry.Anchor{Synchronised: d.byte() != 0, Moved: time.Duration(d.varint()), MaxError: time.Duration(d.varint())}
	case telemetry.KindStart:
		s := &telemetry.Start{Previous: d.epoch(), PreviousLast: d.uvarint(), PreviousClean: d.byte() != 0}
		copy(s.Boot[:], d.bytes(uint64(len(s.Boot))))
		s.Version = string(d.bytes(d.uvarint()))
		rec.Start = s
	default:
		return damaged("seq %d: kind %d", rec.Seq, rec.Kind)
	}
	if d.bad || len(d.b) > 0 {
		return damaged("seq %d: content", rec.Seq)
	}
	return nil
}

func (d *decoder) loss() *telemetry.Loss {
	l := &telemetry.Loss{Epoch: d.epoch(), Seqs: d.seqs(), Reason: telemetry.Reason(d.byte())}
	l.Count, l.Bytes = d.uvarint(), d.uvarint()
	l.First, l.Last = d.instant(), d.instant()
	if d.byte() == 0 {
		return l
	}
	o := &telemetry.Oversized{Topic: string(d.bytes(d.uvarint())), Size: d.uvarint()}
	copy(o.SHA256[:], d.bytes(uint64(len(o.SHA256))))
	l.Oversized = o
	return l
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func appendEpoch(b []byte, e telemetry.Epoch) []byte {
	return append(binary.BigEndian.AppendUint64(b, e.Ordinal), e.ID[:]...)
}

func appendRange(b []byte, r telemetry.Range) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, r.First), r.Last)
}

func appendInstant(b []byte, i telemetry.Instant) []byte {
	return binary.AppendVarint(binary.AppendVarint(b, int64(i.Boot)), i.Wall)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decoder reads from the front of b. After the first thing that is not there,
// bad is set and everything reads as zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) bytes(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) || n > math.MaxInt32 {
		d.bad = true
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) epoch() telemetry.Epoch {
	var e telemetry.Epoch
	if b := d.bytes(16); b != nil {
		e.Ordinal = binary.BigEndian.Uint64(b)
		copy(e.ID[:], b[8:])
	}
	return e
}

func (d *decoder) seqs() telemetry.Range {
	return telemetry.Range{First: d.uvarint(), Last: d.uvarint()}
}

func (d *decoder) instant() telemetry.Instant {
	return telemetry.Instant{Boot: time.Duration(d.varint()), Wall: d.varint()}
}
