package telemetry

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/internal/wire"
)

// maxAllocated is what Records may allocate in all, garbage included: a body and
// its copy, payloads and topics of MaxBody each, and MaxRecords records.
const maxAllocated = 96 << 20

var (
	hostileKey   = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	hostileEpoch = Epoch{Ordinal: 1, ID: [8]byte{1}}
)

// sealBytes makes a frame with a good signature of any header and body.
func sealBytes(header, body []byte) []byte {
	return appendFields(nil, header, body, sign(hostileKey, frameDomain, header, body))
}

func hostileHeader(first, last uint64) []byte {
	b, err := proto.Marshal(Header{Agent: "pi", Epoch: hostileEpoch, First: first, Last: last}.wire())
	if err != nil {
		panic(err)
	}
	return b
}

func compress(b []byte, o ...zstd.EOption) []byte {
	e, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithSingleSegment(true)}, o...)...)
	if err != nil {
		panic(err)
	}
	return e.EncodeAll(b, nil)
}

// records opens a frame of ours and returns the error of whichever step failed,
// and what all of them allocated.
func records(b []byte) (recs []Record, allocated uint64, err error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	defer func() {
		runtime.ReadMemStats(&after)
		allocated = after.TotalAlloc - before.TotalAlloc
	}()
	f, err := ParseFrame(b)
	if err != nil {
		return nil, 0, err
	}
	if err := f.Verify(public(hostileKey)); err != nil {
		return nil, 0, err
	}
	recs, err = f.Records()
	return recs, 0, err
}

// goodBody has an anchor and five readings of two topics, three of which share
// a template.
func goodBody(t *testing.T) *wire.Body {
	t.Helper()
	recs := []Record{{Seq: 1, Kind: KindAnchor, Anchor: &Anchor{Synchronised: true}}}
	for i, p := range []string{"t=1.07", "on", "t=2.31", "", "t=2.5"} {
		recs = append(recs, Record{Seq: uint64(i) + 2, Kind: KindReading, Reading: &Reading{Topic: strings.Repeat("x", 1+i%2), Payload: []byte(p)}})
	}
	w, err := columnsOf(1, recs)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// A body whose columns do not agree with each other or with the header is
// refused, whatever is wrong with it, although the agent's signature is good.
func TestMalformedBodiesAreRefused(t *testing.T) {
	varints := func(vs ...uint64) (b []byte) {
		for _, v := range vs {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	digits := func(v int64) []byte { // of the three payloads that share a template with two runs
		b := appendNumbers([]byte{digitsPlain}, []int64{v, v, v})
		return appendNumbers(append(b, digitsPlain), []int64{1, 2, 3})
	}
	for name, change := range map[string]func(*wire.Body){
		"kinds: none":                func(w *wire.Body) { w.Kinds = nil },
		"kinds: one more":            func(w *wire.Body) { w.Kinds = varints(3, 1, 1, 6) },
		"kinds: one less":            func(w *wire.Body) { w.Kinds = varints(3, 1, 1, 4) },
		"kinds: unknown":             func(w *wire.Body) { w.Kinds = varints(9, 1, 1, 5) },
		"kinds: wraps into a byte":   func(w *wire.Body) { w.Kinds = varints(3, 1, 257, 5) },
		"kinds: empty run":           func(w *wire.Body) { w.Kinds = varints(3, 1, 1, 0, 1, 5) },
		"kinds: run of 2^64-1":       func(w *wire.Body) { w.Kinds = varints(3, 1, 1, math.MaxUint64) },
		"boot: none":                 func(w *wire.Body) { w.Boot = nil },
		"boot: cut off":              func(w *wire.Body) { w.Boot = w.Boot[:1] },
		"boot: a byte more":          func(w *wire.Body) { w.Boot = append(w.Boot, 0) },
		"boot: no such order":        func(w *wire.Body) { w.Boot = append(varints(0, 128, 0), 0xff) },
		"boot: zeros for ever":       func(w *wire.Body) { w.Boot = append(varints(0, 0, 0), make([]byte, 1000)...) },
		"wall: a byte more":          func(w *wire.Body) { w.Wall = append(w.Wall, 0) },
		"other: none":                func(w *wire.Body) { w.Other = nil },
		"other: one more":            func(w *wire.Body) { w.Other = append(w.Other, 0) },
		"other: too long":            func(w *wire.Body) { w.Other = varints(math.MaxUint64) },
		"other: unknown field":       func(w *wire.Body) { w.Other = append(varints(4), 0x08, 1, 0x78, 1) },
		"other: a zero written":      func(w *wire.Body) { w.Other = append(varints(4), 0x08, 1, 0x10, 0) },
		"topic: no such":             func(w *wire.Body) { w.Topic = varints(0, 1, 2, 1, 0) },
		"topic: out of order":        func(w *wire.Body) { w.Topic = varints(1, 0, 1, 0, 1) },
		"topic: one less":            func(w *wire.Body) { w.Topic = varints(0, 1, 0, 1) },
		"topic: one more":            func(w *wire.Body) { w.Topic = append(w.Topic, 0) },
		"topic: 2^63":                func(w *wire.Body) { w.Topic = varints(0, 1<<63, 0, 1, 0) },
		"topics: twice":              func(w *wire.Body) { w.TopicLengths, w.Topics = varints(1, 1), []byte("xx") },
		"topics: unused":             func(w *wire.Body) { w.TopicLengths, w.Topics = varints(1, 2, 1), []byte("xxxy") },
		"topics: cut off":            func(w *wire.Body) { w.Topics = w.Topics[:2] },
		"topics: a byte more":        func(w *wire.Body) { w.Topics = append(w.Topics, 'x') },
		"topics: too long":           func(w *wire.Body) { w.TopicLengths = varints(MaxTopic+1, 2) },
		"flags: QoS 3":               func(w *wire.Body) { w.Flags = varints(3, 5) },
		"flags: unknown":             func(w *wire.Body) { w.Flags = varints(16, 5) },
		"flags: one less":            func(w *wire.Body) { w.Flags = varints(0, 4) },
		"shapes: no such template":   func(w *wire.Body) { w.Shapes = varints(2, 5) },
		"shapes: one more":           func(w *wire.Body) { w.Shapes = append(w.Shapes, 0, 1) },
		"shapes: template unused":    func(w *wire.Body) { w.Shapes = varints(0, 5) },
		"lengths: cut off":           func(w *wire.Body) { w.Lengths = w.Lengths[:1] },
		"lengths: one more":          func(w *wire.Body) { w.Lengths = append(w.Lengths, 0) },
		"lengths: payload too long":  func(w *wire.Body) { w.Lengths = varints(MaxPayload+1, 0) },
		"verbatim: a byte more":      func(w *wire.Body) { w.Verbatim = append(w.Verbatim, 1) },
		"verbatim: cut off":          func(w *wire.Body) { w.Verbatim = w.Verbatim[:1] },
		"templates: too long":        func(w *wire.Body) { w.TemplateLengths = varints(maxTemplate + 1) },
		"templates: a byte more":     func(w *wire.Body) { w.Templates = append(w.Templates, 1) },
		"digits: none":               func(w *wire.Body) { w.Digits = nil },
		"digits: a byte more":        func(w *wire.Body) { w.Digits = append(w.Digits, 0) },
		"digits: no such way":        func(w *wire.Body) { w.Digits[0] = 20 },
		"digits: no such fraction":   func(w *wire.Body) { w.Digits[0] = 39 },
		"digits: negative":           func(w *wire.Body) { w.Digits[1] = 1 },
		"digits: too long a run":     func(w *wire.Body) { w.Digits = append(varints(19), varints(math.MaxUint64, math.MaxUint64, 3)...) },
		"digits: 19 of them":         func(w *wire.Body) { w.Digits = digits(1e18) },
		"digits: below zero":         func(w *wire.Body) { w.Digits = digits(-1) },
		"a field that is not known":  func(w *wire.Body) { w.ProtoReflect().SetUnknown([]byte{0x78, 1}) },
		"a template without a digit": func(w *wire.Body) { w.Templates = bytes.ReplaceAll(w.Templates, []byte("0"), []byte("x")) },
	} {
		w := goodBody(t)
		change(w)
		b, err := proto.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := records(sealBytes(hostileHeader(1, 6), compress(b))); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v, want ErrFrame", name, err)
		}
	}
	b, err := proto.Marshal(goodBody(t))
	if err != nil {
		t.Fatal(err)
	}
	if recs, _, err := records(sealBytes(hostileHeader(1, 6), compress(b))); err != nil || len(recs) != 6 {
		t.Errorf("unchanged: %d records, %v", len(recs), err)
	}
}

// A body that is not one zstd frame of a declared and bounded size is refused.
func TestMalformedCompressionIsRefused(t *testing.T) {
	plain, err := proto.Marshal(goodBody(t))
	if err != nil {
		t.Fatal(err)
	}
	good := compress(plain)
	for name, body := range map[string][]byte{
		"not zstd":         plain,
		"cut off":          good[:len(good)-1],
		"trailing bytes":   append(bytes.Clone(good), 1, 2, 3),
		"two frames":       append(bytes.Clone(good), good...),
		"skippable frame":  append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, good...),
		"empty content":    compress(nil, zstd.WithZeroFrames(true)),
		"no declared size": compress(plain, zstd.WithSingleSegment(false)),
		"a dictionary":     compress(plain, zstd.WithEncoderDictRaw(7, bytes.Repeat([]byte("t=1.07 on "), 9))),
	} {
		if _, _, err := records(sealBytes(hostileHeader(1, 6), body)); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v, want ErrFrame", name, err)
		}
	}
}

// A header that claims more than a frame may have is refused as it is read.
func TestMalformedHeadersAreRefused(t *testing.T) {
	header := func(change func(*wire.Header)) []byte {
		w := Header{Agent: "pi", Epoch: hostileEpoch, First: 1, Last: 6}.wire()
		change(w)
		b, err := proto.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, h := range map[string][]byte{
		"10^9 readings":        header(func(w *wire.Header) { w.Last = 1e9 }),
		"2^64-1 readings":      header(func(w *wire.Header) { w.Last = math.MaxUint64 }),
		"backwards":            header(func(w *wire.Header) { w.Last, w.First = 1, 6 }),
		"no last":              header(func(w *wire.Header) { w.Last = 0 }),
		"no first":             header(func(w *wire.Header) { w.First = 0 }),
		"empty, with a body":   header(func(w *wire.Header) { w.First, w.Last = 0, 0 }),
		"version 0":            header(func(w *wire.Header) { w.Version = 0 }),
		"version 2":            header(func(w *wire.Header) { w.Version = 2 }),
		"no epoch":             header(func(w *wire.Header) { w.Epoch = nil }),
		"agent with a slash":   header(func(w *wire.Header) { w.Agent = "a/b" }),
		"18 open epochs":       header(func(w *wire.Header) { w.Open = make([]*wire.OpenEpoch, 18) }),
		"open epoch of zero":   header(func(w *wire.Header) { w.Open = []*wire.OpenEpoch{{Epoch: &wire.Epoch{}}} }),
		"above its limit":      header(func(w *wire.Header) { w.Traceparent = strings.Repeat("0", MaxHeader) }),
		"long traceparent":     header(func(w *wire.Header) { w.Traceparent = strings.Repeat("0", MaxTraceparent+1) }),
		"not a protobuf":       []byte("{}"),
		"nothing":              nil,
		"not UTF-8":            protowire.AppendString(protowire.AppendTag(header(func(*wire.Header) {}), 2, protowire.BytesType), "\xff"),
		"a group without end":  append(header(func(*wire.Header) {}), 0x7b),
		"nested without bound": append(header(func(*wire.Header) {}), bytes.Repeat([]byte{0x7b}, MaxHeader/2)...),
	} {
		if _, err := ParseFrame(sealBytes(h, []byte{1})); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v, want ErrFrame", name, err)
		}
	}
	if _, err := ParseFrame(make([]byte, MaxFrame+1)); !errors.Is(err, ErrFrame) {
		t.Errorf("above MaxFrame: %v", err)
	}
	if _, err := ParseFrame(sealBytes(header(func(*wire.Header) {}), nil)); !errors.Is(err, ErrFrame) {
		t.Errorf("records without a body: %v", err)
	}
}

// A later version may say more in a header: what is not known there is passed
// over.
func TestUnknownHeaderFieldsArePassedOver(t *testing.T) {
	h := protowire.AppendTag(hostileHeader(0, 0), 1000, protowire.BytesType)
	h = protowire.AppendString(h, "news")
	f, err := ParseFrame(sealBytes(h, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Verify(public(hostileKey)); err != nil || f.Header.Agent != "pi" {
		t.Errorf("%v, agent %q", err, f.Header.Agent)
	}
}

// What a small frame can make us allocate is bounded, however much it claims to
// hold.
func TestBombsAreBounded(t *testing.T) {
	bomb := func(change func(*wire.Body)) []byte {
		w := &wire.Body{
			Kinds: binary.AppendUvarint([]byte{1}, MaxRecords), Flags: binary.AppendUvarint([]byte{0}, MaxRecords),
			Boot: append([]byte{0, 0, 0}, bytes.Repeat([]byte{0xff}, MaxRecords/8)...), Wall: append([]byte{0, 0, 0}, bytes.Repeat([]byte{0xff}, MaxRecords/8)...),
			Topic: make([]byte, MaxRecords), TopicLengths: []byte{1}, Topics: []byte("t"),
			Shapes: binary.AppendUvarint([]byte{1}, MaxRecords),
		}
		change(w)
		b, err := proto.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		return sealBytes(hostileHeader(1, MaxRecords), compress(b))
	}
	text := func(w *wire.Body, s string) {
		w.TemplateLengths, w.Templates = binary.AppendUvarint(nil, uint64(len(s))), []byte(s)
	}
	for name, b := range map[string][]byte{
		"gigabytes of zeros": sealBytes(hostileHeader(1, 1), zeros(2<<30)),
		"more than declared": sealBytes(hostileHeader(1, 1), append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 9}, rleBlocks(1000)...)),
		"text 65536 times":   bomb(func(w *wire.Body) { text(w, strings.Repeat("x", maxTemplate)) }),
		"runs 65536 times": bomb(func(w *wire.Body) {
			text(w, strings.Repeat("0", maxTemplate))
			w.Digits = bytes.Repeat([]byte{0xff}, 7<<20)
		}),
		"empty topics": bomb(func(w *wire.Body) { w.TopicLengths = make([]byte, 7<<20) }),
		"empty templates": bomb(func(w *wire.Body) {
			w.TemplateLengths = make([]byte, 7<<20)
		}),
		"a body of one column": bomb(func(w *wire.Body) { w.Digits = make([]byte, MaxBody-1<<20) }),
	} {
		_, allocated, err := records(b)
		if !errors.Is(err, ErrFrame) || allocated > maxAllocated {
			t.Errorf("%s: %d bytes of frame made %d MiB, %v", name, len(b), allocated>>20, err)
		}
	}
}

// zeros returns a zstd frame that declares and holds n zeros.
func zeros(n uint64) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}
	b = binary.LittleEndian.AppendUint64(b, n)
	return append(b, rleBlocks(int(n>>17))...)
}

// rleBlocks returns n blocks of 128 KiB of zeros each.
func rleBlocks(n int) (b []byte) {
	for i := range n {
		h := uint32(1<<17)<<3 | 1<<1
		if i == n-1 {
			h |= 1
		}
		b = append(b, byte(h), byte(h>>8), byte(h>>16), 0)
	}
	return b
}

// The largest frames that are good stay within the same bound.
func TestTheLargestGoodFramesAreBounded(t *testing.T) {
	losses, topics := make([]Record, 40000), make([]Record, MaxRecords)
	for i := range losses {
		losses[i] = Record{Seq: 1 + uint64(i), Kind: KindLoss, Loss: &Loss{
			Epoch: hostileEpoch, Seqs: Range{1, 2}, Reason: ReasonOversized, First: Instant{1, 2}, Last: Instant{3, 4},
			Oversized: &Oversized{Topic: "a topic that is somewhat long"},
		}}
	}
	for i := range topics {
		topics[i] = Record{Seq: 1 + uint64(i), Kind: KindReading, Reading: &Reading{
			Topic: strings.Repeat("t", 30) + string(binary.BigEndian.AppendUint16(nil, uint16(i))), Payload: bytes.Repeat([]byte("v"), 90),
		}}
	}
	for name, recs := range map[string][]Record{"losses": losses, "topics": topics} {
		b, err := EncodeFrame(Header{Agent: "pi", Epoch: hostileEpoch, First: 1, Last: uint64(len(recs))}, recs, hostileKey)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, allocated, err := records(b)
		if err != nil || len(got) != len(recs) || allocated > maxAllocated {
			t.Errorf("%s: %d bytes of frame made %d MiB, %v", name, len(b), allocated>>20, err)
		}
		t.Logf("%s: %d bytes of frame, %d MiB allocated", name, len(b), allocated>>20)
	}
}
