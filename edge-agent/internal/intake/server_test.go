package intake_test

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/intake"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Nothing is acknowledged before the commit, and everything after it.
func TestPubackFollowsTheCommit(t *testing.T) {
	s := &store{manual: true}
	c := connect3(t, serve(t, s, nil), "sensor")
	c.publish(2, 7, "a/b", []byte("1"))
	s.wait(t, 1)
	c.silent(100 * time.Millisecond)
	s.commit(1, nil)
	c.expect(0x40, 0, 7)
}

// Many messages of one client wait for one commit, and their acknowledgements
// come in the order of the messages.
func TestPubacksComeInOrder(t *testing.T) {
	s := &store{manual: true}
	c := connect3(t, serve(t, s, nil), "sensor")
	ids := rand.Perm(500)
	var all []byte
	for _, id := range ids {
		all = append(all, publishPacket(4, 2, uint16(id+1), "a", []byte("x"))...)
	}
	c.send(all)
	s.wait(t, len(ids))
	s.commit(len(ids), nil)
	for _, id := range ids {
		c.expect(0x40, byte((id+1)>>8), byte(id+1))
	}
}

// When the commit fails there is no PUBACK for the message nor for any behind
// it, and the session ends so that the client sends again.
func TestNoPubackWhenTheCommitFails(t *testing.T) {
	s := &store{manual: true}
	c := connect3(t, serve(t, s, nil), "sensor")
	for id := range uint16(4) {
		c.publish(2, id+1, "a", nil)
	}
	s.wait(t, 4)
	s.commit(1, nil)
	c.expect(0x40, 0, 1)
	s.commit(1, errors.New("disk gone"))
	s.commit(2, nil)
	c.closed()
}

// A store that is full ends the session without a PUBACK, and an MQTT 5 client
// is told that a quota is exceeded.
func TestFullStoreEndsTheSession(t *testing.T) {
	s := &store{refuse: errors.New("full")}
	server := serve(t, s, nil)
	c := connect3(t, server, "old")
	c.publish(2, 1, "a", nil)
	c.closed()

	c = dial(t, server)
	c.version = 5
	c.send(connectPacket(5, "new", 0x02, 60, nil))
	if first, _, err := c.receive(10 * time.Second); err != nil || first != 0x20 {
		t.Fatalf("got %#x, %v", first, err)
	}
	c.publish(2, 1, "a", nil)
	first, body, err := c.receive(10 * time.Second)
	if err != nil || first != 0xe0 || body[0] != 0x97 {
		t.Fatalf("got %#x %x, %v; want DISCONNECT with reason 0x97", first, body, err)
	}
	c.closed()
}

// What goes in comes out bit for bit, with the topic, QoS and DUP it came with.
func TestMessagesAreStoredBitForBit(t *testing.T) {
	s := &store{}
	c := connect3(t, serve(t, s, nil), "sensor")
	large := make([]byte, 256<<10)
	for i := range large {
		large[i] = byte(rand.Uint32())
	}
	want := []telemetry.Reading{
		{Topic: "empty", QoS: 1, Payload: nil},
		{Topic: "not/utf-8", QoS: 1, Payload: []byte{0xff, 0xfe, 0, 0xc3}},
		{Topic: strings.Repeat("t", 65535), QoS: 1, Payload: []byte("long topic")},
		{Topic: "ümlaut/温度", QoS: 0, Payload: []byte("{}")},
		{Topic: "dup", QoS: 1, Dup: true, Payload: []byte("again")},
		{Topic: "large", QoS: 1, Payload: large},
		{Topic: "retained", QoS: 1, Payload: []byte("a sensor's own RETAIN is no replay")},
	}
	for i, r := range want {
		flags := r.QoS << 1
		if r.Dup {
			flags |= 8
		}
		if r.Topic == "retained" {
			flags |= 1
		}
		c.publish(flags, uint16(i+1), r.Topic, r.Payload)
		if r.QoS > 0 {
			c.expect(0x40, 0, byte(i+1))
		}
	}
	got := s.wait(t, len(want))
	for i := range want {
		if got[i].Topic != want[i].Topic || got[i].QoS != want[i].QoS || got[i].Dup != want[i].Dup ||
			got[i].Retained || !bytes.Equal(got[i].Payload, want[i].Payload) {
			t.Errorf("%.20q: got %.20q QoS %d dup %v, %d bytes", want[i].Topic, got[i].Topic, got[i].QoS, got[i].Dup, len(got[i].Payload))
		}
	}
}

// QoS 2 is stored before PUBREC, PUBREL is answered at once, and a message sent
// again between the two is stored again: at least once.
func TestQoS2IsStoredAtLeastOnce(t *testing.T) {
	s := &store{manual: true}
	server := serve(t, s, nil)
	for _, version := range []byte{4, 5} {
		c := dial(t, server)
		c.version = version
		c.send(connectPacket(version, "q2", 0x02, 60, nil))
		if first, _, err := c.receive(10 * time.Second); err != nil || first != 0x20 {
			t.Fatalf("got %#x, %v", first, err)
		}
		before := len(s.readings())
		c.publish(4, 9, "two", []byte("x"))
		s.wait(t, before+1)
		c.silent(50 * time.Millisecond)
		s.commit(1, nil)
		c.expect(0x50, 0, 9)
		c.publish(4|8, 9, "two", []byte("x"))
		s.wait(t, before+2)
		s.commit(1, nil)
		c.expect(0x50, 0, 9)
		c.send([]byte{0x62, 2, 0, 9})
		c.expect(0x70, 0, 9)
	}
}

// A client cannot make the agent hold more than its window: the rest stays on
// the wire until something is committed.
func TestInFlightIsBoundedByCount(t *testing.T) {
	s := &store{manual: true}
	c := connect3(t, serve(t, s, nil), "flood")
	defer s.release()
	go func() {
		for i := range 3000 {
			if _, err := c.Write(publishPacket(4, 2, uint16(i+1), "a", []byte("x"))); err != nil {
				return
			}
		}
	}()
	s.wait(t, 1024)
	time.Sleep(50 * time.Millisecond)
	if n := len(s.readings()); n != 1024 {
		t.Fatalf("%d messages in flight, want 1024", n)
	}
	if s.flushes.Load() == 0 {
		t.Error("the store was not told that the window is full")
	}
	s.commit(1000, nil)
	s.wait(t, 2024)
}

// The window also counts bytes, and one message always fits.
func TestInFlightIsBoundedByBytes(t *testing.T) {
	s := &store{manual: true}
	c := connect3(t, serve(t, s, nil), "flood")
	defer s.release()
	payload := make([]byte, 200<<10)
	go func() {
		for i := range 8 {
			if _, err := c.Write(publishPacket(4, 2, uint16(i+1), "a", payload)); err != nil {
				return
			}
		}
	}()
	s.wait(t, 5)
	time.Sleep(50 * time.Millisecond)
	if n := len(s.readings()); n != 5 {
		t.Fatalf("%d messages of 200 KiB in flight, want 5", n)
	}
	s.commit(5, nil)
	s.wait(t, 8)
}

// QoS 0 gives its room back without an acknowledgement.
func TestQoS0IsStoredWithoutAcknowledgement(t *testing.T) {
	s := &store{}
	c := connect3(t, serve(t, s, nil), "q0")
	for range 5000 {
		c.publish(0, 0, "a", []byte("x"))
	}
	s.wait(t, 5000)
	c.silent(20 * time.Millisecond)
}

// A packet above the limit ends the session and stores nothing.
func TestLargerThanMaxPayloadIsRefused(t *testing.T) {
	s := &store{}
	server := serve(t, s, func(o *intake.ServerOptions) { o.MaxPayload = 1000 })
	c := connect3(t, server, "a")
	c.publish(2, 1, "a", make([]byte, 1001))
	c.closed()
	c = connect3(t, server, "b")
	c.send([]byte{0x32, 0xff, 0xff, 0xff, 0x7f}) // claims 256 MiB
	c.closed()
	c = connect3(t, server, "c")
	c.publish(2, 1, "a", make([]byte, 1000))
	c.expect(0x40, 0, 1)
	if n := len(s.readings()); n != 1 {
		t.Fatalf("%d stored, want 1", n)
	}
}

// A topic that may not be published to ends the session, rather than leaving the
// client to wait for its PUBACK for ever.
func TestSystemTopicEndsTheSession(t *testing.T) {
	s := &store{}
	c := connect3(t, serve(t, s, nil), "a")
	c.publish(2, 1, "$SYS/x", nil)
	c.closed()
	if n := len(s.readings()); n != 0 {
		t.Fatalf("%d stored, want 0", n)
	}
}

// Subscriptions are refused in so many words, and the session goes on.
func TestSubscriptionsAreRefused(t *testing.T) {
	s := &store{}
	c := connect3(t, serve(t, s, nil), "a")
	c.send(packet(0x82, append(append([]byte{0, 5}, text("#")...), 1)))
	c.expect(0x90, 0, 5, 0x80)
	c.publish(2, 6, "a", nil)
	c.expect(0x40, 0, 6)
}

// A will is stored when its client goes without a DISCONNECT, and not otherwise.
func TestWillIsStored(t *testing.T) {
	s := &store{}
	server := serve(t, s, nil)
	will := append(text("gone"), text("offline")...)
	c := dial(t, server)
	c.send(connectPacket(4, "a", 0x02|0x04|1<<3|0x20, 60, will))
	c.expect(0x20, 0, 0)
	c.send([]byte{0xe0, 0})
	c.closed()
	c = dial(t, server)
	c.send(connectPacket(4, "b", 0x02|0x04|1<<3|0x20, 60, will))
	c.expect(0x20, 0, 0)
	c.Close()
	got := s.wait(t, 1)
	time.Sleep(20 * time.Millisecond)
	if len(s.readings()) != 1 || got[0].Topic != "gone" || string(got[0].Payload) != "offline" || got[0].QoS != 1 {
		t.Fatalf("got %+v", s.readings())
	}
}

// Connections beyond the limit are closed, also while those before them have not
// said who they are.
func TestClientsAreBounded(t *testing.T) {
	server := serve(t, &store{}, func(o *intake.ServerOptions) { o.MaxClients = 2 })
	connect3(t, server, "a")
	idle := dial(t, server)
	dial(t, server).closed()
	idle.Close()
	eventually(t, func() bool {
		c := dial(t, server)
		defer c.Close()
		_, err := c.Write(connectPacket(4, "c", 2, 60, nil))
		first, _, rerr := c.receive(time.Second)
		return err == nil && rerr == nil && first == 0x20
	})
}

// What is no CONNECT, or an immense one, ends the connection before anything is
// allocated for it.
func TestStrangersAreRefused(t *testing.T) {
	server := serve(t, &store{}, nil)
	f := func(first ...byte) {
		t.Helper()
		c := dial(t, server)
		c.send(first)
		c.closed()
	}
	f([]byte("GET / HTTP/1.1\r\n\r\n")...)
	f(0x10, 0xff, 0xff, 0xff, 0x7f)
	f(0x10, 0xff, 0xff, 0xff, 0xff, 0xff)
	f(publishPacket(4, 2, 1, "a", nil)...)
}

// A client that connects again under its id takes its session over, and what it
// sends again is stored again.
func TestSessionIsTakenOver(t *testing.T) {
	s := &store{manual: true}
	server := serve(t, s, nil)
	first := dial(t, server)
	first.send(connectPacket(4, "same", 0, 60, nil))
	first.expect(0x20, 0, 0)
	first.publish(2, 3, "a", []byte("x"))
	s.wait(t, 1)
	second := dial(t, server)
	second.send(connectPacket(4, "same", 0, 60, nil))
	second.expect(0x20, 1, 0)
	first.closed()
	s.commit(1, nil) // nobody is there to be told
	second.publish(2|8, 3, "a", []byte("x"))
	s.wait(t, 2)
	s.commit(1, nil)
	second.expect(0x40, 0, 3)
	eventually(t, func() bool { return server.Sessions() == 1 })
}

// Told to stop, the server acknowledges what is committed meanwhile and then
// closes.
func TestStopWaitsForCommits(t *testing.T) {
	s := &store{manual: true}
	o := intake.ServerOptions{
		Address: "127.0.0.1:0", MaxPayload: 1000, Store: s,
		Logger: slog.New(slog.DiscardHandler), Metrics: intake.NewMetrics(prometheus.NewRegistry()),
	}
	server, err := intake.Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := contextWithStop(t)
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	c := connect3(t, server, "a")
	c.publish(2, 1, "a", nil)
	s.wait(t, 1)
	stop()
	time.Sleep(20 * time.Millisecond)
	c.publish(2, 2, "too late", nil)
	s.commit(1, nil)
	c.expect(0x40, 0, 1)
	c.closed()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n := len(s.readings()); n != 1 {
		t.Fatalf("%d stored, want 1", n)
	}
}

// A port in use is an error that says what to do.
func TestPortInUse(t *testing.T) {
	server := serve(t, &store{}, nil)
	_, err := intake.Listen(intake.ServerOptions{
		Address: server.Addr().String(), Store: &store{},
		Logger: slog.New(slog.DiscardHandler), Metrics: intake.NewMetrics(prometheus.NewRegistry()),
	})
	if err == nil || !strings.Contains(err.Error(), "intake.mqtt.listen") {
		t.Fatalf("got %v", err)
	}
}

// Whatever goes wrong, payloads and topics do not reach the log.
func TestPayloadsAreNotLogged(t *testing.T) {
	var log syncBuffer
	s := &store{refuse: errors.New("full")}
	server := serve(t, s, func(o *intake.ServerOptions) {
		o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	c := connect3(t, server, "chatty")
	c.publish(2, 1, "topic-secret", []byte("payload-secret"))
	c.closed()
	c = connect3(t, server, "chatty")
	c.publish(2, 1, "$SYS/topic-secret", []byte("payload-secret"))
	c.closed()
	c = connect3(t, server, "chatty")
	c.send(packet(0x32, []byte("\xff\xffpayload-secret")))
	c.closed()
	if out := log.String(); !strings.Contains(out, "chatty") || strings.Contains(out, "secret") {
		t.Fatalf("log:\n%s", out)
	}
}
