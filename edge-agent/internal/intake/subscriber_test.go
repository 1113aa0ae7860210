package intake_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/intake"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// onBrokers runs f against mochi in this process and against a real Mosquitto.
func onBrokers(t *testing.T, f func(t *testing.T, url string)) {
	t.Run("mochi", func(t *testing.T) { f(t, startMochi(t)) })
	t.Run("mosquitto", func(t *testing.T) { f(t, startMosquitto(t)) })
}

func startMochi(t *testing.T) string {
	t.Helper()
	broker := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(broker.AddHook(new(auth.AllowHook), nil), broker.AddListener(listeners.NewNet("l", l)), broker.Serve())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	return "mqtt://" + l.Addr().String()
}

// startMosquitto skips the test where there is none, unless it is required.
func startMosquitto(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/mosquitto")
	}
	if err != nil {
		if slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), "mosquitto") {
			t.Fatal("mosquitto is required and not installed")
		}
		t.Skip("SKIP: mosquitto is not installed")
	}
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 200\nmax_queued_messages 0\n", port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", conf)
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	eventually(t, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return "mqtt://" + address
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// subscribe runs a Subscriber to everything until the test or stop ends it.
func subscribe(t *testing.T, url string, s intake.Store, change func(*intake.SubscriberOptions)) (sub *intake.Subscriber, stop func()) {
	t.Helper()
	o := intake.SubscriberOptions{
		URL: url, ClientID: "agent", Filters: []string{"#"}, MaxPayload: 256 << 10, Store: s,
		Logger: slog.New(slog.DiscardHandler), Metrics: intake.NewMetrics(prometheus.NewRegistry()),
	}
	if change != nil {
		change(&o)
	}
	sub = intake.NewSubscriber(o)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- sub.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return sub, stop
}

func connected(t *testing.T, sub *intake.Subscriber) {
	t.Helper()
	eventually(t, func() bool { return sub.State().Connected })
}

// publisher is a paho client, as a sensor has one.
func publisher(t *testing.T, url string) func(qos byte, retain bool, topic string, payload []byte) {
	t.Helper()
	c := paho.NewClient(paho.NewClientOptions().AddBroker(url).SetClientID("sensor"))
	if token := c.Connect(); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		t.Fatal("connect: ", token.Error())
	}
	t.Cleanup(func() { c.Disconnect(100) })
	return func(qos byte, retain bool, topic string, payload []byte) {
		t.Helper()
		if token := c.Publish(topic, qos, retain, payload); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
			t.Fatal("publish: ", token.Error())
		}
	}
}

// Whatever a broker delivers is stored bit for bit.
func TestSubscriberStoresBitForBit(t *testing.T) {
	onBrokers(t, func(t *testing.T, url string) {
		s := &store{}
		sub, _ := subscribe(t, url, s, nil)
		connected(t, sub)
		publish := publisher(t, url)
		large := make([]byte, 256<<10)
		_, _ = rand.Read(large)
		want := []telemetry.Reading{
			{Topic: "empty", QoS: 1, Payload: []byte{}},
			{Topic: "not/utf-8", QoS: 1, Payload: []byte{0xff, 0xfe, 0, 0xc3}},
			{Topic: strings.Repeat("t", 65535), QoS: 1, Payload: []byte("long topic")},
			{Topic: "zero", QoS: 0, Payload: []byte("{}")},
			{Topic: "large", QoS: 1, Payload: large},
		}
		for _, r := range want {
			publish(r.QoS, false, r.Topic, r.Payload)
		}
		publish(2, false, "two", []byte("granted as 1"))
		got := s.wait(t, len(want)+1)
		for i := range want {
			if got[i].Topic != want[i].Topic || got[i].QoS != want[i].QoS || !bytes.Equal(got[i].Payload, want[i].Payload) {
				t.Errorf("%.20q: got %.20q QoS %d, %d bytes", want[i].Topic, got[i].Topic, got[i].QoS, len(got[i].Payload))
			}
		}
		if got[len(want)].QoS != 1 {
			t.Errorf("QoS 2 came as %d", got[len(want)].QoS)
		}
	})
}

// What is not durable is not acknowledged: the broker delivers it again to the
// next connection, and nothing that was durable with it.
func TestSubscriberAcknowledgesAfterTheCommit(t *testing.T) {
	onBrokers(t, func(t *testing.T, url string) {
		s := &store{manual: true}
		sub, stop := subscribe(t, url, s, nil)
		connected(t, sub)
		publish := publisher(t, url)
		for i := range 10 {
			publish(1, false, "a", fmt.Append(nil, i))
		}
		s.wait(t, 10)
		s.commit(6, nil)
		time.Sleep(100 * time.Millisecond) // for the acknowledgements to arrive
		s.release()                        // fails the other four
		stop()

		again := &store{}
		sub, _ = subscribe(t, url, again, nil)
		connected(t, sub)
		got := again.wait(t, 4)
		if p := payloads(got); !slices.Equal(p, []string{"6", "7", "8", "9"}) || !got[0].Dup {
			t.Errorf("got %q again", p)
		}
	})
}

// A store that fails ends the connection; the agent comes back by itself and
// gets again what was not stored.
func TestSubscriberReconnectsAfterAFailedCommit(t *testing.T) {
	onBrokers(t, func(t *testing.T, url string) {
		s := &store{fail: errors.New("full")}
		sub, _ := subscribe(t, url, s, nil)
		connected(t, sub)
		publisher(t, url)(1, false, "a", []byte("x"))
		eventually(t, func() bool { return !sub.State().Connected })
		s.mu.Lock()
		s.fail = nil
		before := len(s.got)
		s.mu.Unlock()
		got := s.wait(t, before+1)
		if last := got[len(got)-1]; string(last.Payload) != "x" || !last.Dup {
			t.Errorf("got %+v", last)
		}
	})
}

// What comes while the agent is away waits in the broker's session.
func TestSubscriberKeepsItsSession(t *testing.T) {
	onBrokers(t, func(t *testing.T, url string) {
		s := &store{}
		sub, stop := subscribe(t, url, s, nil)
		connected(t, sub)
		stop()
		publish := publisher(t, url)
		for i := range 50 {
			publish(1, false, "a", fmt.Append(nil, i))
		}
		sub, _ = subscribe(t, url, s, nil)
		connected(t, sub)
		got := payloads(s.wait(t, 50))
		if len(slices.Compact(got)) != 50 {
			t.Fatalf("got %q", got)
		}
	})
}

// payloads are sorted: mochi delivers again in any order.
func payloads(rs []telemetry.Reading) []string {
	var all []string
	for _, r := range rs {
		all = append(all, string(r.Payload))
	}
	slices.Sort(all)
	return all
}

// A retained message that the broker replays is acknowledged and not stored,
// unless settings say so; one that is published while the agent listens is.
func TestSubscriberRetained(t *testing.T) {
	onBrokers(t, func(t *testing.T, url string) {
		publish := publisher(t, url)
		publish(1, true, "r", []byte("old"))
		s := &store{}
		sub, stop := subscribe(t, url, s, nil)
		connected(t, sub)
		publish(1, true, "r", []byte("new"))
		if got := s.wait(t, 1); len(got) != 1 || string(got[0].Payload) != "new" || got[0].Retained {
			t.Fatalf("got %+v", got)
		}
		stop()
		s = &store{}
		sub, _ = subscribe(t, url, s, func(o *intake.SubscriberOptions) { o.Retained = true })
		connected(t, sub)
		if got := s.wait(t, 1); string(got[0].Payload) != "new" || !got[0].Retained {
			t.Fatalf("got %+v", got)
		}
	})
}

// A message above the limit is acknowledged and becomes a loss with topic, size
// and hash; those round it are stored in their order.
func TestSubscriberOversized(t *testing.T) {
	onBrokers(t, func(t *testing.T, url string) {
		s := &store{}
		sub, stop := subscribe(t, url, s, func(o *intake.SubscriberOptions) { o.MaxPayload = 1000 })
		connected(t, sub)
		publish := publisher(t, url)
		large := make([]byte, 3<<20)
		_, _ = rand.Read(large)
		publish(1, false, "a", make([]byte, 1000))
		publish(1, false, "too/large", large)
		publish(1, false, "just", large[:1001])
		publish(0, false, "zero", large[:2000])
		publish(1, false, "b", []byte("after"))
		s.wait(t, 2)
		want := []telemetry.Oversized{
			{Topic: "too/large", Size: 3 << 20, SHA256: sha256.Sum256(large)},
			{Topic: "just", Size: 1001, SHA256: sha256.Sum256(large[:1001])},
			{Topic: "zero", Size: 2000, SHA256: sha256.Sum256(large[:2000])},
		}
		if got := s.oversized(); !slices.Equal(got, want) {
			t.Fatalf("got %+v", got)
		}
		stop()
		sub, _ = subscribe(t, url, s, func(o *intake.SubscriberOptions) { o.MaxPayload = 1000 })
		connected(t, sub)
		time.Sleep(50 * time.Millisecond)
		if n := len(s.oversized()) + len(s.readings()); n != 5 {
			t.Fatalf("%d messages, want 5: something came again", n)
		}
	})
}

// Ten thousand messages in a burst all arrive, once, in order.
func TestSubscriberBurst(t *testing.T) {
	onBrokers(t, func(t *testing.T, url string) {
		const n = 10000
		s := &store{}
		sub, _ := subscribe(t, url, s, nil)
		connected(t, sub)
		c := paho.NewClient(paho.NewClientOptions().AddBroker(url).SetClientID("sensor"))
		if token := c.Connect(); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
			t.Fatal("connect: ", token.Error())
		}
		defer c.Disconnect(100)
		var last paho.Token
		for i := range n {
			last = c.Publish("a", 1, false, fmt.Append(nil, i))
		}
		last.WaitTimeout(30 * time.Second)
		for i, r := range s.wait(t, n) {
			if string(r.Payload) != fmt.Sprint(i) {
				t.Fatalf("got %q at %d", r.Payload, i)
			}
		}
	})
}

// A broker that is not there yet is no error: the agent waits for it and says so.
func TestSubscriberWaitsForItsBroker(t *testing.T) {
	address := freeAddress(t)
	sub, _ := subscribe(t, "mqtt://"+address, &store{}, nil)
	eventually(t, func() bool { return strings.Contains(sub.State().Error, "refused") })
}
