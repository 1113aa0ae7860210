package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/require"
)

// Everything is published once, in order, and only what was answered counts as acknowledged.
func TestPublishesInOrder(t *testing.T) {
	s := newServer(t, func(*server, received) bool { return true })
	log := publish(t, s.addr, 500, 10)
	if got := s.numbers(); !slices.Equal(got, sequence(500)) {
		t.Fatalf("the server received %d messages: %v", len(got), got)
	}
	if len(log.acked) != 500 || log.again != 0 {
		t.Fatalf("acknowledged %d, sent again %d", len(log.acked), log.again)
	}
}

// Never more than the window is unanswered.
func TestWindowIsKept(t *testing.T) {
	var mu sync.Mutex
	var held []received
	most := 0
	s := newServer(t, func(s *server, r received) bool {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, r)
		most = max(most, len(held))
		if len(held) == 7 {
			for _, h := range held {
				s.puback(h)
			}
			held = nil
		}
		return false
	})
	publish(t, s.addr, 70, 7)
	if most != 7 {
		t.Fatalf("%d messages were unanswered at a time, want 7", most)
	}
}

// What was not answered when the connection ended comes again on the next one: in order, with DUP, before anything new.
func TestUnansweredIsSentAgainWithDUP(t *testing.T) {
	s := newServer(t, func(s *server, r received) bool {
		switch {
		case r.conn == 1 && r.number == 29:
			s.hangUp()
			return false
		case r.conn == 1 && r.number%3 == 0:
			return true
		}
		return r.conn > 1
	})
	log := publish(t, s.addr, 50, 30)
	var first, second []received
	for _, r := range s.all() {
		if r.conn == 1 {
			first = append(first, r)
		} else {
			second = append(second, r)
		}
	}
	if len(first) != 30 || len(second) < 20 {
		t.Fatalf("received %d and %d", len(first), len(second))
	}
	if !slices.IsSortedFunc(second, func(a, b received) int { return int(a.number) - int(b.number) }) {
		t.Fatalf("out of order: %v", second)
	}
	dups := 0
	for _, r := range second {
		if r.number < 30 && !r.dup {
			t.Fatalf("number %d came twice, the second time without DUP", r.number)
		}
		if r.dup {
			dups++ // some may have been written and never arrived
		}
		if r.number < 30 && r.id != first[r.number].id {
			t.Fatalf("number %d came again under another packet id", r.number)
		}
	}
	if log.again != dups || len(log.acked) != 50 {
		t.Fatalf("sent again %d (the server saw %d), acknowledged %d", log.again, dups, len(log.acked))
	}
}

// A PUBACK for a packet that nobody sent acknowledges nothing, and one that comes twice counts once.
func TestForeignAndDoublePubacks(t *testing.T) {
	s := newServer(t, func(s *server, r received) bool {
		s.puback(received{id: r.id + 1000})
		s.puback(r)
		s.puback(r)
		return false
	})
	if log := publish(t, s.addr, 20, 5); len(log.acked) != 20 {
		t.Fatalf("acknowledged %d", len(log.acked))
	}
}

// A server that talks nonsense costs the connection, not a message.
func TestNonsenseEndsTheConnection(t *testing.T) {
	s := newServer(t, func(s *server, r received) bool {
		if r.conn == 1 && r.number == 5 {
			s.write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
			return false
		}
		return true
	})
	log := publish(t, s.addr, 20, 3)
	if len(log.acked) != 20 || len(log.lost) == 0 || !errors.Is(log.lost[0], ErrProtocol) {
		t.Fatalf("acknowledged %d, lost %v", len(log.acked), log.lost)
	}
}

// A message is never sent before it is due, and the schedule does not wait for acknowledgements.
func TestScheduleIsKept(t *testing.T) {
	var late []time.Duration
	start := time.Now().Add(50 * time.Millisecond)
	due := func(n uint64) time.Time { return start.Add(time.Duration(n) * 5 * time.Millisecond) }
	s := newServer(t, func(_ *server, r received) bool {
		late = append(late, time.Since(due(r.number)))
		return true
	})
	log := newLog(20)
	log.due = due
	if err := New(log.options(s.addr, 100)).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if early := slices.Min(late); early < 0 {
		t.Fatalf("a message came %v before it was due", -early)
	}
}

// Run ends with its context although the server never answers, also while it waits for CONNACK.
func TestRunEndsWithItsContext(t *testing.T) {
	silent := newServer(t, func(*server, received) bool { return false })
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	for _, addr := range []string{silent.addr, mute.Addr().String(), "127.0.0.1:1"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		begin := time.Now()
		err := New(newLog(5).options(addr, 2)).Run(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 3*time.Second {
			t.Fatalf("%s: %v after %v", addr, err, time.Since(begin))
		}
	}
}

// A real broker understands the packets, long topics and large payloads included.
func TestPublishesToMosquitto(t *testing.T) {
	path := require.Program(t, "mosquitto")
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	broker := exec.CommandContext(t.Context(), path, "-p", port)
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Wait() })
	log := newLog(300)
	log.topic = strings.Repeat("t/", 100)
	log.payload = bytes.Repeat([]byte("x"), 100<<10)
	if err := New(log.options(addr, 20)).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(log.acked) != 300 {
		t.Fatalf("acknowledged %d", len(log.acked))
	}
}

// eventLog is what a publisher told.
type eventLog struct {
	count   uint64
	topic   string
	payload []byte
	due     func(n uint64) time.Time

	next  uint64
	mu    sync.Mutex
	again int
	acked []uint64
	lost  []error
}

func newLog(count uint64) *eventLog {
	return &eventLog{count: count, topic: "a/b", due: func(uint64) time.Time { return time.Time{} }}
}

func (l *eventLog) options(addr string, window int) Options {
	return Options{
		Addr: addr, ClientID: "test", Window: window,
		Next: func() (Message, bool) {
			if l.next == l.count {
				return Message{}, false
			}
			l.next++
			payload := binary.BigEndian.AppendUint64(nil, l.next-1)
			return Message{Topic: l.topic, Payload: append(payload, l.payload...), Number: l.next - 1, Due: l.due(l.next - 1)}, true
		},
		Sent: func(_ Message, again bool) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if again {
				l.again++
			}
		},
		Acked: func(m Message, _ time.Time) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.acked = append(l.acked, m.Number)
		},
		Lost: func(err error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.lost = append(l.lost, err)
		},
	}
}

func publish(t *testing.T, addr string, count uint64, window int) *eventLog {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	log := newLog(count)
	if err := New(log.options(addr, window)).Run(ctx); err != nil {
		t.Fatal(err)
	}
	return log
}

// received is one PUBLISH as the server saw it.
type received struct {
	conn   int
	id     uint16
	dup    bool
	number uint64
}

// server is a broker of a few lines; answer decides about each PUBACK.
type server struct {
	addr   string
	answer func(*server, received) bool

	mu   sync.Mutex
	conn net.Conn
	got  []received
}

func newServer(t *testing.T, answer func(*server, received) bool) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	s := &server{addr: ln.Addr().String(), answer: answer}
	go func() {
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.serve(c, n)
		}
	}()
	return s
}

func (s *server) serve(c net.Conn, n int) {
	defer c.Close()
	r := bufio.NewReader(c)
	if _, body, err := readFull(r); err != nil || !bytes.HasPrefix(body, []byte("\x00\x04MQTT\x04")) {
		return
	}
	s.mu.Lock()
	s.conn = c
	s.mu.Unlock()
	s.write([]byte{typeConnack << 4, 2, 0, 0})
	for {
		first, body, err := readFull(r)
		if err != nil || first>>4 == typeDisconnect {
			return
		}
		topic := int(binary.BigEndian.Uint16(body))
		body = body[2+topic:]
		p := received{n, binary.BigEndian.Uint16(body), first&8 != 0, binary.BigEndian.Uint64(body[2:])}
		s.mu.Lock()
		s.got = append(s.got, p)
		s.mu.Unlock()
		if s.answer(s, p) {
			s.puback(p)
		}
	}
}

func readFull(r *bufio.Reader) (first byte, body []byte, err error) {
	if first, err = r.ReadByte(); err != nil {
		return 0, nil, err
	}
	length, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, length)
	_, err = io.ReadFull(r, body)
	return first, body, err
}

func (s *server) puback(r received) {
	s.write(binary.BigEndian.AppendUint16([]byte{typePuback << 4, 2}, r.id))
}

func (s *server) write(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.conn.Write(b) // the client may have gone
}

func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.conn.Close()
}

func (s *server) all() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (s *server) numbers() []uint64 {
	var list []uint64
	for _, r := range s.all() {
		list = append(list, r.number)
	}
	return list
}

func sequence(n uint64) []uint64 {
	var list []uint64
	for i := range n {
		list = append(list, i)
	}
	return list
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
