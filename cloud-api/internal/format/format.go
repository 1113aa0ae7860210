// Package format writes readings as programs want them: JSON, NDJSON, CSV and
// Parquet. In all of them a payload comes out bit for bit.
package format

import (
	"bufio"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

// The media types of the formats.
const (
	JSON    = "application/json"
	NDJSON  = "application/x-ndjson"
	CSV     = "text/csv"
	Parquet = "application/vnd.apache.parquet"
)

// Names are the formats as a command line names them.
var Names = map[string]string{"ndjson": NDJSON, "csv": CSV, "parquet": Parquet}

// ErrFormat is returned by NewWriter for a media type that it does not write.
var ErrFormat = errors.New("format: want application/x-ndjson, text/csv or application/vnd.apache.parquet")

// Reading is one reading in JSON. The payload is always text: bytes that are no
// UTF-8 are in base64.
type Reading struct {
	Agent     string `json:"agent"`
	Epoch     string `json:"epoch"`
	Seq       uint64 `json:"seq"`
	Topic     string `json:"topic"`
	QoS       uint8  `json:"qos"`
	Dup       bool   `json:"dup"`
	Retained  bool   `json:"retained"`
	Payload   string `json:"payload"`
	Encoding  string `json:"payload_encoding"` // utf-8 or base64
	Recorded  string `json:"recorded_at"`
	Corrected string `json:"corrected_at"`
	Received  string `json:"received_at"`
}

// Of returns a reading as it is written in JSON.
func Of(r *store.Reading) Reading {
	out := Reading{
		Agent: r.Agent, Epoch: r.Epoch.String(), Seq: r.Seq, Topic: r.Topic, QoS: r.QoS, Dup: r.Dup, Retained: r.Retained,
		Recorded: Instant(r.Recorded), Corrected: Instant(r.Corrected), Received: Instant(r.Received),
	}
	if utf8.Valid(r.Payload) {
		out.Payload, out.Encoding = string(r.Payload), "utf-8"
	} else {
		out.Payload, out.Encoding = base64.StdEncoding.EncodeToString(r.Payload), "base64"
	}
	return out
}

// Instant writes Unix nanoseconds with all their digits, so that texts order as
// times do.
func Instant(ns int64) string {
	return time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000000000Z")
}

// Writer writes readings one after the other. Nothing may be whole before Close.
type Writer interface {
	Write(r *store.Reading) error
	Close() error
}

// NewWriter returns a writer of a media type; see ErrFormat.
func NewWriter(w io.Writer, mediaType string) (Writer, error) {
	switch mediaType {
	case NDJSON:
		b := bufio.NewWriterSize(w, 64<<10)
		e := json.NewEncoder(b)
		e.SetEscapeHTML(false)
		return &ndjson{b, e}, nil
	case CSV:
		return newCSV(w)
	case Parquet:
		return newParquet(w), nil
	}
	return nil, fmt.Errorf("%w: not %q", ErrFormat, mediaType)
}

type ndjson struct {
	w *bufio.Writer
	e *json.Encoder
}

func (n *ndjson) Write(r *store.Reading) error { return n.e.Encode(Of(r)) }
func (n *ndjson) Close() error                 { return n.w.Flush() }

type csvWriter struct{ w *csv.Writer }

func newCSV(w io.Writer) (Writer, error) {
	c := csvWriter{csv.NewWriter(w)}
	return c, c.w.Write([]string{"agent", "epoch", "seq", "topic", "qos", "dup", "retained", "payload", "payload_encoding", "recorded_at", "corrected_at", "received_at"})
}

// Write puts payloads with a carriage return into base64: readers of CSV may
// turn it into a line feed.
func (c csvWriter) Write(r *store.Reading) error {
	f := Of(r)
	if f.Encoding == "utf-8" && containsCR(r.Payload) {
		f.Payload, f.Encoding = base64.StdEncoding.EncodeToString(r.Payload), "base64"
	}
	return c.w.Write([]string{
		f.Agent, f.Epoch, strconv.FormatUint(f.Seq, 10), f.Topic, strconv.Itoa(int(f.QoS)), strconv.FormatBool(f.Dup), strconv.FormatBool(f.Retained),
		f.Payload, f.Encoding, f.Recorded, f.Corrected, f.Received,
	})
}

func containsCR(b []byte) bool {
	for _, c := range b {
		if c == '\r' {
			return true
		}
	}
	return false
}

func (c csvWriter) Close() error {
	c.w.Flush()
	return c.w.Error()
}

// parquetRow is the schema. The payload is bytes, so it needs no encoding.
type parquetRow struct {
	Agent     string `parquet:"agent,dict"`
	Epoch     string `parquet:"epoch,dict"`
	Seq       int64  `parquet:"seq,delta"`
	Topic     string `parquet:"topic,dict"`
	QoS       int32  `parquet:"qos"`
	Dup       bool   `parquet:"dup"`
	Retained  bool   `parquet:"retained"`
	Payload   []byte `parquet:"payload,zstd"`
	Recorded  int64  `parquet:"recorded_at,timestamp(nanosecond)"`
	Corrected int64  `parquet:"corrected_at,timestamp(nanosecond)"`
	Received  int64  `parquet:"received_at,timestamp(nanosecond)"`
}

// rowGroup bounds the rows that a Parquet file is written in, and so the memory.
const rowGroup = 50_000

type parquetWriter struct {
	w *parquet.GenericWriter[parquetRow]
	n int
}

func newParquet(w io.Writer) *parquetWriter {
	return &parquetWriter{w: parquet.NewGenericWriter[parquetRow](w, parquet.CreatedBy("holdfast", "1", ""))}
}

func (p *parquetWriter) Write(r *store.Reading) error {
	_, err := p.w.Write([]parquetRow{{
		Agent: r.Agent, Epoch: r.Epoch.String(), Seq: int64(r.Seq), Topic: r.Topic, QoS: int32(r.QoS), Dup: r.Dup, Retained: r.Retained,
		Payload: r.Payload, Recorded: r.Recorded, Corrected: r.Corrected, Received: r.Received,
	}})
	if p.n++; err == nil && p.n%rowGroup == 0 {
		err = p.w.Flush()
	}
	return err
}

func (p *parquetWriter) Close() error { return p.w.Close() }
