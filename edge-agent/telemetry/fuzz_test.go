package telemetry

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
)

// addGolden adds the golden files of a kind to a corpus.
func addGolden(f *testing.F, pattern string) {
	f.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "v1", pattern))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no %s (%v)", pattern, err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// bounded fails the test when do allocates more than limit bytes.
func bounded(t *testing.T, limit uint64, do func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > limit {
		t.Fatalf("%d bytes allocated, at most %d", n, limit)
	}
}

// checkFrame opens a frame whose signature it takes for good. What comes out
// must go in again, and come out the same.
func checkFrame(t *testing.T, b []byte) {
	t.Helper()
	var f *SealedFrame
	var recs []Record
	var err error
	bounded(t, maxAllocated, func() {
		if f, err = ParseFrame(b); err == nil {
			f.verified = true
			recs, err = f.Records()
		}
	})
	if err != nil {
		if !errors.Is(err, ErrFrame) {
			t.Fatalf("%v, want ErrFrame", err)
		}
		return
	}
	again, err := EncodeFrame(f.Header, recs, hostileKey)
	if errors.Is(err, ErrFrameTooLarge) {
		return // ours is not as well compressed
	}
	if err != nil {
		t.Fatalf("what was read cannot be written: %v", err)
	}
	got, _, err := records(again)
	if err != nil || !reflect.DeepEqual(got, recs) {
		t.Fatalf("what was read, written and read is something else (%v)", err)
	}
}

// No bytes make ParseFrame and Records panic, allocate without bound or return
// what could not have been written.
func FuzzFrame(f *testing.F) {
	addGolden(f, "frame-*.bin")
	f.Fuzz(checkFrame)
}

// The same for what is inside the compression, where FuzzFrame hardly gets.
func FuzzBody(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join("testdata", "v1", "frame-*.bin"))
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		s, err := ParseFrame(b)
		if err != nil {
			f.Fatal(err)
		}
		if len(s.body) == 0 {
			continue
		}
		plain, err := decompress(s.body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain, uint16(s.Header.records()))
	}
	f.Fuzz(func(t *testing.T, plain []byte, n uint16) {
		e, err := encoder()
		if err != nil {
			t.Fatal(err)
		}
		header := hostileHeader(1, max(1, uint64(n)))
		checkFrame(t, appendFields(nil, header, e.EncodeAll(plain, nil), make([]byte, ed25519.SignatureSize)))
	})
}

// Any payloads come back byte for byte, whether they share a template or not.
func FuzzPayloads(f *testing.F) {
	f.Add([]byte(`{"t":1.07}|{"t":12.31}|{"t":007}|on|on|`))
	f.Add([]byte("1|22|333|4444444444444444444444|0|00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		roundTripPayloads(t, bytes.Split(b, []byte("|")))
	})
}

// maxReceiptAllocated is what OpenReceipt may allocate, whatever 64 KiB say.
const maxReceiptAllocated = 16 << 20

// No bytes make OpenReceipt panic, allocate without bound or believe them.
func FuzzOpenReceipt(f *testing.F) {
	addGolden(f, "receipt-*.bin")
	root := public(hostileKey)
	f.Fuzz(func(t *testing.T, b []byte) {
		bounded(t, maxReceiptAllocated, func() {
			if _, err := OpenReceipt(b, "pi", root, time.Time{}); err == nil {
				t.Fatal("a receipt that nobody signed was believed")
			}
		})
	})
}

// The same for what is inside the signature: what comes out of it must go in
// again, and come out the same.
func FuzzReceipt(f *testing.F) {
	full := Receipt{
		Cloud: "cloud", Agent: "pi", Revision: 3, Issued: time.Unix(1777636800, 5).UTC(), Window: 1 << 19, RetryAfter: time.Second,
		Epochs:   []EpochReceipt{{Epoch: hostileEpoch, Watermark: 7, Held: []Range{{9, 12}, {14, 14}}}},
		Again:    []EpochRange{{Epoch: hostileEpoch, Seqs: Range{1, 2}}},
		Rejected: []Rejection{{Epoch: hostileEpoch, Seqs: Range{3, 4}, Reason: "malformed"}},
	}
	seed, err := proto.Marshal(full.wire())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > MaxReceipt {
			return
		}
		bounded(t, maxReceiptAllocated, func() {
			r, err := receiptOf(content)
			if err != nil {
				if !errors.Is(err, ErrReceipt) {
					t.Fatalf("%v, want ErrReceipt", err)
				}
				return
			}
			b, err := proto.Marshal(r.wire())
			if err != nil {
				t.Fatal(err)
			}
			if again, err := receiptOf(b); err != nil || !reflect.DeepEqual(again, r) {
				t.Fatalf("%+v became %+v (%v)", r, again, err)
			}
		})
	})
}

// A text is a token, or an epoch, only when it is the one that we would write.
func FuzzTexts(f *testing.F) {
	f.Add("12-51d80e7c339af01b")
	f.Add(NewToken(public(hostileKey)).String())
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := ParseToken(s); err == nil && tok.String() != s {
			t.Errorf("token %q from %q", tok, s)
		}
		if e, err := ParseEpoch(s); err == nil && e.String() != s {
			t.Errorf("epoch %s from %q", e, s)
		}
	})
}

// No JSON makes an enrolment panic, or is believed that was not made with the
// secret.
func FuzzEnrol(f *testing.F) {
	addGolden(f, "enrol-*.json")
	tok := Token{ID: "id", Secret: "a secret that nobody has", Fingerprint: Fingerprint(public(hostileKey))}
	f.Fuzz(func(t *testing.T, b []byte) {
		if req, err := ParseEnrolRequest(b); err == nil {
			if req.Verify(tok.SecretHash()) == nil {
				t.Error("a request was believed")
			}
			if _, err := json.Marshal(req); err != nil {
				t.Error(err)
			}
		}
		if resp, err := ParseEnrolResponse(b); err == nil {
			if _, err := resp.Verify(tok, EnrolRequest{Agent: resp.Agent, Nonce: resp.Nonce}); err == nil {
				t.Error("a response was believed")
			}
		}
	})
}

// A column of numbers, of any bytes, is read without panic and without more
// numbers than it has bits.
func FuzzNumbers(f *testing.F) {
	f.Add(appendNumbers(nil, []int64{1, 2, 3, 5, 8}), uint16(5))
	f.Fuzz(func(t *testing.T, b []byte, n uint16) {
		c := column{b: b}
		s := c.numbers(int(n))
		if c.err == nil && 8*len(b) < int(n) {
			t.Fatalf("%d numbers in %d bytes", n, len(b))
		}
		vs := make([]int64, n)
		for i := range vs {
			vs[i] = s.next()
		}
		if c.err == nil {
			roundTripNumbers(t, vs)
		}
	})
}
