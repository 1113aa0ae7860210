package telemetry

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/internal/wire"
)

// roundTripPayloads returns the columns that the payloads make.
func roundTripPayloads(t testing.TB, payloads [][]byte) *wire.Body {
	t.Helper()
	w := &wire.Body{}
	appendPayloads(w, payloads)
	got, err := decodePayloads(w, len(payloads))
	if err != nil {
		t.Fatal(err)
	}
	for i := range payloads {
		if !bytes.Equal(got[i], payloads[i]) {
			t.Fatalf("payload %d is %.200q, want %.200q", i, got[i], payloads[i])
		}
	}
	return w
}

// Payloads that are alike but for their digits share a template, and come back
// byte for byte also where their numbers are not numbers: with leading zeros, with
// more digits than an integer has, or with none.
func TestTemplatesLoseNothing(t *testing.T) {
	for _, c := range []struct {
		payloads  string // separated by spaces
		templates int
	}{
		{"", 0},
		{"a", 0},
		{"a a", 1},
		{"1 2 3", 1},
		{"0 0 00", 1},
		{"007 008 010", 1},
		{"007 7 07", 1},
		{"000 000000000000000000 0", 1},
		{"999999999999999999 0 999999999999999999", 1},
		{"1000000000000000000 0 999999999999999999", 1},
		{"18446744073709551616 340282366920938463463374607431768211456 1", 1},
		{"-1.50 -2.75 -0.05", 1},
		{"-1.50 2.75 -3.05 4.00", 2},
		{"0.5 0.25 0.125 0.07 0.0 1.10", 1},
		{"0.5 0.25 0.125 0.07 0.0 0", 1},
		{"0.5 0.123456789012345678 0.1234567890123456789", 1},
		{"0.5 0.123456789012345678 0.999999999999999999 0.000000000000000001", 1},
		{"1.2.3 1.22.33 1.03.003", 1},
		{"x1y2z3 x4y5z6", 1},
		{"1x 2x x3 x4 x", 2},
		{`{"t":1} {"t":12,"u":3} {"t":2} {"t":4,"u":0}`, 2},
		{"\x00\xff1 \x00\xff2", 1},
		{"one two three", 0},
	} {
		w := roundTripPayloads(t, bytes.Split([]byte(c.payloads), []byte(" ")))
		texts, err := split(w.TemplateLengths, w.Templates, maxTemplate)
		if err != nil || len(texts) != c.templates {
			t.Errorf("%q: %d templates, want %d (%v)", c.payloads, len(texts), c.templates, err)
		}
	}
}

// Payloads at and above the bound of a template come back too.
func TestTemplatesAreBounded(t *testing.T) {
	for _, n := range []int{maxTemplate - 1, maxTemplate, maxTemplate + 1, MaxPayload} {
		for _, text := range []string{"9", "x", "a1", "0x"} {
			p := []byte(strings.Repeat(text, n/len(text)+1)[:n])
			roundTripPayloads(t, [][]byte{p, p, nil, p})
		}
	}
}

// Where templates do not help they do little harm: a body is at most 64 bytes
// and a hundredth larger than with the payloads written out one after the other,
// and a fifth larger for the one thing that zstd knows better: numbers far apart, drawn
// from few.
func TestTemplatesDoLittleHarm(t *testing.T) {
	var rng *rand.Rand
	noise := func(n int, alphabet string) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[rng.IntN(len(alphabet))]
		}
		return b
	}
	for name, make := range map[string]func(i int) []byte{
		"equal":            func(int) []byte { return []byte(`{"state":"on"}`) },
		"counter":          func(i int) []byte { return fmt.Appendf(nil, `{"n":%d}`, i) },
		"hexadecimal":      func(int) []byte { return noise(32, "0123456789abcdef") },
		"base64":           func(int) []byte { return noise(200, "ABCDEFGHabcdefgh0123456789+/") },
		"binary":           func(int) []byte { return fmt.Append(nil, rng.Uint64(), string(rune(rng.IntN(0x10ffff)))) },
		"short noise":      func(int) []byte { return noise(3, "0123456789") },
		"long noise":       func(int) []byte { return noise(60, "0123456789") },
		"two alternating":  func(i int) []byte { return fmt.Appendf(nil, `{"k":%d}`, i%2*123456) },
		"few repeated":     func(i int) []byte { return fmt.Appendf(nil, `{"id":"%d"}`, []int{83126521, 1938, 77712}[rng.IntN(3)]) },
		"digits and noise": func(int) []byte { return fmt.Appendf(nil, "%s=%d", noise(6, "abcdefghij"), rng.IntN(100)) },
		"text":             func(int) []byte { return noise(100, "the quick brown fox") },
		"lines of numbers": func(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%d ", i), 50) },
	} {
		rng = rand.New(rand.NewPCG(1, 2))
		payloads := [][]byte{}
		plain := &wire.Body{}
		for i := range 500 {
			p := make(i)
			payloads = append(payloads, p)
			plain.Verbatim = append(plain.Verbatim, p...)
			plain.Lengths = binary.AppendUvarint(plain.Lengths, uint64(len(p)))
		}
		size := func(w *wire.Body) int {
			b, err := proto.Marshal(w)
			if err != nil {
				t.Fatal(err)
			}
			return len(compress(b))
		}
		with, without := size(roundTripPayloads(t, payloads)), size(plain)
		t.Logf("%-18s %6d bytes with templates, %6d without", name, with, without)
		most := without + without/100 + 64
		if name == "few repeated" {
			most = without + without/5
		}
		if with > most {
			t.Errorf("%s: %d bytes with templates, %d without", name, with, without)
		}
	}
}
