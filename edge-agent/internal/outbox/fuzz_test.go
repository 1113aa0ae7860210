package outbox

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// Whatever a block's bytes are, decoding ends in records or an error; and what
// decodes, encodes and decodes.
func FuzzDecodeBlock(f *testing.F) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 20 {
		rec := randomRecord(rng, 1)
		f.Add(appendRecord(nil, testEpoch, &rec, telemetry.Instant{}, 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		at := telemetry.Instant{}
		var again []byte
		err := decodeBlock(testEpoch, 1, b, func(uint64) (string, error) { return "t", nil }, func(r telemetry.Record) bool {
			again = appendRecord(again, testEpoch, &r, at, 0)
			at = r.At
			return true
		})
		records := 0
		eachRecord(testEpoch, 1, b, func(uint64) (string, error) { return "t", nil }, func(telemetry.Record, error) bool {
			records++
			return true
		})
		if records > len(b) {
			t.Fatalf("%d records in %d bytes", records, len(b))
		}
		if err != nil {
			return
		}
		if err := decodeBlock(testEpoch, 1, again, nil, func(telemetry.Record) bool { return true }); err != nil {
			t.Fatal(err)
		}
	})
}

// Whatever stands in a record behind a right checksum, which a fuzzer does not find
// by itself, decodes to something that encodes and decodes to the same, or to an error.
func FuzzDecodeRecord(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 40 {
		rec := randomRecord(rng, 9)
		block := appendRecord(nil, testEpoch, &rec, telemetry.Instant{}, 0)
		_, n := binary.Uvarint(block)
		f.Add(block[n+4:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		summed := append(make([]byte, 4), body...)
		name := func(uint64) (string, error) { return "t", nil }
		if rec, err := decodeRecord(testEpoch, 9, telemetry.Instant{}, summed, name); err == nil || rec.Seq != 9 {
			if crc := readingOrContentSum(&rec, summed); crc != 0 {
				t.Fatalf("taken with checksum 0, which is %#x: %+v", crc, rec)
			}
		}
		d := decoder{b: body}
		flags := d.byte()
		rec := telemetry.Record{Seq: 9, Kind: telemetry.Kind(flags & flagKind)}
		rec.At.Boot, rec.At.Wall = time.Duration(d.varint()), d.varint()
		if d.bad {
			return
		}
		if rec.Kind == telemetry.KindReading {
			if d.reading(&rec, flags, name) != nil {
				return
			}
		} else if d.content(&rec) != nil {
			return
		}
		again := appendRecord(nil, testEpoch, &rec, telemetry.Instant{}, 0)
		if len(again) > recordSize(&rec) && (rec.Start == nil || len(rec.Start.Version) < 100) {
			t.Fatalf("%d bytes, reckoned with %d: %+v", len(again), recordSize(&rec), rec)
		}
		err := decodeBlock(testEpoch, 9, again, nil, func(got telemetry.Record) bool {
			if got.Reading != nil && len(got.Reading.Payload) == 0 {
				got.Reading.Payload = rec.Reading.Payload // none is none
			}
			if !reflect.DeepEqual(got, rec) {
				t.Fatalf("got  %+v\nwant %+v", got, rec)
			}
			return true
		})
		if err != nil {
			t.Fatalf("%+v: %v", rec, err)
		}
	})
}

// readingOrContentSum is the checksum that a decoded record must have had.
func readingOrContentSum(rec *telemetry.Record, body []byte) uint32 {
	flags := body[4]
	if rec.Reading != nil {
		return readingSum(testEpoch, rec, flags)
	}
	return contentSum(testEpoch, rec, flags, appendContent(nil, rec))
}

// sealed gives fuzzers a right checksum, or they would get no further.
func sealed(b []byte) [][]byte { return [][]byte{b, sealSum(bytes.Clone(b))} }

// Whatever the bytes of a head are, it decodes to what encodes and decodes to the same.
func FuzzDecodeHead(f *testing.F) {
	h := head{Epoch: testEpoch, Seqs: telemetry.Range{First: 3, Last: 9}}
	b := h.encode()
	f.Add(b[:len(b)-4])
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range sealed(b) {
			if h, err := decodeHead(b); err == nil {
				if got, err := decodeHead(h.encode()); err != nil || got != h {
					t.Fatalf("%+v: %+v, %v", h, got, err)
				}
			}
		}
	})
}

// Whatever lies at a file's end, reading a trailer gives heads that are all right, or none.
func FuzzReadTrailer(f *testing.F) {
	heads := []head{{Epoch: testEpoch, Seqs: telemetry.Range{First: 3, Last: 9}}, {Epoch: newEpochID(4), Seqs: telemetry.Range{First: 1, Last: 1}}}
	b := encodeTrailer(heads)
	f.Add(b[:len(b)-4])
	f.Add(append(bytes.Repeat([]byte{1}, 50), b[:len(b)-4]...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range sealed(b) {
			heads := readTrailer(bytes.NewReader(b), int64(len(b)))
			if len(heads) == 0 {
				continue
			}
			if again := encodeTrailer(heads); len(again) > len(b) || !reflect.DeepEqual(decodeTrailer(again), heads) {
				t.Fatalf("%+v", heads)
			}
		}
	})
}

// Whatever the bytes of a state are, it decodes to sets that hold together and that
// encode and decode to the same, or changes nothing.
func FuzzDecodeState(f *testing.F) {
	e := &epoch{last: 9, receipted: ranges.Set{{First: 1, Last: 5}}, explained: []explanation{{seqs: telemetry.Range{First: 6, Last: 8}}}, pins: []pin{{seqs: seqs(2, 3), after: issued}}}
	b := e.encodeState()
	f.Add(b[:len(b)-4])
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range sealed(b) {
			e := &epoch{last: 1}
			if err := e.decodeState(b); err != nil {
				if e.last != 1 || len(e.receipted)+len(e.explained)+len(e.pins) > 0 {
					t.Fatalf("%v, and yet %+v", err, e)
				}
				continue
			}
			for i := 1; i < len(e.receipted); i++ {
				if e.receipted[i].First <= e.receipted[i-1].Last+1 {
					t.Fatalf("receipted %v", e.receipted)
				}
			}
			e.given().Missing(seqs(1, e.last)) // ends
			again := &epoch{last: 1}
			if err := again.decodeState(e.encodeState()); err != nil || !reflect.DeepEqual(again, e) {
				t.Fatalf("%v: %+v, want %+v", err, again, e)
			}
		}
	})
}

// Whatever an entry of a dictionary is, it gives a topic, its own, or an error.
func FuzzDecodeTopic(f *testing.F) {
	f.Add(uint64(1), []byte("\x00\x00\x00\x01topic"), 3)
	f.Fuzz(func(t *testing.T, id uint64, b []byte, bit int) {
		for _, b := range sealed(b) {
			s, err := decodeTopic(id, b)
			if err == nil && id <= maxTopics && !strings.HasSuffix(string(b[:len(b)-4]), s) && len(b) > maxRepair {
				t.Fatalf("%q from %q", s, b)
			}
			if len(b) < 8 || len(b) > maxRepair || err != nil || bit < 0 {
				continue
			}
			turned := bytes.Clone(b)
			turned[bit/8%len(b)] ^= 1 << (bit % 8)
			if again, err := decodeTopic(id, turned); err != nil {
				t.Fatalf("one bit of %q turned: %q, %v", s, again, err)
			}
		}
	})
}

// Whatever a file's name is, it passes for a segment's only if a segment of just that
// epoch and those seqs would have that name.
func FuzzParseName(f *testing.F) {
	f.Add(sealedName(testEpoch, telemetry.Range{First: 1, Last: 2}))
	f.Add(liveName(testEpoch, 7))
	f.Add(prefixPack + "0011223344556677" + suffixSegment)
	f.Fuzz(func(t *testing.T, s string) {
		e, seqs, sealed, ok := parseName(s)
		if !ok {
			return
		}
		if sealed && seqs.Len() == 0 || seqs.First == 0 || isPack(s) {
			t.Fatalf("%q: %s %v", s, e, seqs)
		}
		name := liveName(e, seqs.First)
		if sealed {
			name = sealedName(e, seqs)
		}
		if again, seqs2, sealed2, ok := parseName(name); !ok || again != e || seqs2 != seqs || sealed2 != sealed {
			t.Fatalf("%q and %q", s, name)
		}
	})
}

// fuzzFile is a segment, sealed or a pack, and what is in it.
func fuzzFile(f *testing.F, pack bool) (name string, data []byte, want map[telemetry.Epoch]map[uint64]string) {
	f.Helper()
	dir := memoryDir(f)
	want = lives(f, dir, 4)
	glob := "3-*" // sealed
	if pack {
		packed(f, dir)
		glob = prefixPack + "*"
	}
	names, _ := filepath.Glob(filepath.Join(dir, glob+suffixSegment))
	if len(names) != 1 {
		f.Fatal(names)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		f.Fatal(err)
	}
	return filepath.Base(names[0]), data, want
}

// fuzzFiles overwrites part of a segment with anything,
// and reads it in every way: no record comes out that was not put in.
func fuzzFiles(f *testing.F, pack bool) {
	name, data, want := fuzzFile(f, pack)
	for page := range len(data) / boltpage.PageSize {
		f.Add(uint32(page*boltpage.PageSize+8), []byte{1, 2, 3, 4, 5, 6, 7, 8})
		f.Add(uint32(page*boltpage.PageSize+16), bytes.Repeat([]byte{0xff}, 32))
	}
	f.Add(uint32(0), data[boltpage.PageSize:2*boltpage.PageSize])
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		dir := memoryDir(t)
		bad := bytes.Clone(data)
		copy(bad[int(at)%len(bad):], patch)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		right := func(e telemetry.Epoch, rec telemetry.Record) error {
			if want[e] != nil && want[e][rec.Seq] != meaning(&rec) {
				t.Fatalf("epoch %s seq %d reads %.100s, want %.100s", e, rec.Seq, meaning(&rec), want[e][rec.Seq])
			}
			return nil
		}
		_ = withSealed(path, pack, func(r *reader) error {
			heads, _ := r.heads()
			for _, h := range heads {
				h.Seqs.Last = min(h.Seqs.Last, h.Seqs.First+1000)
				_ = r.scan(h.Epoch, h.Seqs, func(rec telemetry.Record) bool { return right(h.Epoch, rec) == nil })
			}
			_, _ = r.states()
			return nil
		})
		c := &card{dir: dir}
		if err := c.salvage(&cardFile{name: name, pack: pack}, right); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := Verify(dir, &out); err == nil && !strings.Contains(out.String(), "1 segments, 0 damaged") {
			t.Fatalf("%s", out.String())
		}
	})
}

// A segment with anything written over any part of it never gives a wrong record.
func FuzzSegment(f *testing.F) { fuzzFiles(f, false) }

// Nor does a pack.
func FuzzPack(f *testing.F) { fuzzFiles(f, true) }
