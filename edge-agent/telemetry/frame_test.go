package telemetry_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// open encodes, parses, verifies and decodes.
func open(t testing.TB, h telemetry.Header, recs []telemetry.Record) (telemetry.Header, []telemetry.Record) {
	t.Helper()
	b, err := telemetry.EncodeFrame(h, recs, testKey)
	if err != nil {
		t.Fatal(err)
	}
	f, err := telemetry.ParseFrame(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Verify(testPub); err != nil {
		t.Fatal(err)
	}
	got, err := f.Records()
	if err != nil {
		t.Fatal(err)
	}
	return f.Header, got
}

// sameRecords compares payloads by content: nil and empty are the same.
func sameRecords(t testing.TB, got, want []telemetry.Record) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range want {
		g, w := got[i], want[i]
		if g.Reading != nil && w.Reading != nil {
			if !bytes.Equal(g.Reading.Payload, w.Reading.Payload) {
				t.Fatalf("seq %d: payload %.200q, want %.200q", w.Seq, g.Reading.Payload, w.Reading.Payload)
			}
			gr, wr := *g.Reading, *w.Reading
			gr.Payload, wr.Payload = nil, nil
			g.Reading, w.Reading = &gr, &wr
		}
		if !reflect.DeepEqual(g, w) {
			t.Fatalf("seq %d: got %s, want %s", w.Seq, render(g), render(w))
		}
	}
}

// Whatever records there are, they come out as they went in, and so does the
// header. The seed of a failure is in its name.
func TestFramesRoundTrip(t *testing.T) {
	for range 300 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			m := maker{rand.New(rand.NewPCG(seed, 0))}
			recs := m.records()
			h := m.header(recs)
			gotHeader, got := open(t, h, recs)
			if !reflect.DeepEqual(gotHeader, h) {
				t.Errorf("header %+v, want %+v", gotHeader, h)
			}
			sameRecords(t, got, recs)
		})
	}
}

// maker makes records of every kind, with the values that are easily got wrong.
type maker struct{ *rand.Rand }

func (m maker) records() []telemetry.Record {
	n := m.IntN(60)
	if m.IntN(10) == 0 {
		n = m.IntN(3000)
	}
	first := 1 + m.Uint64N(1<<40)
	topics, shapes := 1+m.IntN(8), 1+m.IntN(4)
	recs := make([]telemetry.Record, n)
	for i := range recs {
		recs[i] = m.record(topics, shapes)
		recs[i].Seq = first + uint64(i)
	}
	return recs
}

func (m maker) record(topics, shapes int) telemetry.Record {
	r := telemetry.Record{Kind: telemetry.KindReading, At: m.instant()}
	if m.IntN(10) == 0 {
		r.Kind = telemetry.Kind(2 + m.IntN(3))
	}
	switch r.Kind {
	case telemetry.KindLoss:
		r.Loss = m.loss()
	case telemetry.KindAnchor:
		r.Anchor = &telemetry.Anchor{Synchronised: m.IntN(2) == 0, Moved: time.Duration(m.number()), MaxError: time.Duration(m.number())}
	case telemetry.KindStart:
		r.Start = &telemetry.Start{Previous: m.epoch(), PreviousLast: m.Uint64(), PreviousClean: m.IntN(2) == 0, Version: "v1.2.3"}
		r.Start.Boot[m.IntN(16)] = byte(m.Uint64())
	default:
		r.Reading = &telemetry.Reading{
			Topic: fmt.Sprintf("a/%d", m.IntN(topics)), QoS: uint8(m.IntN(3)), Dup: m.IntN(9) == 0, Retained: m.IntN(9) == 0,
			Payload: m.payload(m.IntN(shapes)),
		}
	}
	return r
}

func (m maker) loss() *telemetry.Loss {
	l := &telemetry.Loss{
		Epoch: m.epoch(), Seqs: telemetry.Range{First: m.Uint64(), Last: m.Uint64()}, Reason: telemetry.Reason(1 + m.IntN(6)),
		Count: m.Uint64(), Bytes: m.Uint64(), First: m.instant(), Last: m.instant(),
	}
	if l.Reason == telemetry.ReasonOversized {
		l.Oversized = &telemetry.Oversized{Topic: "not \xff UTF-8", Size: m.Uint64()}
		l.Oversized.SHA256[3] = 7
	}
	return l
}

func (m maker) epoch() telemetry.Epoch {
	e := telemetry.Epoch{Ordinal: m.Uint64N(1000)}
	for i := range e.ID {
		e.ID[i] = byte(m.Uint64())
	}
	return e
}

func (m maker) instant() telemetry.Instant {
	return telemetry.Instant{Boot: time.Duration(m.number()), Wall: m.number()}
}

// number is mostly ordinary, and sometimes as far out as can be.
func (m maker) number() int64 {
	switch m.IntN(20) {
	case 0:
		return math.MinInt64
	case 1:
		return math.MaxInt64
	case 2:
		return 0
	}
	return int64(m.Uint64() >> m.IntN(64))
}

// payload returns bytes of one of several shapes, most with numbers in them.
func (m maker) payload(shape int) []byte {
	digits := func() string {
		switch m.IntN(12) {
		case 0:
			return strings.Repeat("0", m.IntN(4))
		case 1:
			return fmt.Sprintf("%0*d", 1+m.IntN(30), m.IntN(1000))
		case 2:
			return strings.Repeat("9", 1+m.IntN(25))
		}
		return fmt.Sprint(m.IntN(10000))
	}
	switch shape {
	case 0:
		return fmt.Appendf(nil, `{"t":%d.%02d,"seq":%d}`, m.IntN(40)-20, m.IntN(100), m.IntN(1<<30))
	case 1:
		return []byte(digits() + "," + digits() + digits() + ";" + digits())
	case 2:
		return nil
	}
	return m.noise(m.IntN(200))
}

// noise returns n bytes that nothing can compress.
func (m maker) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.Uint64())
	}
	return b
}

func (m maker) header(recs []telemetry.Record) telemetry.Header {
	h := telemetry.Header{Agent: "pi-1", Epoch: m.epoch(), OpenTotal: m.Uint64(), Sent: m.instant()}
	if len(recs) > 0 {
		h.First, h.Last = recs[0].Seq, recs[len(recs)-1].Seq
	}
	if m.IntN(2) == 0 {
		h.Traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	}
	for i := range m.IntN(telemetry.MaxOpen + 1) {
		o := telemetry.OpenEpoch{Epoch: m.epoch(), Lowest: m.Uint64(), Durable: m.Uint64(), Trimmed: m.Uint64()}
		if i == 0 {
			o.Epoch = h.Epoch
		}
		h.Open = append(h.Open, o)
	}
	return h
}

// A frame without records is a good frame: it says what is on the device.
func TestAFrameMayBeEmpty(t *testing.T) {
	h := fullHeader(1, 1)
	h.First, h.Last = 0, 0
	got, recs := open(t, h, nil)
	if len(recs) != 0 || !reflect.DeepEqual(got, h) {
		t.Errorf("%d records, header %+v", len(recs), got)
	}
}

// One record at every limit fits into a frame, even when nothing in it can be
// compressed: otherwise an outbox could hold what can never leave it.
func TestTheLargestRecordFits(t *testing.T) {
	m := maker{rand.New(rand.NewPCG(1, 1))}
	payload, topic := m.noise(telemetry.MaxPayload), m.noise(telemetry.MaxTopic)
	recs := []telemetry.Record{{Seq: math.MaxUint64, Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: string(topic), Payload: payload}}}
	h := m.header(recs)
	h.Agent = strings.Repeat("a", 63)
	h.Traceparent = strings.Repeat("t", telemetry.MaxTraceparent)
	h.Open = nil
	for range telemetry.MaxOpen {
		h.Open = append(h.Open, telemetry.OpenEpoch{Epoch: m.epoch(), Lowest: math.MaxUint64, Durable: math.MaxUint64, Trimmed: math.MaxUint64})
	}
	_, got := open(t, h, recs)
	sameRecords(t, got, recs)
}

// A full frame of the most records comes out as it went in.
func TestTheMostRecordsFit(t *testing.T) {
	recs := make([]telemetry.Record, telemetry.MaxRecords)
	for i := range recs {
		recs[i] = telemetry.Record{
			Seq: 7 + uint64(i), Kind: telemetry.KindReading, At: telemetry.Instant{Boot: time.Duration(i) * time.Millisecond},
			Reading: &telemetry.Reading{Topic: fmt.Sprint("t/", i%300), Payload: fmt.Appendf(nil, "%d.%d", i%50, i%7)},
		}
	}
	_, got := open(t, fullHeader(7, 7+telemetry.MaxRecords-1), recs)
	sameRecords(t, got, recs)
}

// What no frame can hold is refused, and what only fewer records can is told apart.
func TestEncodeFrameRefuses(t *testing.T) {
	one := func(change func(*telemetry.Record)) []telemetry.Record {
		r := telemetry.Record{Seq: 5, Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "t"}}
		change(&r)
		return []telemetry.Record{r}
	}
	noise := maker{rand.New(rand.NewPCG(1, 1))}.noise(telemetry.MaxPayload)
	big := make([]telemetry.Record, 3)
	for i := range big {
		big[i] = telemetry.Record{Seq: 5 + uint64(i), Kind: telemetry.KindReading, Reading: &telemetry.Reading{Payload: noise[i:]}}
	}
	bulk := make([]telemetry.Record, 17)
	for i := range bulk {
		bulk[i] = telemetry.Record{Seq: 5 + uint64(i), Kind: telemetry.KindReading, Reading: &telemetry.Reading{Payload: make([]byte, telemetry.MaxPayload)}}
	}
	header := func(change func(*telemetry.Header)) telemetry.Header {
		h := fullHeader(5, 5)
		change(&h)
		return h
	}
	good := one(func(*telemetry.Record) {})
	for name, c := range map[string]struct {
		h    telemetry.Header
		recs []telemetry.Record
		want error
	}{
		"wrong seq":        {fullHeader(6, 6), good, telemetry.ErrFrame},
		"too few":          {fullHeader(5, 6), good, telemetry.ErrFrame},
		"none for a range": {fullHeader(5, 5), nil, telemetry.ErrFrame},
		"no kind":          {fullHeader(5, 5), one(func(r *telemetry.Record) { r.Kind = 0 }), telemetry.ErrFrame},
		"unknown kind":     {fullHeader(5, 5), one(func(r *telemetry.Record) { r.Kind = 9 }), telemetry.ErrFrame},
		"missing part":     {fullHeader(5, 5), one(func(r *telemetry.Record) { r.Reading = nil }), telemetry.ErrFrame},
		"two parts":        {fullHeader(5, 5), one(func(r *telemetry.Record) { r.Anchor = &telemetry.Anchor{} }), telemetry.ErrFrame},
		"QoS 3":            {fullHeader(5, 5), one(func(r *telemetry.Record) { r.Reading.QoS = 3 }), telemetry.ErrFrame},
		"long topic":       {fullHeader(5, 5), one(func(r *telemetry.Record) { r.Reading.Topic = strings.Repeat("t", telemetry.MaxTopic+1) }), telemetry.ErrFrame},
		"long payload":     {fullHeader(5, 5), one(func(r *telemetry.Record) { r.Reading.Payload = make([]byte, telemetry.MaxPayload+1) }), telemetry.ErrFrame},
		"bad agent":        {header(func(h *telemetry.Header) { h.Agent = "Pi" }), good, telemetry.ErrFrame},
		"no epoch":         {header(func(h *telemetry.Header) { h.Epoch = telemetry.Epoch{} }), good, telemetry.ErrFrame},
		"backwards":        {header(func(h *telemetry.Header) { h.First = 6 }), good, telemetry.ErrFrame},
		"long traceparent": {header(func(h *telemetry.Header) { h.Traceparent = strings.Repeat("0", 129) }), good, telemetry.ErrFrame},
		"open of no epoch": {header(func(h *telemetry.Header) { h.Open[1].Epoch = telemetry.Epoch{} }), good, telemetry.ErrFrame},
		"too many open":    {header(func(h *telemetry.Header) { h.Open = make([]telemetry.OpenEpoch, 18) }), good, telemetry.ErrFrame},
		"too many bytes":   {fullHeader(5, 7), big, telemetry.ErrFrameTooLarge},
		"too many zeros":   {fullHeader(5, 21), bulk, telemetry.ErrFrameTooLarge},
		"too many records": {fullHeader(5, 5), make([]telemetry.Record, telemetry.MaxRecords+1), telemetry.ErrFrameTooLarge},
	} {
		if _, err := telemetry.EncodeFrame(c.h, c.recs, testKey); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// No bit of a frame can be changed without ParseFrame or Verify noticing, and
// no byte be taken from its end or put there.
func TestEveryBitIsSigned(t *testing.T) {
	frame, err := telemetry.EncodeFrame(fullHeader(10, 14), newGreenhouse(3).readings(10, 5), testKey)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, b []byte) {
		t.Helper()
		f, err := telemetry.ParseFrame(b)
		if err != nil {
			if !errors.Is(err, telemetry.ErrFrame) {
				t.Errorf("%s: %v, want ErrFrame", what, err)
			}
			return
		}
		if err := f.Verify(testPub); !errors.Is(err, telemetry.ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", what, err)
		}
		if _, err := f.Records(); !errors.Is(err, telemetry.ErrSignature) {
			t.Errorf("%s: records: %v, want ErrSignature", what, err)
		}
	}
	for bit := range 8 * len(frame) {
		b := bytes.Clone(frame)
		b[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprintf("bit %d changed", bit), b)
	}
	for n := range frame {
		refused(fmt.Sprintf("cut at %d", n), frame[:n])
	}
	refused("a byte more", append(bytes.Clone(frame), 0))
	refused("a field more", append(bytes.Clone(frame), 0x22, 0))
	refused("twice", append(bytes.Clone(frame), frame...))
}

// Records are not given out before the signature was found good, and a
// signature by another key, or a key of the wrong length, is not.
func TestRecordsNeedAGoodSignature(t *testing.T) {
	b, err := telemetry.EncodeFrame(fullHeader(10, 10), newGreenhouse(3).readings(10, 1), testKey)
	if err != nil {
		t.Fatal(err)
	}
	f, err := telemetry.ParseFrame(b)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []ed25519.PublicKey{other, nil, testPub[:31]} {
		if err := f.Verify(key); !errors.Is(err, telemetry.ErrSignature) {
			t.Errorf("verify with %x: %v", key, err)
		}
		if _, err := f.Records(); !errors.Is(err, telemetry.ErrSignature) {
			t.Errorf("records after %x: %v", key, err)
		}
	}
}

// Two encodings that say the same have the same digest, also where the bytes
// come from somewhere else; another seq makes another digest.
func TestTheDigestIsOfTheContent(t *testing.T) {
	digest := func(first uint64) [32]byte {
		b, err := telemetry.EncodeFrame(fullHeader(first, first+3), newGreenhouse(3).readings(first, 4), testKey)
		if err != nil {
			t.Fatal(err)
		}
		f, err := telemetry.ParseFrame(b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(f.Bytes(), b) {
			t.Error("Bytes are not the frame's")
		}
		return f.Digest()
	}
	first, again, other := digest(10), digest(10), digest(11)
	if first != again || first == other {
		t.Error("digests do not follow the content")
	}
}

// At 100 readings a frame, header, signature and all, a reading takes at most
// 0.13 of its JSON.
func TestFramesAreSmall(t *testing.T) {
	for seed := range uint64(20) {
		recs := newGreenhouse(seed).readings(5000, 100)
		b, err := telemetry.EncodeFrame(fullHeader(5000, 5099), recs, testKey)
		if err != nil {
			t.Fatal(err)
		}
		if ratio := float64(len(b)) / float64(payloadBytes(recs)); ratio > 0.13 {
			t.Errorf("seed %d: %d bytes for %d of JSON: %.3f", seed, len(b), payloadBytes(recs), ratio)
		}
	}
}
