package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const example = "../../edge-agent.example.yaml"

func settings(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "edge-agent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The example file sets every key, each to its default, so that it describes
// exactly what holds without it.
func TestExampleEqualsDefaults(t *testing.T) {
	want, _, err := Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := Load(example, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("example:\n%+v\ndefaults:\n%+v", got, want)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	c := Default()
	for _, l := range leaves(&c) {
		parts := strings.Split(l.key, ".")
		if !strings.Contains(string(text), strings.Repeat("  ", len(parts)-1)+parts[len(parts)-1]+":") {
			t.Errorf("the example does not set %s", l.key)
		}
	}
}

// Defaults, then the file, then the environment: the last one counts.
func TestEnvironmentGoesBeforeFile(t *testing.T) {
	path := settings(t, "agent: from-file\nuplink: {pubsub: from-file}\nintake: {mqtt: {broker: {url: 'mqtt://localhost', filters: [a/#, b]}}}\n")
	c, _, err := Load(path, []string{"EDGE_AGENT=from-env", "EDGE_INTAKE__MQTT__BROKER__FILTERS=x/#, y", "EDGE_OUTBOX__MAX_BYTES=1.5GiB", "OTHER=1"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Agent != "from-env" || c.Uplink.PubSub != "from-file" || c.Outbox.MaxBytes != 3<<29 || c.Outbox.Full != "refuse" ||
		!reflect.DeepEqual(c.Intake.MQTT.Broker.Filters, []string{"x/#", "y"}) {
		t.Errorf("got %+v", c)
	}
}

// What is derived from other keys is filled in.
func TestDerivedValues(t *testing.T) {
	c, _, err := Load(settings(t, "agent: pi.1\ndata: /srv/h\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Outbox.Dir != "/srv/h/outbox" || c.Intake.MQTT.Broker.ClientID != "holdfast-pi-1" {
		t.Errorf("got %+v", c)
	}
}

// Each fault names the key, the value and what is allowed, or the nearest key.
func TestFaultsAreNamed(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		_, _, err := Load(settings(t, text), nil)
		if err == nil {
			t.Errorf("%q is taken", text)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: got %q, want %q in it", text, err, w)
			}
		}
	}
	f("intake: {max_payloud: 1KiB}", "intake.max_payloud", "nearest is intake.max_payload")
	f("outbx: 1", "outbx", "unknown")
	f("outbox: 5", "outbox", "section")
	f("outbox: {full: drop}", `outbox.full = "drop"`, "refuse or drop-oldest")
	f("outbox: {interval: 250}", `outbox.interval = "250"`, "250ms")
	f("outbox: {interval: 1h}", "outbox.interval", "1ms to 10s")
	f("outbox: {max_bytes: much}", `outbox.max_bytes = "much"`, "64MiB")
	f("outbox: {max_bytes: -1}", "outbox.max_bytes", "64MiB")
	f("outbox: {max_bytes: 1KiB}", "outbox.max_bytes", "16MiB to")
	f("outbox: {keep_bytes: 5GiB}", "outbox.keep_bytes", "to 4GiB")
	f("outbox: {max_age: 1s}", "outbox.max_age", "1m")
	f("agent: Pi.local", `agent = "Pi-local"`, "a-z")
	f("agent: [a]", "agent", "want text")
	f("log: {level: loud}", "log.level", "debug or info")
	f("intake: {max_payload: 1MiB}", "intake.max_payload", "1 to 512KiB")
	f("intake: {mqtt: {listen: '1883'}}", "intake.mqtt.listen", "HOST:PORT")
	f("intake: {mqtt: {listen: '0.0.0.0:1883'}}", "intake.mqtt.listen", "users_file")
	f("intake: {mqtt: {listen: ''}}", "intake.mqtt.listen", "broker.url")
	f("intake: {mqtt: {max_clients: many}}", "intake.mqtt.max_clients", "whole number")
	f("intake: {mqtt: {users_file: /nowhere}}", "intake.mqtt.users_file", "exists")
	f("intake: {mqtt: {tls: {cert_file: "+example+"}}}", "tls.cert_file", "together")
	f("intake: {mqtt: {broker: {url: 'http://x'}}}", "broker.url", "mqtt://")
	f("intake: {mqtt: {broker: {url: 'mqtt://h', filters: ['a/#/b']}}}", "filters", "a/#/b")
	f("intake: {mqtt: {broker: {url: 'mqtt://h', filters: 5}}}", "filters", "list")
	f("enrol: {url: 'https://c'}", "enrol.url", "token_file")
	f("status: {listen: ''}", "status.listen", "HOST:PORT")
	f("uplink: {max_window: 1}", "uplink.max_window", "64KiB")
	f("agent: a\nagent: b", "already")
	f("\tx", "read configuration")
}

// All faults are told at once.
func TestAllFaultsAtOnce(t *testing.T) {
	_, _, err := Load(settings(t, "agnt: x\nlog: {level: loud, format: xml}\noutbox: {interval: 5}\n"), []string{"EDGE_LOG__LEVLE=info"})
	if err == nil {
		t.Fatal("it is taken")
	}
	for _, w := range []string{"agnt", "log.level", "log.format", "outbox.interval", "EDGE_LOG__LEVLE"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s is missing in %q", w, err)
		}
	}
}

// A secret in a URL is refused without being repeated.
func TestSecretsAreNotRepeated(t *testing.T) {
	_, _, err := Load(settings(t, "intake: {mqtt: {broker: {url: 'mqtt://u:hunter2@h'}}}"), nil)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
	_, _, err = Load(settings(t, "intake: {mqtt: {broker: {url: 'm%qtt://u:hunter2@h'}}}"), nil)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

// What Kubernetes puts into the environment for a Service called edge-agent is
// no reason to stop.
func TestForeignVariablesAreOnlyWarnings(t *testing.T) {
	c, warnings, err := Load("", []string{"EDGE_AGENT_PORT=tcp://10.0.0.1:8090", "EDGE_AGENT_SERVICE_HOST=10.0.0.1"})
	if err != nil || len(warnings) != 2 || c.Status.Listen != "127.0.0.1:8090" {
		t.Errorf("got %v, %v", warnings, err)
	}
}

// A key without a value is as good as no key.
func TestEmptySections(t *testing.T) {
	c, _, err := Load(settings(t, "intake:\n  mqtt:\n    tls:\noutbox:\n"), nil)
	if err != nil || c.Intake.MQTT.Listen != "127.0.0.1:1883" {
		t.Errorf("got %+v, %v", c, err)
	}
}

// A file that is not there is an error: a typing error must not mean defaults.
func TestMissingFile(t *testing.T) {
	if _, _, err := Load("/nowhere/edge-agent.yaml", nil); err == nil {
		t.Error("it is taken")
	}
}

// Sizes and times are shown as people write them, and read back as they are shown.
func TestSizesAndTimes(t *testing.T) {
	f := func(s string, want Size, shown string) {
		t.Helper()
		got, err := parseSize(s)
		if err != nil || got != want || got.String() != shown {
			t.Errorf("%s: got %d shown %s, %v; want %d shown %s", s, got, got, err, want, shown)
		}
	}
	f("0", 0, "0")
	f("64MiB", 64<<20, "64MiB")
	f("64 MiB", 64<<20, "64MiB")
	f("1536KiB", 3<<19, "1536KiB")
	f("500MB", 500e6, "500000000")
	f("1000 B", 1000, "1000")
	f("1TiB", 1<<40, "1TiB")
	for _, bad := range []string{"", "MiB", "1mib", "-1", "1e30", "nan", "0x10p", "1 2"} {
		if got, err := parseSize(bad); err == nil {
			t.Errorf("%q is taken for %d", bad, got)
		}
	}
	for d, want := range map[time.Duration]string{time.Minute: "1m", time.Hour: "1h", 90 * time.Minute: "1h30m", 250 * time.Millisecond: "250ms", 0: "0s"} {
		if got := Duration(d).String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
