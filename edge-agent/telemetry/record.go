// Package telemetry is the contract between the edge and the cloud: what a
// record is, how a run of records travels as a signed frame, and how the cloud
// answers with a signed receipt. Whatever decodes without error here was within
// the limits and, after Verify, came from the holder of the key.
package telemetry

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ErrEpoch is returned by ParseEpoch for text that is not an epoch.
var ErrEpoch = errors.New("epoch: want ORDINAL-16 hex digits, such as 12-0123456789abcdef")

// ErrAgent is returned by ValidateAgent for an id that is not allowed.
var ErrAgent = errors.New("agent id: want 1 to 63 of a-z, 0-9 and -")

var agentPattern = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// ValidateAgent returns ErrAgent unless id matches [a-z0-9-]{1,63}.
func ValidateAgent(id string) error {
	if !agentPattern.MatchString(id) {
		return fmt.Errorf("%w: got %q", ErrAgent, id)
	}
	return nil
}

// Epoch names the life of one agent process that appended. The ordinal orders
// the epochs of one device, the random ID tells apart two that share an ordinal
// (a cloned or rolled-back card). The zero Epoch names none.
type Epoch struct {
	Ordinal uint64
	ID      [8]byte
}

// IsZero reports whether e names no epoch.
func (e Epoch) IsZero() bool { return e == Epoch{} }

// String returns ORDINAL-ID, the ID as 16 hex digits; ParseEpoch reads it back.
func (e Epoch) String() string {
	return strconv.FormatUint(e.Ordinal, 10) + "-" + hex.EncodeToString(e.ID[:])
}

// Compare orders epochs by ordinal and then by ID: -1, 0 or 1.
func (e Epoch) Compare(o Epoch) int {
	switch {
	case e.Ordinal < o.Ordinal:
		return -1
	case e.Ordinal > o.Ordinal:
		return 1
	}
	a, b := binary.BigEndian.Uint64(e.ID[:]), binary.BigEndian.Uint64(o.ID[:])
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// ParseEpoch reads what Epoch.String wrote. It returns ErrEpoch otherwise.
func ParseEpoch(s string) (Epoch, error) {
	ordinal, id, ok := strings.Cut(s, "-")
	if !ok || len(id) != 16 {
		return Epoch{}, fmt.Errorf("%w: got %q", ErrEpoch, s)
	}
	n, err := strconv.ParseUint(ordinal, 10, 64)
	if err != nil {
		return Epoch{}, fmt.Errorf("%w: got %q", ErrEpoch, s)
	}
	e := Epoch{Ordinal: n}
	if _, err := hex.Decode(e.ID[:], []byte(id)); err != nil || e.String() != s { // hex takes capitals, too
		return Epoch{}, fmt.Errorf("%w: got %q", ErrEpoch, s)
	}
	return e, nil
}

// Range is a run of sequence numbers, both ends included. It is empty when Last
// is below First, and so is the zero Range: seqs start at 1.
type Range struct{ First, Last uint64 }

// Len returns how many numbers the range covers.
func (r Range) Len() uint64 {
	if r.Last < r.First || r == (Range{}) {
		return 0
	}
	return r.Last - r.First + 1
}

// Kind says what a record is.
type Kind uint8

// The four kinds of record. Their numbers are part of the wire format.
const (
	KindReading Kind = 1 // one MQTT message as received
	KindLoss    Kind = 2 // a run of seqs given up, and why
	KindAnchor  Kind = 3 // what the clock said, and whether it was synchronised
	KindStart   Kind = 4 // the first record of an epoch
)

// Instant is one moment as a device saw it: raw, never corrected. Boot is
// monotonic within one boot (CLOCK_BOOTTIME) and means nothing across boots;
// Wall is whatever the clock said, right or not.
type Instant struct {
	Boot time.Duration // since the kernel started
	Wall int64         // nanoseconds since 1970-01-01 UTC, by the device's clock
}

// Record is one entry of the outbox's log. Exactly one of the four pointers is
// set, the one that Kind names.
type Record struct {
	Seq  uint64 // contiguous from 1 within its epoch
	At   Instant
	Kind Kind

	Reading *Reading
	Loss    *Loss
	Anchor  *Anchor
	Start   *Start
}

// Reading is one MQTT message as received. The payload is bytes: it is never
// parsed, and comes out bit for bit.
type Reading struct {
	Topic    string // at most 65 535 bytes of UTF-8
	QoS      uint8  // 0, 1 or 2, as delivered
	Dup      bool   // the publisher sent it again
	Retained bool   // a broker replayed it
	Payload  []byte
}

// Reason says why seqs were given up.
type Reason uint8

// The reasons for a loss. Their numbers are part of the wire format.
const (
	ReasonDropped   Reason = 1 // the outbox was full and its policy is drop-oldest
	ReasonExpired   Reason = 2 // older than max_age
	ReasonCorrupt   Reason = 3 // the card gave back wrong bytes
	ReasonOversized Reason = 4 // one message above the payload limit; see Loss.Oversized
	ReasonUnknown   Reason = 5 // the device has no such record and knows no reason
	ReasonReceipted Reason = 6 // asked for again, but receipted before and no longer kept
)

// String returns the reason's name, as metrics, exports and APIs give it, and
// "other" for one that this version does not know.
func (r Reason) String() string {
	names := [...]string{"other", "dropped", "expired", "corrupt", "oversized", "unknown", "receipted"}
	if int(r) < len(names) {
		return names[r]
	}
	return names[0]
}

// Loss explains a run of seqs that will never come. It is a record like any
// other: numbered, sent and receipted. For ReasonOversized the range is empty,
// since the message never had a number: the loss record's own stands for it.
type Loss struct {
	Epoch  Epoch // whose seqs were given up; may differ from the epoch of the record
	Seqs   Range
	Reason Reason
	Count  uint64  // readings given up, as far as known
	Bytes  uint64  // of topic and payload, as far as known
	First  Instant // when the first of them was recorded; zero when unknown
	Last   Instant

	Oversized *Oversized // only for ReasonOversized
}

// Oversized identifies a message that was acknowledged and not stored.
type Oversized struct {
	Topic  string
	Size   uint64   // bytes of payload
	SHA256 [32]byte // of the payload
}

// Anchor ties time since boot to the wall clock. The record's At holds the
// pair; Synchronised says whether the kernel called the clock synchronised then.
type Anchor struct {
	Synchronised bool
	Moved        time.Duration // how far the wall clock jumped since the anchor before, against time since boot
	MaxError     time.Duration // the kernel's estimate (adjtimex); 0 when unknown
}

// Start is the first record of an epoch.
type Start struct {
	Previous      Epoch    // the epoch before; zero on a new outbox
	PreviousLast  uint64   // last seq readable in it
	PreviousClean bool     // it was closed, not cut off
	Boot          [16]byte // the kernel's boot id: epochs that share it share time since boot
	Version       string   // of the agent
}

// OpenEpoch is what the device says of one epoch that it still has records of.
type OpenEpoch struct {
	Epoch   Epoch
	Lowest  uint64 // lowest seq still on the device; Durable+1 when none is
	Durable uint64 // last seq whose commit returned
	Trimmed uint64 // receipted and given back up to here: the device no longer promises to have it
}
