package jetstream

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Settings that cannot work are refused with the name of the key; secrets are not in the text.
func TestWrongSettingsAreNamed(t *testing.T) {
	f := func(want string, kv ...string) {
		t.Helper()
		props := map[string]string{"natsURL": "nats://h"}
		for i := 0; i < len(kv); i += 2 {
			props[kv[i]] = kv[i+1]
		}
		m, _, err := parseMetadata(props)
		if err == nil {
			_, err = m.connectOptions()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got error %v, want one with %q", kv, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v: the error shows a secret: %v", kv, err)
		}
	}
	f("natsURL", "natsURL", " ")
	f("jwt and seedKey", "jwt", "x")
	f("tls_client_cert and tls_client_key", "tls_client_key", "x")
	f("user and password", "user", "x")
	f("seedKey", "jwt", "x", "seedKey", "s3cret")
	f("deliverPolicy", "deliverPolicy", "sometimes")
	f("ackPolicy", "ackPolicy", "never")
	f("concurrency", "concurrency", "many")
	f("concurrency", "concurrencyMode", "many")
	f("streamStorage", "streamStorage", "tape")
	f("ackWait", "ackWait", "10ms")
	f("checkInterval", "checkInterval", "0")
	f("tls_ca_cert", "tls_ca_cert", "/does/not/exist")
	f("tls_ca_cert", "tls_ca_cert", "-----BEGIN NOTHING-----")
	f("decode metadata", "maxAckPending", "lots")
}

// Names that are not known are reported, those of the runtime are not, and empty values count as absent.
func TestUnknownAndEmptySettings(t *testing.T) {
	m, unknown, err := parseMetadata(map[string]string{
		"natsURL": "nats://h", "ackwait": "40s", "maxAckPendng": "3", "publishingScopes": "a=b", "jwt": "", "seedKey": " ", "concurrencyMode": "parallel",
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(unknown, []string{"maxAckPendng"}) {
		t.Errorf("unknown: got %q, want only maxAckPendng", unknown)
	}
	if m.AckWait != 40*time.Second || m.Concurrency != "parallel" || m.Jwt != "" {
		t.Errorf("got ackWait %v, concurrency %q, jwt %q", m.AckWait, m.Concurrency, m.Jwt)
	}
}

// Two topics, or two apps, never share a consumer, and its name is one that the server takes.
func TestDurableNames(t *testing.T) {
	f := func(base, topic, want string) {
		t.Helper()
		if got := (metadata{ConsumerID: base}).durable(topic); got != want {
			t.Errorf("%s, %s: got %q, want %q", base, topic, got, want)
		}
	}
	f("cloud-api", "up.live", "cloud-api_up_live")
	f("edge-agent", "down.greenhouse-1", "edge-agent_down_greenhouse-1")
	seen := map[string]string{}
	for _, c := range [][2]string{{"a", "b.c"}, {"a.b", "c"}, {"a", "b_c"}, {"a_b", "c"}, {"a", "b c"}, {"a", "b*c"}, {"a", "b.>"}, {"a", "b/c"}} {
		name := metadata{ConsumerID: c[0]}.durable(c[1])
		if strings.ContainsAny(name, " .*>/\\") {
			t.Errorf("%q: name %q has characters that a consumer's name cannot have", c, name)
		}
		key := c[0] + "." + c[1] // what follows from dots alone is the same on purpose: the base has none in practice
		if other, ok := seen[name]; ok && other != key {
			t.Errorf("%q and %q share %q", other, key, name)
		}
		seen[name] = key
	}
}

// Subjects are matched as NATS matches them.
func TestSubjectMatching(t *testing.T) {
	f := func(pattern, subject string, want bool) {
		t.Helper()
		if got := matches(pattern, subject); got != want {
			t.Errorf("%s, %s: got %v, want %v", pattern, subject, got, want)
		}
	}
	f("down.>", "down.a", true)
	f("down.>", "down.a.b", true)
	f("down.>", "down", false)
	f("down.>", "up.a", false)
	f("up.live", "up.live", true)
	f("up.live", "up.live.x", false)
	f("up.*", "up.live", true)
	f("up.*", "up", false)
	f("up.*", "up.live.x", false)
}

// Receipts start with the last of each subject, frames with the first there is, unless the file says otherwise.
func TestDeliverPolicyFollowsTopic(t *testing.T) {
	f := func(policy, topic string, want jetstream.DeliverPolicy) {
		t.Helper()
		m := defaultMetadata()
		m.DeliverPolicy = policy
		if got := m.deliverPolicy(topic); got != want {
			t.Errorf("%q, %s: got %v, want %v", policy, topic, got, want)
		}
	}
	f("", "up.live", jetstream.DeliverAllPolicy)
	f("", "down.a", jetstream.DeliverLastPerSubjectPolicy)
	f("new", "down.a", jetstream.DeliverNewPolicy)
	f("all", "down.a", jetstream.DeliverAllPolicy)
}

// The pause after a refusal grows with each delivery, never above ackWait and never to nothing.
func TestNakDelayGrows(t *testing.T) {
	f := func(delivered uint64, low, high time.Duration) {
		t.Helper()
		for range 100 {
			if d := nakDelay(delivered, 30*time.Second); d < low || d > high {
				t.Fatalf("delivery %d: got %v, want %v to %v", delivered, d, low, high)
			}
		}
	}
	f(1, 125*time.Millisecond, 250*time.Millisecond)
	f(3, 500*time.Millisecond, time.Second)
	f(1<<40, 15*time.Second, 30*time.Second)
}
