package telemetry

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/internal/wire"
)

// window bounds the memory of the encoder; frames are mostly smaller.
const window = 256 << 10

// encoder and decoder are made at their first use and shared: making one costs
// more than a frame does, and both are safe for concurrent use.
var (
	encoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
			zstd.WithWindowSize(window), zstd.WithSingleSegment(true), // so that the size is always declared
			zstd.WithAllLitEntropyCompression(true), zstd.WithEncoderCRC(false)) // the signature covers every byte
	})
	decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxBody), zstd.WithDecoderMaxWindow(MaxBody),
			zstd.WithDecoderLowmem(true), zstd.IgnoreChecksum(true))
	})
)

// encodeBody returns the compressed body of a frame; nothing for no records.
func encodeBody(first uint64, recs []Record) ([]byte, error) {
	if len(recs) == 0 {
		return nil, nil
	}
	w, err := columnsOf(first, recs)
	if err != nil {
		return nil, err
	}
	plain, err := proto.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("%w: body: %w", ErrFrame, err)
	}
	if len(plain) > MaxBody {
		return nil, fmt.Errorf("%w: body of %d bytes, at most %d", ErrFrameTooLarge, len(plain), MaxBody)
	}
	e, err := encoder()
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	return e.EncodeAll(plain, nil), nil
}

// columnsOf turns records into columns.
func columnsOf(first uint64, recs []Record) (*wire.Body, error) {
	w := &wire.Body{}
	var kinds, flags runs
	boots, skews := make([]int64, len(recs)), make([]int64, len(recs))
	topics := newTopics(len(recs))
	for i := range recs {
		r := &recs[i]
		if r.Seq != first+uint64(i) {
			return nil, fmt.Errorf("%w: seq %d where %d belongs", ErrFrame, r.Seq, first+uint64(i))
		}
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("%w: seq %d: %w", ErrFrame, r.Seq, err)
		}
		kinds.add(uint64(r.Kind))
		boots[i], skews[i] = int64(r.At.Boot), r.At.Wall-int64(r.At.Boot)
		if r.Kind != KindReading {
			if err := appendOther(w, r); err != nil {
				return nil, err
			}
			continue
		}
		flags.add(r.Reading.flags())
		w.Topic = binary.AppendUvarint(w.Topic, topics.add(r.Reading))
	}
	w.Boot, w.Wall = appendNumbers(nil, boots), appendNumbers(nil, skews)
	w.Kinds, w.Flags = kinds.bytes(), flags.bytes()
	for _, t := range topics.names {
		w.TopicLengths = binary.AppendUvarint(w.TopicLengths, uint64(len(t)))
		w.Topics = append(w.Topics, t...)
	}
	payloads := topics.payloads()
	size := len(w.Topics)
	for _, p := range payloads {
		size += len(p)
	}
	if size > MaxBody {
		return nil, fmt.Errorf("%w: topics and payloads of %d bytes, at most %d", ErrFrameTooLarge, size, MaxBody)
	}
	appendPayloads(w, payloads)
	return w, nil
}

// decodeBody reads n records whose first seq is given. It allocates in
// proportion to what the body really holds, not to what it claims.
func decodeBody(b []byte, first uint64, n int) ([]Record, error) {
	if n == 0 {
		return nil, nil
	}
	plain, err := decompress(b)
	if err != nil {
		return nil, err
	}
	var w wire.Body
	if err := unmarshalStrict(plain, &w); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	if 8*len(w.Boot) < n || 8*len(w.Wall) < n { // a number takes a bit at least
		return nil, fmt.Errorf("times of %d and %d bytes for %d records", len(w.Boot), len(w.Wall), n)
	}
	recs := make([]Record, n)
	readings, err := decodeRecords(&w, first, recs)
	if err != nil {
		return nil, err
	}
	return recs, decodeReadings(&w, recs, readings)
}

// decompress returns what the one zstd frame in b holds. It refuses a frame
// that does not say its size, or says more than MaxBody, before it allocates.
func decompress(b []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if h.Skippable || !h.HasFCS || h.FrameContentSize > MaxBody {
		return nil, fmt.Errorf("zstd: content of %d bytes declared, want 1 to %d", h.FrameContentSize, MaxBody)
	}
	d, err := decoder()
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	plain, err := d.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if uint64(len(plain)) != h.FrameContentSize {
		return nil, fmt.Errorf("zstd: %d bytes where %d were declared", len(plain), h.FrameContentSize)
	}
	return plain, nil
}

// decodeRecords fills in all but the readings, and returns how many those are.
func decodeRecords(w *wire.Body, first uint64, recs []Record) (readings int, err error) {
	kinds, boots, walls, other := column{b: w.Kinds}, column{b: w.Boot}, column{b: w.Wall}, column{b: w.Other}
	boot, skew := boots.numbers(len(recs)), walls.numbers(len(recs))
	for i := range recs {
		at := boot.next()
		kind := kinds.next()
		recs[i] = Record{
			Seq:  first + uint64(i),
			At:   Instant{Boot: time.Duration(at), Wall: at + skew.next()},
			Kind: Kind(min(kind, math.MaxUint8)),
		}
		if recs[i].Kind == KindReading {
			readings++
			continue
		}
		if err := decodeOther(&recs[i], other.take(other.uvarint())); err != nil {
			return 0, fmt.Errorf("seq %d: %w", recs[i].Seq, err)
		}
	}
	return readings, endAll(named{"kinds", &kinds}, named{"boot", &boots}, named{"wall", &walls}, named{"other", &other})
}

// decodeReadings fills in the n readings.
func decodeReadings(w *wire.Body, recs []Record, n int) error {
	if len(w.Topic) < n {
		return fmt.Errorf("topic indices of %d bytes for %d readings", len(w.Topic), n)
	}
	names, err := decodeTopics(w)
	if err != nil {
		return err
	}
	readings, index, used := make([]Reading, n), make([]int, n), 0
	topic, flags := column{b: w.Topic}, column{b: w.Flags}
	for i := range readings {
		if index[i], err = firstUse(topic.uvarint(), len(names), &used); err != nil {
			return fmt.Errorf("topic: %w", err)
		}
		if err := readings[i].setFlags(flags.next()); err != nil {
			return err
		}
		readings[i].Topic = names[index[i]]
	}
	if err := endAll(named{"topic", &topic}, named{"flags", &flags}); err != nil {
		return err
	}
	if used != len(names) {
		return fmt.Errorf("%d topics, %d of them used", len(names), used)
	}
	payloads, err := decodePayloads(w, n)
	if err != nil {
		return err
	}
	for i, at := range group(index, len(names)).order {
		readings[at].Payload = payloads[i]
	}
	for i := range recs {
		if recs[i].Kind == KindReading {
			recs[i].Reading, readings = &readings[0], readings[1:]
		}
	}
	return nil
}

// decodeTopics reads the topics, of which no two may be equal.
func decodeTopics(w *wire.Body) ([]string, error) {
	pieces, err := split(w.TopicLengths, w.Topics, MaxTopic)
	if err != nil {
		return nil, fmt.Errorf("topics: %w", err)
	}
	names := make([]string, len(pieces))
	seen := make(map[string]struct{}, len(pieces))
	for i, p := range pieces {
		names[i] = string(p)
		if _, twice := seen[names[i]]; twice {
			return nil, fmt.Errorf("topic %.64q comes twice", names[i])
		}
		seen[names[i]] = struct{}{}
	}
	return names, nil
}

type named struct {
	name string
	c    *column
}

func endAll(columns ...named) error {
	for _, c := range columns {
		if err := c.c.end(); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}
