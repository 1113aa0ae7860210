package outbox

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// head is what a segment says of a run of records in it, rewritten with every
// commit in the same transaction. It makes a tree that lost its end
// detectable, and lets a segment be counted, expired and dropped unread.
type head struct {
	Epoch    telemetry.Epoch
	Seqs     telemetry.Range // empty (Last < First) before the first record
	Readings uint64
	Bytes    uint64 // of the readings' topics and payloads
	First    telemetry.Instant
	Last     telemetry.Instant
	Losses   uint64        // loss records among them, listed in their own bucket
	Ran      time.Duration // how long this device had run, all boots together, at the last commit
	Up       time.Duration // time since boot then
	Synced   int64         // wall clock at the last commit, if it was synchronised then; else 0
	Boot     [16]byte      // the kernel's boot id
	Clean    bool          // the epoch was closed here
}

const headVersion = 1

func (h *head) add(rec *telemetry.Record) {
	if h.Seqs.Len() == 0 {
		h.First = rec.At
	}
	h.Seqs.Last, h.Last = rec.Seq, rec.At
	switch {
	case rec.Reading != nil:
		h.Readings++
		h.Bytes += uint64(len(rec.Reading.Topic) + len(rec.Reading.Payload))
	case rec.Loss != nil:
		h.Losses++
	}
}

// headKey is epoch and first seq; a pack has one head for each of its runs.
func headKey(e telemetry.Epoch, first uint64) []byte {
	return binary.BigEndian.AppendUint64(appendEpoch(make([]byte, 0, 24), e), first)
}

func (h *head) encode() []byte {
	b := append(make([]byte, 0, 160), headVersion)
	b = appendRange(appendEpoch(b, h.Epoch), h.Seqs)
	b = binary.AppendUvarint(binary.AppendUvarint(b, h.Readings), h.Bytes)
	b = appendInstant(appendInstant(b, h.First), h.Last)
	b = binary.AppendUvarint(b, h.Losses)
	b = binary.AppendVarint(binary.AppendVarint(b, int64(h.Ran)), int64(h.Up))
	b = binary.AppendVarint(b, h.Synced)
	b = append(append(b, h.Boot[:]...), boolByte(h.Clean))
	return sealSum(b)
}

func decodeHead(b []byte) (head, error) {
	b, err := openSum(b)
	if err != nil {
		return head{}, err
	}
	d := decoder{b: b}
	if v := d.byte(); v != headVersion {
		return head{}, damaged("head of version %d", v)
	}
	h := head{Epoch: d.epoch(), Seqs: d.seqs(), Readings: d.uvarint(), Bytes: d.uvarint()}
	h.First, h.Last = d.instant(), d.instant()
	h.Losses, h.Ran, h.Up, h.Synced = d.uvarint(), time.Duration(d.varint()), time.Duration(d.varint()), d.varint()
	copy(h.Boot[:], d.bytes(uint64(len(h.Boot))))
	h.Clean = d.byte() != 0
	if d.bad || len(d.b) > 0 || h.Seqs.First == 0 {
		return head{}, damaged("head")
	}
	return h, nil
}

// sealSum appends the CRC-32C of b; openSum checks it and takes it off.
func sealSum(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func openSum(b []byte) ([]byte, error) {
	n := len(b) - 4
	if n < 0 || crc32.Checksum(b[:n], castagnoli) != binary.LittleEndian.Uint32(b[n:]) {
		return nil, damaged("checksum of %d bytes", len(b))
	}
	return b[:n], nil
}
