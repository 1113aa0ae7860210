package outbox

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// line is one record of an export.
type line struct {
	Epoch   string       `json:"epoch"`
	Seq     uint64       `json:"seq"`
	Wall    string       `json:"recorded_at"` // by the device's clock, right or not
	Boot    int64        `json:"boot_ns"`
	Reading *lineReading `json:"reading,omitempty"`
	Loss    *lineLoss    `json:"loss,omitempty"`
	Anchor  *lineAnchor  `json:"anchor,omitempty"`
	Start   *lineStart   `json:"start,omitempty"`
}

type lineReading struct {
	Topic    string `json:"topic"`
	QoS      uint8  `json:"qos"`
	Dup      bool   `json:"dup"`
	Retained bool   `json:"retained"`
	Payload  string `json:"payload"`
	Encoding string `json:"payload_encoding"` // utf-8 or base64
}

type lineLoss struct {
	Epoch  string `json:"epoch"`
	First  uint64 `json:"first"`
	Last   uint64 `json:"last"`
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
	Bytes  uint64 `json:"bytes"`
	Topic  string `json:"topic,omitempty"` // of an oversized message
	Size   uint64 `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
}

type lineAnchor struct {
	Synchronised bool  `json:"synchronised"`
	MovedNS      int64 `json:"moved_ns"`
	MaxErrorNS   int64 `json:"max_error_ns"`
}

type lineStart struct {
	Previous string `json:"previous,omitempty"`
	Last     uint64 `json:"previous_last,omitempty"`
	Clean    bool   `json:"previous_clean"`
	Boot     string `json:"boot"`
	Version  string `json:"version"`
}

func newLine(e telemetry.Epoch, rec *telemetry.Record) line {
	l := line{Epoch: e.String(), Seq: rec.Seq, Wall: time.Unix(0, rec.At.Wall).UTC().Format(time.RFC3339Nano), Boot: int64(rec.At.Boot)}
	switch {
	case rec.Reading != nil:
		r := rec.Reading
		l.Reading = &lineReading{Topic: r.Topic, QoS: r.QoS, Dup: r.Dup, Retained: r.Retained, Payload: string(r.Payload), Encoding: "utf-8"}
		if !utf8.Valid(r.Payload) {
			l.Reading.Payload, l.Reading.Encoding = base64.StdEncoding.EncodeToString(r.Payload), "base64"
		}
	case rec.Loss != nil:
		x := rec.Loss
		l.Loss = &lineLoss{Epoch: x.Epoch.String(), First: x.Seqs.First, Last: x.Seqs.Last, Reason: x.Reason.String(), Count: x.Count, Bytes: x.Bytes}
		if o := x.Oversized; o != nil {
			l.Loss.Topic, l.Loss.Size, l.Loss.SHA256 = o.Topic, o.Size, hex.EncodeToString(o.SHA256[:])
		}
	case rec.Anchor != nil:
		l.Anchor = &lineAnchor{rec.Anchor.Synchronised, int64(rec.Anchor.Moved), int64(rec.Anchor.MaxError)}
	case rec.Start != nil:
		s := rec.Start
		l.Start = &lineStart{Last: s.PreviousLast, Clean: s.PreviousClean, Boot: hex.EncodeToString(s.Boot[:]), Version: s.Version}
		if !s.Previous.IsZero() {
			l.Start.Previous = s.Previous.String()
		}
	}
	return l
}

// Export writes every record of the outbox in dir to w, one JSON object a line,
// ordered by epoch and seq, receipted or not. Of a damaged segment it writes what
// is good, goes on, and returns ErrDamage at the end. It changes nothing and
// returns ErrLocked while an agent uses the folder.
func Export(dir string, w io.Writer) error {
	c, err := openCard(dir)
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }() // only read
	out := bufio.NewWriterSize(w, 1<<16)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	done := map[telemetry.Epoch]ranges.Set{}
	put := func(e telemetry.Epoch, rec telemetry.Record) error {
		this := telemetry.Range{First: rec.Seq, Last: rec.Seq}
		if done[e].Covers(this) {
			return nil // in two files: a pack and what it replaces
		}
		done[e] = done[e].Add(this)
		return enc.Encode(newLine(e, &rec))
	}
	runs, bad := c.inOrder()
	for _, r := range runs {
		if err := c.export(r, put); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d of %d segments; their good records were exported", ErrDamage, bad, len(c.files))
	}
	return nil
}

// cardRun is one run of a good file, or a whole damaged one.
type cardRun struct {
	head
	file *cardFile
}

// inOrder checks every file and returns the runs ordered, and how many files are
// damaged; those go by their first record.
func (c *card) inOrder() (runs []cardRun, bad int) {
	for _, f := range c.files {
		if f.err == nil {
			f.err = c.with(f, func(r *reader) error { _, err := f.verify(r); return err })
		}
		if f.err != nil {
			e, seqs, _, _ := parseName(f.name)
			runs = append(runs, cardRun{head{Epoch: e, Seqs: seqs}, f})
			bad++
			continue
		}
		for _, h := range f.heads {
			runs = append(runs, cardRun{h, f})
		}
	}
	slices.SortStableFunc(runs, func(a, b cardRun) int { return compareHeads(a.head, b.head) })
	return runs, bad
}

func (c *card) export(r cardRun, put func(telemetry.Epoch, telemetry.Record) error) error {
	if r.file.err != nil {
		return c.salvage(r.file, put)
	}
	return c.with(r.file, func(rd *reader) error {
		var perr error
		err := rd.scan(r.Epoch, r.Seqs, func(rec telemetry.Record) bool {
			perr = put(r.Epoch, rec)
			return perr == nil
		})
		return errors.Join(err, perr)
	})
}
