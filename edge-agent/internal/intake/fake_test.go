package intake_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/intake"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// store commits what it is given when it is told to, or at once.
type store struct {
	mu      sync.Mutex
	manual  bool  // done is called by commit only
	refuse  error // from Submit
	fail    error // from done
	waiting []func(uint64, error)
	got     []telemetry.Reading
	large   []telemetry.Oversized
	flushes atomic.Int32
}

func (s *store) Flush() { s.flushes.Add(1) }

func (s *store) Submit(_ context.Context, r *telemetry.Reading, o *telemetry.Oversized, done func(uint64, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	if r != nil {
		kept := *r
		kept.Payload = bytes.Clone(r.Payload)
		s.got = append(s.got, kept)
	} else {
		s.large = append(s.large, *o)
	}
	if s.manual {
		s.waiting = append(s.waiting, done)
		return nil
	}
	done(uint64(len(s.got)), s.fail)
	return nil
}

// commit answers the first n that wait.
func (s *store) commit(n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, done := range s.waiting[:n] {
		done(0, err)
	}
	s.waiting = s.waiting[n:]
}

// release fails whatever waits and all that is still to come.
func (s *store) release() {
	s.mu.Lock()
	s.manual, s.fail = false, errors.New("test over")
	n := len(s.waiting)
	s.mu.Unlock()
	s.commit(n, s.fail)
}

func (s *store) readings() []telemetry.Reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}

func (s *store) oversized() []telemetry.Oversized {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.large
}

func (s *store) wait(t testing.TB, n int) []telemetry.Reading {
	t.Helper()
	eventually(t, func() bool { return len(s.readings()) >= n })
	return s.readings()
}

func eventually(t testing.TB, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited 10 s in vain")
		}
	}
}

// serve runs a Server on a free port of loopback until the test ends.
func serve(t testing.TB, s intake.Store, change func(*intake.ServerOptions)) *intake.Server {
	t.Helper()
	o := intake.ServerOptions{
		Address: "127.0.0.1:0", MaxPayload: 256 << 10, MaxClients: 8, Store: s,
		Logger: slog.New(slog.DiscardHandler), Metrics: intake.NewMetrics(prometheus.NewRegistry()),
	}
	if change != nil {
		change(&o)
	}
	server, err := intake.Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return server
}

// client speaks MQTT byte by byte, so that a test sees what is on the wire.
type client struct {
	net.Conn
	t       testing.TB
	in      *bufio.Reader
	version byte
}

func dial(t testing.TB, s *intake.Server) *client {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{Conn: conn, t: t, in: bufio.NewReader(conn), version: 4}
}

// connect3 connects with MQTT 3.1.1 and a clean session.
func connect3(t testing.TB, s *intake.Server, id string) *client {
	t.Helper()
	c := dial(t, s)
	c.send(connectPacket(4, id, 0x02, 60, nil))
	c.expect(0x20, 0, 0)
	return c
}

func connectPacket(version byte, id string, flags byte, keepalive uint16, rest []byte) []byte {
	body := append(text("MQTT"), version, flags, byte(keepalive>>8), byte(keepalive))
	if version == 5 {
		body = append(body, 0)
	}
	return packet(0x10, append(append(body, text(id)...), rest...))
}

func text(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

func packet(first byte, body []byte) []byte {
	b := []byte{first}
	for n := len(body); ; {
		digit := byte(n & 0x7f)
		if n >>= 7; n == 0 {
			b = append(b, digit)
			break
		}
		b = append(b, digit|0x80)
	}
	return append(b, body...)
}

// publishPacket takes the flags DUP 8, QoS 2 and 4, RETAIN 1.
func publishPacket(version, flags byte, id uint16, topic string, payload []byte) []byte {
	body := text(topic)
	if flags&6 != 0 {
		body = binary.BigEndian.AppendUint16(body, id)
	}
	if version == 5 {
		body = append(body, 0)
	}
	return packet(0x30|flags, append(body, payload...))
}

func (c *client) send(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) publish(flags byte, id uint16, topic string, payload []byte) {
	c.t.Helper()
	c.send(publishPacket(c.version, flags, id, topic, payload))
}

func (c *client) receive(wait time.Duration) (first byte, body []byte, err error) {
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, nil, err
	}
	if first, err = c.in.ReadByte(); err != nil {
		return 0, nil, err
	}
	size, err := binary.ReadUvarint(c.in) // MQTT's variable integer is a uvarint
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, size)
	_, err = io.ReadFull(c.in, body)
	return first, body, err
}

func (c *client) expect(first byte, body ...byte) {
	c.t.Helper()
	f, b, err := c.receive(10 * time.Second)
	if err != nil {
		c.t.Fatalf("want packet %#x: %v", first, err)
	}
	if f != first || !bytes.Equal(b, body) {
		c.t.Fatalf("got packet %#x %x, want %#x %x", f, b, first, body)
	}
}

// silent fails when anything comes within the time.
func (c *client) silent(d time.Duration) {
	c.t.Helper()
	first, body, err := c.receive(d)
	var late net.Error
	if err == nil {
		c.t.Fatalf("got packet %#x %x, want none", first, body)
	}
	if !errors.As(err, &late) || !late.Timeout() {
		c.t.Fatalf("want silence, got %v", err)
	}
}

// closed fails unless the other side closes without another packet but for
// DISCONNECT, which mochi sends to every version of MQTT.
func (c *client) closed() {
	c.t.Helper()
	first, body, err := c.receive(10 * time.Second)
	if err == nil && first == 0xe0 {
		first, body, err = c.receive(10 * time.Second)
	}
	if err == nil {
		c.t.Fatalf("got packet %#x %x, want the connection closed", first, body)
	}
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		c.t.Fatal("the connection is still open")
	}
}
