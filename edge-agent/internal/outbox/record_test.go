package outbox

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

var testEpoch = telemetry.Epoch{Ordinal: 7, ID: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}}

// randomRecord returns a record of any kind.
func randomRecord(rng *rand.Rand, seq uint64) telemetry.Record {
	rec := telemetry.Record{Seq: seq, At: telemetry.Instant{Boot: time.Duration(rng.Int64()), Wall: rng.Int64() - rng.Int64()}}
	bytes := func(n int) []byte {
		b := make([]byte, rng.IntN(n))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	switch rng.IntN(5) {
	case 0:
		rec.Kind, rec.Anchor = telemetry.KindAnchor, &telemetry.Anchor{Synchronised: rng.IntN(2) == 0, Moved: time.Duration(rng.Int64() - rng.Int64()), MaxError: time.Duration(rng.Int64())}
	case 1:
		rec.Kind = telemetry.KindStart
		rec.Start = &telemetry.Start{Previous: telemetry.Epoch{Ordinal: rng.Uint64()}, PreviousLast: rng.Uint64(), PreviousClean: true, Version: string(bytes(20))}
		copy(rec.Start.Boot[:], bytes(17))
	case 2:
		rec.Kind = telemetry.KindLoss
		rec.Loss = &telemetry.Loss{Epoch: testEpoch, Seqs: telemetry.Range{First: rng.Uint64(), Last: rng.Uint64()}, Reason: telemetry.ReasonCorrupt, Count: rng.Uint64(), Bytes: rng.Uint64(), First: rec.At, Last: rec.At}
		if rng.IntN(2) == 0 {
			rec.Loss.Oversized = &telemetry.Oversized{Topic: string(bytes(30)), Size: rng.Uint64(), SHA256: [32]byte{9}}
		}
	default:
		rec.Kind = telemetry.KindReading
		rec.Reading = &telemetry.Reading{Topic: string(bytes(12)), QoS: uint8(rng.IntN(3)), Dup: rng.IntN(2) == 0, Retained: rng.IntN(2) == 0, Payload: bytes(400)}
	}
	return rec
}

// Records of every kind come out of a block as they went in, whether their topics
// stand in the dictionary or in the record.
func TestBlockRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		var d dictionary
		var block []byte
		var want []telemetry.Record
		var at telemetry.Instant
		first := rng.Uint64()%math.MaxUint32 + 1
		for i := range 1 + rng.IntN(6) {
			rec := randomRecord(rng, first+uint64(i))
			topic := uint64(0)
			if rec.Reading != nil && rng.IntN(2) == 0 {
				topic = d.id(rec.Reading.Topic)
			}
			before := len(block)
			block = appendRecord(block, testEpoch, &rec, at, topic)
			if got := len(block) - before; got > recordSize(&rec) {
				t.Fatalf("a record takes %d bytes, reckoned with %d: %+v", got, recordSize(&rec), rec)
			}
			at, want = rec.At, append(want, rec)
		}
		names := map[uint64]string{}
		for s, id := range d.ids {
			names[id] = s
		}
		var got []telemetry.Record
		err := decodeBlock(testEpoch, first, block, func(id uint64) (string, error) { return names[id], nil }, func(r telemetry.Record) bool {
			got = append(got, r)
			return true
		})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\ngot  %+v\nwant %+v", err, got, want)
		}
	}
}

// A record in another place, of another epoch, with another topic or with any bit
// turned is refused.
func TestRecordInWrongPlaceIsRefused(t *testing.T) {
	rec := telemetry.Record{Seq: 5, At: telemetry.Instant{Boot: 1, Wall: 2}, Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "a", QoS: 1, Payload: []byte("21.5")}}
	block := appendRecord(nil, testEpoch, &rec, telemetry.Instant{}, 1)
	topic := func(s string) topics {
		return func(id uint64) (string, error) { return strings.Repeat(s, int(id%3)), nil }
	}
	decode := func(e telemetry.Epoch, seq uint64, b []byte, name topics) (n int, err error) {
		err = decodeBlock(e, seq, b, name, func(r telemetry.Record) bool { n++; return true })
		return n, err
	}
	if n, err := decode(testEpoch, 5, block, topic("a")); n != 1 || err != nil {
		t.Fatalf("the record itself: %d, %v", n, err)
	}
	other := testEpoch
	other.ID[0]++
	refuse := func(what string, e telemetry.Epoch, seq uint64, b []byte, name topics) {
		t.Helper()
		if n, err := decode(e, seq, b, name); n > 0 || !errors.Is(err, errDamaged) {
			t.Errorf("%s: %d records, %v", what, n, err)
		}
	}
	refuse("another seq", testEpoch, 6, block, topic("a"))
	refuse("another epoch", other, 5, block, topic("a"))
	refuse("another topic", testEpoch, 5, block, topic("b"))
	for i := range block {
		for bit := range 8 {
			b := bytes.Clone(block)
			b[i] ^= 1 << bit
			if n, err := decode(testEpoch, 5, b, topic("a")); n > 0 && err == nil {
				t.Errorf("bit %d of byte %d turned: still read", bit, i)
			}
		}
	}
}

// A dictionary's entry with one wrong bit is put right; with two it is refused or
// right, and a record under it tells.
func TestTopicWithOneWrongBitIsRepaired(t *testing.T) {
	var d dictionary
	d.id("greenhouse/1/temperature")
	var value []byte
	_ = d.flush(func(_, v []byte) error { value = v; return nil })
	for i := range len(value) * 8 {
		b := bytes.Clone(value)
		b[i/8] ^= 1 << (i % 8)
		if s, err := decodeTopic(1, b); err != nil || s != "greenhouse/1/temperature" {
			t.Fatalf("bit %d: %q, %v", i, s, err)
		}
	}
	b := bytes.Clone(value)
	b[6], b[9] = b[9], b[6]
	if s, err := decodeTopic(1, b); err == nil {
		t.Fatalf("two bytes exchanged: %q", s)
	}
	if _, err := decodeTopic(2, value); err == nil {
		t.Fatal("another number's entry was taken")
	}
}

// Topics beyond the dictionary's bounds get no number and take no memory.
func TestDictionaryIsBounded(t *testing.T) {
	var d dictionary
	for i := range maxTopics + 10 {
		if id := d.id(string(rune(i)) + "/x"); (id == 0) != (i >= maxTopics) {
			t.Fatalf("topic %d got number %d", i, id)
		}
	}
	d = dictionary{}
	if d.id(strings.Repeat("x", maxTopicBytes+1)) != 0 {
		t.Fatal("a topic larger than the dictionary got a number")
	}
}

// Heads and states come back as they were.
func TestHeadAndStateRoundTrip(t *testing.T) {
	h := head{Epoch: testEpoch, Seqs: telemetry.Range{First: 3, Last: 9}, Readings: 5, Bytes: 77, First: telemetry.Instant{Boot: 1, Wall: -4}, Last: telemetry.Instant{Boot: 9, Wall: 1}, Losses: 2, Ran: 5, Up: 6, Synced: 7, Boot: [16]byte{1}, Clean: true}
	if got, err := decodeHead(h.encode()); err != nil || got != h {
		t.Fatalf("%v: %+v", err, got)
	}
	heads := []head{h, {Epoch: testEpoch, Seqs: telemetry.Range{First: 20, Last: 19}}}
	if got := decodeTrailer(encodeTrailer(heads)); !reflect.DeepEqual(got, heads) {
		t.Fatalf("trailer: %+v", got)
	}
	e := &epoch{id: testEpoch, last: 90, receipted: ranges.Set{{First: 1, Last: 5}, {First: 9, Last: 12}}, explained: []explanation{{seqs: telemetry.Range{First: 6, Last: 8}, reason: telemetry.ReasonDropped, by: testEpoch, seq: 44}}, pins: []pin{{seqs: telemetry.Range{First: 7, Last: 7}, after: time.Unix(9, 1).UTC()}, {seqs: telemetry.Range{First: 2, Last: 3}}}}
	got := &epoch{id: testEpoch}
	if err := got.decodeState(e.encodeState()); err != nil || !reflect.DeepEqual(got, e) {
		t.Fatalf("%v: %+v", err, got)
	}
}

// A segment's name says whose numbers are in it, and nothing else passes for one.
func TestSegmentNames(t *testing.T) {
	seqs := telemetry.Range{First: 12, Last: 345}
	if e, got, sealed, ok := parseName(sealedName(testEpoch, seqs)); !ok || !sealed || e != testEpoch || got != seqs {
		t.Fatal(sealedName(testEpoch, seqs))
	}
	if e, got, sealed, ok := parseName(liveName(testEpoch, 12)); !ok || sealed || e != testEpoch || got.First != 12 {
		t.Fatal(liveName(testEpoch, 12))
	}
	for _, s := range []string{"", "lock", "spare", "7-0102030405060708-12", "7-0102030405060708-0.seg", "7-0102030405060708-9-3.seg", "x-0102030405060708-1.seg", "7-01020304-1.seg", "7-0102030405060708-1-2-3.seg"} {
		if _, _, _, ok := parseName(s); ok {
			t.Errorf("%q passes for a segment", s)
		}
	}
}
