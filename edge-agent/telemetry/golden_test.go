package telemetry_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// With -update the files of testdata/v1 are written anew. Once a version has
// been released that must not happen: the files stand for what is on devices.
var update = flag.Bool("update", false, "write the golden files anew")

// goldenFrames are the frames in testdata/v1.
func goldenFrames() map[string][]telemetry.Record {
	epoch := telemetry.Epoch{Ordinal: 11, ID: [8]byte{0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10}}
	at := func(s int64) telemetry.Instant {
		return telemetry.Instant{Boot: time.Duration(s) * time.Second, Wall: s * 1e9}
	}
	reading := func(topic, payload string, qos uint8, dup, retained bool) telemetry.Record {
		return telemetry.Record{Kind: telemetry.KindReading, At: at(-3), Reading: &telemetry.Reading{
			Topic: topic, QoS: qos, Dup: dup, Retained: retained, Payload: []byte(payload),
		}}
	}
	return map[string][]telemetry.Record{
		"empty":   nil,
		"climate": newGreenhouse(4).readings(5000, 60),
		"kinds": number(100, []telemetry.Record{
			{Kind: telemetry.KindStart, At: at(1), Start: &telemetry.Start{
				Previous: epoch, PreviousLast: 81_234, PreviousClean: true, Boot: [16]byte{1, 2, 3, 15: 16}, Version: "v0.1.0",
			}},
			{Kind: telemetry.KindStart, Start: &telemetry.Start{}},
			{Kind: telemetry.KindAnchor, At: at(2), Anchor: &telemetry.Anchor{Synchronised: true, Moved: -time.Hour, MaxError: 16 * time.Millisecond}},
			{Kind: telemetry.KindLoss, At: at(3), Loss: &telemetry.Loss{
				Epoch: epoch, Seqs: telemetry.Range{First: 17, Last: 4711}, Reason: telemetry.ReasonDropped, Count: 4690, Bytes: 600_000, First: at(4), Last: at(5),
			}},
			{Kind: telemetry.KindLoss, At: at(1 << 33), Loss: &telemetry.Loss{
				Reason: telemetry.ReasonOversized, Count: 1, Bytes: 1 << 20,
				Oversized: &telemetry.Oversized{Topic: "camera/1", Size: 1 << 20, SHA256: [32]byte{9, 31: 8}},
			}},
			reading("", "", 0, false, false),
			reading("a/b", "on", 1, true, false),
			reading("a/b", "\x00\xff not UTF-8 \xc3", 2, false, true),
			reading("numbers", "t=-1.07;n=007;x=1", 1, false, false),
			reading("numbers", "t=-12.31;n=8;x=340282366920938463463374607431768211456", 1, true, true),
			reading("numbers", "t=-0.00;n=010;x=0", 0, false, false),
		}),
	}
}

func number(first uint64, recs []telemetry.Record) []telemetry.Record {
	for i := range recs {
		recs[i].Seq = first + uint64(i)
	}
	return recs
}

// Frames of version 1 that were written once can be read for ever, and say what
// they said.
func TestGoldenFrames(t *testing.T) {
	for name, recs := range goldenFrames() {
		t.Run(name, func(t *testing.T) {
			h := fullHeader(1, 1)
			h.First, h.Last = 0, 0
			if len(recs) > 0 {
				h.First, h.Last = recs[0].Seq, recs[len(recs)-1].Seq
			}
			b := golden(t, "frame-"+name+".bin", func() []byte {
				b, err := telemetry.EncodeFrame(h, recs, testKey)
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
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
			text := golden(t, "frame-"+name+".txt", func() []byte { return []byte(renderFrame(h, recs)) })
			sameText(t, renderFrame(f.Header, got), string(text))
		})
	}
}

// Receipts of version 1 that were written once can be read for ever.
func TestGoldenReceipts(t *testing.T) {
	rotated := telemetry.ReceiptSigner{Key: receiptKey, Chain: []telemetry.Certificate{
		certify(t, telemetry.RoleReceipt, receiptKey, newRootKey), certify(t, telemetry.RoleRoot, newRootKey, rootKey),
	}}
	for name, s := range map[string]telemetry.ReceiptSigner{"plain": signer(t), "rotated": rotated} {
		t.Run(name, func(t *testing.T) {
			b := golden(t, "receipt-"+name+".bin", func() []byte {
				b, err := telemetry.EncodeReceipt(fullReceipt(), s)
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
			got, err := telemetry.OpenReceipt(b, "greenhouse-pi-7", pub(rootKey), issued)
			if err != nil {
				t.Fatal(err)
			}
			text := golden(t, "receipt-"+name+".txt", func() []byte { return []byte(renderReceipt(fullReceipt())) })
			sameText(t, renderReceipt(got), string(text))
		})
	}
}

// An enrolment of version 1 that was written once, say into a file on a card,
// proves what it proved.
func TestGoldenEnrolment(t *testing.T) {
	tok, req, resp := enrolment(t)
	text := golden(t, "enrol-token.txt", func() []byte { return []byte(tok.String() + "\n") })
	reqJSON := golden(t, "enrol-request.json", func() []byte { return indented(t, req) })
	respJSON := golden(t, "enrol-response.json", func() []byte { return indented(t, resp) })
	tok, err1 := telemetry.ParseToken(strings.TrimSpace(string(text)))
	req, err2 := telemetry.ParseEnrolRequest(reqJSON)
	resp, err3 := telemetry.ParseEnrolResponse(respJSON)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if err := req.Verify(tok.SecretHash()); err != nil {
		t.Error(err)
	}
	if _, err := resp.Verify(tok, req); err != nil {
		t.Error(err)
	}
}

// golden returns the content of a file in testdata/v1; with -update it makes it.
func golden(t *testing.T, name string, content func() []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", "v1", name)
	if *update {
		if err := os.WriteFile(path, content(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func indented(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

func sameText(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Fatalf("line %d differs; got\n%s\nwant\n%s", i+1, got, want)
		}
	}
}
