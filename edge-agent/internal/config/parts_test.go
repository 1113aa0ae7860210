package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// A filter is what MQTT 3.1.1, section 4.7, lets a client subscribe to.
func TestValidFilter(t *testing.T) {
	for _, f := range []string{"#", "+", "a", "/", "a/#", "a/+/b", "+/+", "/+", "a//b", "$SYS/#", "ü/温", strings.Repeat("x", 65535)} {
		if !validFilter(f) {
			t.Errorf("%.20q is refused", f)
		}
	}
	for _, f := range []string{"", "a#", "a/#/b", "a+", "a/b+/c", "##", "a\x00b", strings.Repeat("x", 65536)} {
		if validFilter(f) {
			t.Errorf("%.20q is taken", f)
		}
	}
}

// Only an address that other machines cannot reach is loopback; one without a
// host means all of them.
func TestLoopback(t *testing.T) {
	for _, a := range []string{"127.0.0.1:1883", "127.8.8.8:1", "localhost:1883", "[::1]:1883"} {
		if !Loopback(a) {
			t.Errorf("%s is not", a)
		}
	}
	for _, a := range []string{":1883", "0.0.0.0:1883", "[::]:1883", "192.168.1.2:1883", "pi.local:1883", "127.0.0.1", "", "localhost.example.com:1"} {
		if Loopback(a) {
			t.Errorf("%s is", a)
		}
	}
}

// The nearest key is what a person most likely meant.
func TestNearest(t *testing.T) {
	c := Default()
	known := leaves(&c)
	f := func(key, want string) {
		t.Helper()
		if got := nearest(key, known); got != want {
			t.Errorf("%s: got %s, want %s", key, got, want)
		}
	}
	f("agnet", "agent")
	f("outbox.max_byte", "outbox.max_bytes")
	f("outbox.maxbytes", "outbox.max_bytes")
	f("intake.mqtt.broker.filter", "intake.mqtt.broker.filters")
	f("status.listn", "status.listen")
	f("enroll.url", "enrol.url")
}

// The edit distance is symmetrical and zero only between equals.
func TestDistance(t *testing.T) {
	f := func(a, b string, want int) {
		t.Helper()
		if got := distance(a, b); got != want {
			t.Errorf("%q to %q: got %d, want %d", a, b, got, want)
		}
		if got := distance(b, a); got != want {
			t.Errorf("%q to %q: got %d, want %d", b, a, got, want)
		}
	}
	f("", "", 0)
	f("a", "", 1)
	f("abc", "abc", 0)
	f("abc", "abd", 1)
	f("kitten", "sitting", 3)
	f("full", "fall", 1)
}

// Every key can come from the environment, whatever its type.
func TestEveryKeyFromTheEnvironment(t *testing.T) {
	users := t.TempDir() + "/file"
	if err := os.WriteFile(users, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{
		"agent": "pi-9", "data": "/srv", "log.level": "debug", "log.format": "json",
		"intake.max_payload": "1KiB", "intake.retained": "store", "intake.mqtt.listen": "0.0.0.0:1", "intake.mqtt.max_clients": "7",
		"intake.mqtt.broker.url": "mqtts://h", "intake.mqtt.broker.client_id": "c", "intake.mqtt.broker.filters": "a,b/#",
		"intake.mqtt.broker.username": "u", "outbox.dir": "/o", "outbox.profile": "wear", "outbox.interval": "1s",
		"outbox.max_bytes": "32MiB", "outbox.keep_bytes": "0", "outbox.reserve_bytes": "0", "outbox.max_age": "1h",
		"outbox.full": "drop-oldest", "uplink.dapr_address": "h:1", "uplink.pubsub": "p", "uplink.max_window": "64KiB",
		"uplink.idle_interval": "1s", "enrol.url": "https://c", "status.listen": "h:2",
	}
	c := Default()
	known := leaves(&c)
	var environ []string
	for _, l := range known {
		v, ok := values[l.key]
		if !ok {
			if !strings.HasSuffix(l.key, "_file") {
				t.Errorf("no value for %s", l.key)
			}
			v = users
		}
		environ = append(environ, Prefix+strings.ToUpper(strings.ReplaceAll(l.key, ".", "__"))+"="+v)
	}
	c, _, err := Load("", environ)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leaves(&c) {
		want := values[l.key]
		switch {
		case strings.HasSuffix(l.key, "_file"):
			want = users
		case l.key == "intake.mqtt.broker.filters":
			want = "[a b/#]"
		}
		if got := fmt.Sprint(l.value.Interface()); got != want {
			t.Errorf("%s: got %s, want %s", l.key, got, want)
		}
	}
}

// A host's name becomes an agent id where that is possible, and otherwise the
// error says which key to set.
func TestAgentFromTheHostsName(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := Load("", nil)
	want := strings.ReplaceAll(strings.ToLower(host), ".", "-")
	if err == nil && c.Agent != want || err != nil && !strings.Contains(err.Error(), "agent = ") {
		t.Errorf("got %q, %v; want %q", c.Agent, err, want)
	}
}
