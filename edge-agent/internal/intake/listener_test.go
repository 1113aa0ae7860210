package intake

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Whoever says nothing for 10 s, or too little, is no longer listened to.
func TestSilentConnectionsEnd(t *testing.T) {
	f := func(said ...byte) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			src := NewMetrics(prometheus.NewRegistry()).source("listener")
			l := newListener(nil, 1, &src, slog.New(slog.DiscardHandler), nil)
			here, there := net.Pipe()
			defer there.Close()
			go func() { _, _ = there.Write(said) }()
			start := time.Now()
			err := l.serve(here, func(_ string, c net.Conn) error {
				_, err := io.ReadAll(c)
				return err
			})
			if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != connectTimeout {
				t.Errorf("said %x: got %v after %s", said, err, time.Since(start))
			}
		})
	}
	f()
	f(0x10)
	f(0x10, 20, 0, 4)
}

// Clients cannot fill the log: one line in ten seconds, and how many were not
// written.
func TestWarningsAreMuted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := warner{log: slog.New(slog.NewTextHandler(&out, nil))}
		for range 1000 {
			w.warn("again")
		}
		time.Sleep(warnEvery)
		w.warn("again")
		if text := out.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "muted=999") {
			t.Errorf("got %s", text)
		}
	})
}

// publishOf encodes a PUBLISH.
func publishOf(qos byte, topic string, payload []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(topic)))
	body = append(body, topic...)
	if qos > 0 {
		body = append(body, 1, 2)
	}
	body = append(body, payload...)
	return append(fixedHeader(0x30|qos<<1, int64(len(body))), body...)
}

// stream reads everything that a shrinker makes of b, in pieces of any size.
func stream(b []byte, max int) (*shrinker, []byte, error) {
	s := &shrinker{max: int64(max), in: newReader(b)}
	copy(s.mark[:], "0123456789abcdef")
	var out []byte
	for {
		piece := make([]byte, 1+rand.IntN(50))
		n, err := s.Read(piece)
		out = append(out, piece[:n]...)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return s, out, nil
		}
		if err != nil {
			return s, out, err
		}
	}
}

// Packets within the limit pass unchanged, whatever comes before and after them;
// a larger one keeps header, topic and id.
func TestShrinkerChangesOnlyWhatIsTooLarge(t *testing.T) {
	var in, want []byte
	add := func(b []byte) { in, want = append(in, b...), append(want, b...) }
	payload := make([]byte, 300)
	for i := range payload {
		payload[i] = byte(i)
	}
	for range 200 {
		switch rand.IntN(4) {
		case 0:
			add(publishOf(byte(rand.IntN(3)), "t", payload[:rand.IntN(101)]))
		case 1:
			add(publishOf(1, strings.Repeat("t", 500), payload[:100])) // larger than the limit only with its topic
		case 2:
			add([]byte{0xd0, 0})
		case 3:
			large := publishOf(1, "a/b", payload)
			in = append(in, large...)
			body := append(bytes.Clone(large[3:10]), "0123456789abcdef"...) // topic and id
			body = binary.BigEndian.AppendUint64(body, 300)
			sum := sha(payload)
			body = append(body, sum[:]...)
			want = append(append(want, fixedHeader(0x32, int64(len(body)))...), body...)
		}
	}
	_, got, err := stream(in, 100)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
}

// A payload that looks like a stand-in of another connection is a payload.
func TestStandInCannotBeForged(t *testing.T) {
	s := newShrinker(nil, 10)
	forged := append([]byte("0123456789abcdef"), make([]byte, 40)...)
	if s.oversized("t", forged) != nil {
		t.Error("taken for a stand-in")
	}
	copy(forged, s.mark[:])
	if o := s.oversized("t", forged); o == nil || o.Topic != "t" || o.Size != 0 {
		t.Errorf("got %+v", o)
	}
	if s.oversized("t", forged[:55]) != nil {
		t.Error("a short one is taken")
	}
}

// FuzzShrinker: no stream makes it fail, allocate more than its input or hand
// out more than the limit in one packet's payload.
func FuzzShrinker(f *testing.F) {
	f.Add(publishOf(1, "a", make([]byte, 50)))
	f.Add([]byte{0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1, 'a'})
	f.Add([]byte{0x30, 3, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, out, _ := stream(b, 20)
		if len(out) > len(b)+len(b)/20*64 {
			t.Errorf("%d bytes out of %d", len(out), len(b))
		}
	})
}

// FuzzConnectHeader: whatever a stranger says first is judged within five bytes.
func FuzzConnectHeader(f *testing.F) {
	f.Add([]byte{0x10, 20})
	f.Add([]byte{0x10, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		head, err := readConnectHeader(r)
		if err == nil && (len(head) > 5 || !bytes.HasPrefix(b, head)) || len(b)-r.Len() > 5 {
			t.Errorf("took %x of %x", head, b)
		}
	})
}
