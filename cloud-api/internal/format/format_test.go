package format

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// hard are readings whose payloads and topics a format could spoil.
func hard() []store.Reading {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	var out []store.Reading
	for i, p := range [][]byte{nil, {}, every, []byte("a,b\"c"), []byte("line\nline"), []byte("line\r\nline"), []byte(" x "), []byte("=1+1"), []byte("\u2028</script>"), []byte(`{"t":1}`)} {
		out = append(out, store.Reading{
			Agent: "a", Epoch: telemetry.Epoch{Ordinal: 1}, Seq: uint64(i + 1), Topic: "t,\"\n" + strconv.Itoa(i), QoS: 1, Dup: i%2 == 0, Payload: p,
			Recorded: 1, Corrected: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC).UnixNano(), Received: 3,
		})
	}
	return out
}

func write(t *testing.T, kind string, rows []store.Reading) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, kind)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := w.Write(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// same holds what was read back to what was written.
func same(t *testing.T, kind string, want store.Reading, topic, payload, encoding, corrected string) {
	t.Helper()
	b := []byte(payload)
	if encoding == "base64" {
		var err error
		if b, err = base64.StdEncoding.DecodeString(payload); err != nil {
			t.Fatal(err)
		}
	}
	if topic != want.Topic || !bytes.Equal(b, want.Payload) || corrected != "2026-01-02T03:04:05.000000006Z" {
		t.Errorf("%s: seq %d: topic %q, payload %q, corrected %s", kind, want.Seq, topic, b, corrected)
	}
}

// NDJSON has one object a line, whatever is in the payload.
func TestNDJSON(t *testing.T) {
	rows := hard()
	lines := bufio.NewScanner(write(t, NDJSON, rows))
	for i := range rows {
		var r Reading
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &r) != nil || r.Seq != rows[i].Seq || r.Dup != rows[i].Dup {
			t.Fatalf("line %d: %s", i, lines.Text())
		}
		same(t, NDJSON, rows[i], r.Topic, r.Payload, r.Encoding, r.Corrected)
	}
	if lines.Scan() {
		t.Errorf("one line more: %s", lines.Text())
	}
}

// CSV has a header and comes back through a reader as it went in.
func TestCSV(t *testing.T) {
	rows := hard()
	got, err := csv.NewReader(write(t, CSV, rows)).ReadAll()
	if err != nil || len(got) != len(rows)+1 || got[0][3] != "topic" {
		t.Fatalf("%v, %v", got, err)
	}
	for i, r := range got[1:] {
		same(t, CSV, rows[i], r[3], r[7], r[8], r[10])
	}
}

// Parquet has the payload as bytes and the times as timestamps.
func TestParquet(t *testing.T) {
	rows := hard()
	b := write(t, Parquet, rows).Bytes()
	got, err := parquet.Read[parquetRow](bytes.NewReader(b), int64(len(b)))
	if err != nil || len(got) != len(rows) {
		t.Fatalf("%d rows, %v", len(got), err)
	}
	for i, r := range got {
		same(t, Parquet, rows[i], r.Topic, string(r.Payload), "", Instant(r.Corrected))
	}
}

// Nothing at all is a file that can be read in every format.
func TestEmpty(t *testing.T) {
	if b := write(t, NDJSON, nil); b.Len() != 0 {
		t.Errorf("%q", b)
	}
	if got, err := csv.NewReader(write(t, CSV, nil)).ReadAll(); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	b := write(t, Parquet, nil).Bytes()
	if got, err := parquet.Read[parquetRow](bytes.NewReader(b), int64(len(b))); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := NewWriter(nil, "text/html"); !errors.Is(err, ErrFormat) {
		t.Errorf("%v", err)
	}
}
