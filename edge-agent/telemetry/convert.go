package telemetry

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/internal/wire"
)

func (e Epoch) wire() *wire.Epoch {
	if e.IsZero() {
		return nil
	}
	return &wire.Epoch{Ordinal: e.Ordinal, Id: binary.BigEndian.Uint64(e.ID[:])}
}

func epochOf(w *wire.Epoch) Epoch {
	e := Epoch{Ordinal: w.GetOrdinal()}
	binary.BigEndian.PutUint64(e.ID[:], w.GetId())
	return e
}

func (i Instant) wire() *wire.Instant {
	if i == (Instant{}) {
		return nil
	}
	return &wire.Instant{Boot: int64(i.Boot), Wall: i.Wall}
}

func instantOf(w *wire.Instant) Instant {
	return Instant{Boot: time.Duration(w.GetBoot()), Wall: w.GetWall()}
}

// flags returns how the wire has QoS, Dup and Retained.
func (r *Reading) flags() uint64 {
	f := uint64(r.QoS)
	if r.Dup {
		f |= flagDup
	}
	if r.Retained {
		f |= flagRetained
	}
	return f
}

const (
	flagQoS      = 3
	flagDup      = 4
	flagRetained = 8
)

func (r *Reading) setFlags(f uint64) error {
	if f&flagQoS == 3 || f > flagQoS|flagDup|flagRetained {
		return fmt.Errorf("flags %d", f)
	}
	r.QoS, r.Dup, r.Retained = uint8(f&flagQoS), f&flagDup != 0, f&flagRetained != 0
	return nil
}

// check returns an error unless the record has the part that its kind names,
// that part alone, and within the limits.
func (r *Record) check() error {
	parts := [...]bool{KindReading: r.Reading != nil, KindLoss: r.Loss != nil, KindAnchor: r.Anchor != nil, KindStart: r.Start != nil}
	if r.Kind == 0 || int(r.Kind) >= len(parts) {
		return fmt.Errorf("kind %d", r.Kind)
	}
	for k, set := range parts {
		if set != (Kind(k) == r.Kind) {
			return fmt.Errorf("kind %d, and part %d is set: %t", r.Kind, k, set)
		}
	}
	switch r.Kind {
	case KindReading:
		return r.Reading.check()
	case KindLoss:
		return r.Loss.check()
	case KindStart:
		return r.Start.check()
	}
	return nil
}

func (r *Reading) check() error {
	switch {
	case len(r.Payload) > MaxPayload:
		return fmt.Errorf("payload of %d bytes, at most %d", len(r.Payload), MaxPayload)
	case len(r.Topic) > MaxTopic:
		return fmt.Errorf("topic of %d bytes, at most %d", len(r.Topic), MaxTopic)
	case r.QoS > 2:
		return fmt.Errorf("QoS %d", r.QoS)
	}
	return nil
}

func (l *Loss) check() error {
	switch {
	case l.Reason == 0:
		return errors.New("loss without a reason")
	case l.Oversized != nil && len(l.Oversized.Topic) > MaxTopic:
		return fmt.Errorf("topic of %d bytes, at most %d", len(l.Oversized.Topic), MaxTopic)
	}
	return nil
}

func (s *Start) check() error {
	if len(s.Version) > MaxVersion {
		return fmt.Errorf("version of %d bytes, at most %d", len(s.Version), MaxVersion)
	}
	return nil
}

// appendOther appends a record that is no reading.
func appendOther(w *wire.Body, r *Record) error {
	var m proto.Message
	switch r.Kind {
	case KindLoss:
		m = r.Loss.wire()
	case KindAnchor:
		m = &wire.Anchor{Synchronised: r.Anchor.Synchronised, Moved: int64(r.Anchor.Moved), MaxError: int64(r.Anchor.MaxError)}
	case KindStart:
		m = r.Start.wire()
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("%w: seq %d: %w", ErrFrame, r.Seq, err)
	}
	w.Other = protowire.AppendBytes(w.Other, b)
	return nil
}

// decodeOther reads what appendOther wrote into r, whose kind is set.
func decodeOther(r *Record, b []byte) error {
	switch r.Kind {
	case KindLoss:
		return r.decodeLoss(b)
	case KindAnchor:
		return r.decodeAnchor(b)
	case KindStart:
		return r.decodeStart(b)
	}
	return fmt.Errorf("kind %d", r.Kind)
}

var errFields = errors.New("fields that this version does not know, or would write otherwise")

// unmarshalStrict refuses b unless m accounts for every byte of it: to ignore a
// part of a record would be to lose it.
func unmarshalStrict(b []byte, m proto.Message) error {
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
		return err
	}
	if proto.Size(m) != len(b) {
		return errFields
	}
	return nil
}

func (l *Loss) wire() *wire.Loss {
	w := &wire.Loss{
		Epoch: l.Epoch.wire(), First: l.Seqs.First, Last: l.Seqs.Last, Reason: uint32(l.Reason),
		Count: l.Count, Bytes: l.Bytes, FirstAt: l.First.wire(), LastAt: l.Last.wire(),
	}
	if o := l.Oversized; o != nil {
		w.Oversized = &wire.Oversized{Topic: []byte(o.Topic), Size: o.Size, Sha256: o.SHA256[:]}
	}
	return w
}

func (r *Record) decodeLoss(b []byte) error {
	var w wire.Loss
	if err := unmarshalStrict(b, &w); err != nil {
		return fmt.Errorf("loss: %w", err)
	}
	if w.Reason > math.MaxUint8 {
		return fmt.Errorf("reason %d", w.Reason)
	}
	r.Loss = &Loss{
		Epoch: epochOf(w.Epoch), Seqs: Range{w.First, w.Last}, Reason: Reason(w.Reason),
		Count: w.Count, Bytes: w.Bytes, First: instantOf(w.FirstAt), Last: instantOf(w.LastAt),
	}
	if o := w.Oversized; o != nil {
		if len(o.Sha256) != sha256.Size {
			return fmt.Errorf("SHA-256 of %d bytes", len(o.Sha256))
		}
		r.Loss.Oversized = &Oversized{Topic: string(o.Topic), Size: o.Size, SHA256: [sha256.Size]byte(o.Sha256)}
	}
	return r.Loss.check()
}

func (r *Record) decodeAnchor(b []byte) error {
	var w wire.Anchor
	if err := unmarshalStrict(b, &w); err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	r.Anchor = &Anchor{Synchronised: w.Synchronised, Moved: time.Duration(w.Moved), MaxError: time.Duration(w.MaxError)}
	return nil
}

func (s *Start) wire() *wire.Start {
	return &wire.Start{
		Previous: s.Previous.wire(), PreviousLast: s.PreviousLast, PreviousClean: s.PreviousClean,
		Boot: s.Boot[:], Version: []byte(s.Version),
	}
}

func (r *Record) decodeStart(b []byte) error {
	var w wire.Start
	if err := unmarshalStrict(b, &w); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if len(w.Boot) != bootSize {
		return fmt.Errorf("boot id of %d bytes", len(w.Boot))
	}
	r.Start = &Start{
		Previous: epochOf(w.Previous), PreviousLast: w.PreviousLast, PreviousClean: w.PreviousClean,
		Boot: [bootSize]byte(w.Boot), Version: string(w.Version),
	}
	return r.Start.check()
}

// bootSize is the length of a boot id in bytes.
const bootSize = 16

// nanos returns nanoseconds since 1970, and 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeOf(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos).UTC()
}
