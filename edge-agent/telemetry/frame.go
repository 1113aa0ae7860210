package telemetry

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/internal/wire"
)

// ErrFrame is returned, wrapped with what is wrong, for bytes that are no frame
// of a version known here, and for a header or records that no frame can hold.
var ErrFrame = errors.New("frame")

// ErrFrameTooLarge is returned by EncodeFrame for records that do not fit into
// one frame. Fewer of them do: one record within the limits always fits.
var ErrFrameTooLarge = errors.New("frame too large")

// ErrSignature is returned for a frame, receipt or enrolment that was not signed
// by the key it was checked with, and by Records before a Verify that succeeded.
var ErrSignature = errors.New("wrong signature")

// version is the only version of the wire format so far.
const version = 1

// frameDomain keeps a frame's signature from being taken for anything else's.
const frameDomain = "holdfast/frame/1"

// Header says whose frame it is and what else is on the device.
type Header struct {
	Agent       string // see ValidateAgent
	Epoch       Epoch  // never zero
	First, Last uint64 // seqs of the records; both 0 in an empty frame, which says only what is on the device
	Traceparent string // W3C trace context; may be empty
	// Open is a page of the epochs that the device still has records of: the
	// frame's own first, and at most 16 others.
	Open      []OpenEpoch
	OpenTotal uint64  // how many epochs are open on the device
	Sent      Instant // when the frame was cut
}

// SealedFrame is a frame as it came. Its header has been read and is within the
// limits, but proves nothing before Verify.
type SealedFrame struct {
	Header Header

	raw, header, body, signature []byte
	verified                     bool
}

// EncodeFrame returns the frame that carries recs, whose seqs must run from
// h.First to h.Last, signed with the agent's key. It returns ErrFrameTooLarge
// when there is too much in it for MaxFrame, MaxBody or MaxRecords, and ErrFrame
// for what no frame can hold.
func EncodeFrame(h Header, recs []Record, key ed25519.PrivateKey) ([]byte, error) {
	if len(recs) > MaxRecords {
		return nil, fmt.Errorf("%w: %d records, at most %d", ErrFrameTooLarge, len(recs), MaxRecords)
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	if uint64(len(recs)) != h.records() {
		return nil, fmt.Errorf("%w: %d records for seqs %d to %d", ErrFrame, len(recs), h.First, h.Last)
	}
	header, err := proto.Marshal(h.wire())
	if err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrFrame, err)
	}
	body, err := encodeBody(h.First, recs)
	if err != nil {
		return nil, err
	}
	signature := sign(key, frameDomain, header, body)
	size := fieldSize(header) + fieldSize(body) + fieldSize(signature)
	if size > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrFrameTooLarge, size, MaxFrame)
	}
	return appendFields(make([]byte, 0, size), header, body, signature), nil
}

// ParseFrame reads the outside of a frame and its header. It decompresses
// nothing and does not check the signature. The frame keeps b, which must not
// change afterwards. It returns ErrFrame.
func ParseFrame(b []byte) (*SealedFrame, error) {
	if len(b) > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrFrame, len(b), MaxFrame)
	}
	f := &SealedFrame{raw: b}
	if err := splitFields(b, &f.header, &f.body, &f.signature); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	if len(f.header) > MaxHeader {
		return nil, fmt.Errorf("%w: header of %d bytes, at most %d", ErrFrame, len(f.header), MaxHeader)
	}
	var w wire.Header
	if err := proto.Unmarshal(f.header, &w); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrFrame, err)
	}
	if w.Version != version {
		return nil, fmt.Errorf("%w: version %d, want %d", ErrFrame, w.Version, version)
	}
	if len(w.Open) > MaxOpen {
		return nil, fmt.Errorf("%w: %d open epochs, at most %d", ErrFrame, len(w.Open), MaxOpen)
	}
	f.Header = headerOf(&w)
	if err := f.Header.check(); err != nil {
		return nil, err
	}
	if (f.Header.First == 0) != (len(f.body) == 0) {
		return nil, fmt.Errorf("%w: body of %d bytes for %d records", ErrFrame, len(f.body), f.Header.records())
	}
	return f, nil
}

// Verify returns ErrSignature unless the holder of pub signed the frame.
func (f *SealedFrame) Verify(pub ed25519.PublicKey) error {
	if !verify(pub, f.signature, frameDomain, f.header, f.body) {
		return fmt.Errorf("frame of %s: %w", f.Header.Agent, ErrSignature)
	}
	f.verified = true
	return nil
}

// Records decodes the records. Their topics and payloads share memory with each
// other, not with the frame. It returns ErrSignature before a Verify that
// succeeded, and ErrFrame for a body that is malformed or above the limits.
func (f *SealedFrame) Records() ([]Record, error) {
	if !f.verified {
		return nil, fmt.Errorf("frame of %s: not verified: %w", f.Header.Agent, ErrSignature)
	}
	recs, err := decodeBody(f.body, f.Header.First, int(f.Header.records()))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return recs, nil
}

// Bytes returns the frame as it came. The caller must not change it.
func (f *SealedFrame) Bytes() []byte { return f.raw }

// Digest returns what the signature is made over: two frames with the same
// digest say the same.
func (f *SealedFrame) Digest() [32]byte { return digest(frameDomain, f.header, f.body) }

// records returns how many records the header calls for.
func (h Header) records() uint64 {
	if h.First == 0 {
		return 0
	}
	return Range{h.First, h.Last}.Len()
}

// check returns ErrFrame unless the header is within the limits.
func (h Header) check() error {
	if err := ValidateAgent(h.Agent); err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	switch {
	case h.Epoch.IsZero():
		return fmt.Errorf("%w: no epoch", ErrFrame)
	case (h.First == 0) != (h.Last == 0) || h.Last < h.First:
		return fmt.Errorf("%w: seqs %d to %d", ErrFrame, h.First, h.Last)
	case h.First != 0 && h.Last-h.First >= MaxRecords:
		return fmt.Errorf("%w: %d records, at most %d", ErrFrame, h.Last-h.First+1, MaxRecords)
	case len(h.Traceparent) > MaxTraceparent:
		return fmt.Errorf("%w: traceparent of %d bytes, at most %d", ErrFrame, len(h.Traceparent), MaxTraceparent)
	case len(h.Open) > MaxOpen:
		return fmt.Errorf("%w: %d open epochs, at most %d", ErrFrame, len(h.Open), MaxOpen)
	}
	for _, o := range h.Open {
		if o.Epoch.IsZero() {
			return fmt.Errorf("%w: an open epoch is zero", ErrFrame)
		}
	}
	return nil
}

func (h Header) wire() *wire.Header {
	w := &wire.Header{
		Version:     version,
		Agent:       h.Agent,
		Epoch:       h.Epoch.wire(),
		First:       h.First,
		Last:        h.Last,
		Traceparent: h.Traceparent,
		OpenTotal:   h.OpenTotal,
		Sent:        h.Sent.wire(),
	}
	for _, o := range h.Open {
		e := &wire.OpenEpoch{Lowest: o.Lowest, Durable: o.Durable, Trimmed: o.Trimmed}
		if o.Epoch != h.Epoch {
			e.Epoch = o.Epoch.wire()
		}
		w.Open = append(w.Open, e)
	}
	return w
}

func headerOf(w *wire.Header) Header {
	h := Header{
		Agent:       w.Agent,
		Epoch:       epochOf(w.Epoch),
		First:       w.First,
		Last:        w.Last,
		Traceparent: w.Traceparent,
		OpenTotal:   w.OpenTotal,
		Sent:        instantOf(w.Sent),
	}
	for _, e := range w.Open {
		o := OpenEpoch{Epoch: h.Epoch, Lowest: e.Lowest, Durable: e.Durable, Trimmed: e.Trimmed}
		if e.Epoch != nil {
			o.Epoch = epochOf(e.Epoch)
		}
		h.Open = append(h.Open, o)
	}
	return h
}

// digest returns SHA-256 of the domain and the parts. Each part but the last is
// preceded by its length, so that no byte can move from one to the next.
func digest(domain string, parts ...[]byte) [32]byte {
	d := sha256.New()
	d.Write([]byte(domain))
	d.Write([]byte{0})
	for i, p := range parts {
		if i < len(parts)-1 {
			d.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		}
		d.Write(p)
	}
	return [32]byte(d.Sum(nil))
}

func sign(key ed25519.PrivateKey, domain string, parts ...[]byte) []byte {
	d := digest(domain, parts...)
	return ed25519.Sign(key, d[:])
}

// verify is false, not a panic, for a key or signature of the wrong length.
func verify(pub ed25519.PublicKey, signature []byte, domain string, parts ...[]byte) bool {
	if len(pub) != ed25519.PublicKeySize || len(signature) != ed25519.SignatureSize {
		return false
	}
	d := digest(domain, parts...)
	return ed25519.Verify(pub, d[:], signature)
}

// appendFields appends parts as the bytes fields 1, 2, … of a message.
func appendFields(b []byte, parts ...[]byte) []byte {
	for i, p := range parts {
		b = protowire.AppendTag(b, protowire.Number(i+1), protowire.BytesType)
		b = protowire.AppendBytes(b, p)
	}
	return b
}

// splitFields reads what appendFields wrote, and only that: the outside of a
// frame is not signed, so it must leave no room to say the same in another way.
// The parts share memory with b.
func splitFields(b []byte, parts ...*[]byte) error {
	size := 0
	for i, p := range parts {
		num, typ, n := protowire.ConsumeTag(b[size:])
		if n < 0 || num != protowire.Number(i+1) || typ != protowire.BytesType {
			return fmt.Errorf("field %d expected at byte %d", i+1, size)
		}
		v, m := protowire.ConsumeBytes(b[size+n:])
		if m < 0 {
			return fmt.Errorf("field %d is cut off", i+1)
		}
		if n+m != fieldSize(v) {
			return fmt.Errorf("field %d has a length that is padded", i+1)
		}
		*p = v
		size += n + m
	}
	if size != len(b) {
		return fmt.Errorf("%d bytes after the last field", len(b)-size)
	}
	return nil
}

// fieldSize returns how long a bytes field is with a number below 16.
func fieldSize(b []byte) int { return 1 + protowire.SizeBytes(len(b)) }
