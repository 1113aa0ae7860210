package config

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// checker collects faults, so that a person mends all of them in one go.
type checker struct{ faults []error }

func (k *checker) fail(key string, value any, allowed string) {
	k.faults = append(k.faults, fmt.Errorf("%s = %q: %s", key, fmt.Sprint(value), allowed))
}

func (k *checker) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		k.fail(key, value, "want "+strings.Join(allowed, " or "))
	}
}

func (k *checker) size(key string, value, low, high Size) {
	if value < low || value > high {
		k.fail(key, value, fmt.Sprintf("want %s to %s", low, high))
	}
}

func (k *checker) duration(key string, value, low, high Duration) {
	if value < low || value > high {
		k.fail(key, value, fmt.Sprintf("want %s to %s", low, high))
	}
}

func (k *checker) address(key, value string) {
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		k.fail(key, value, "want HOST:PORT, such as 127.0.0.1:1883")
	}
}

// file finds a forgotten mount or a typing error now, not at the first handshake.
func (k *checker) file(key, value string) {
	if value == "" {
		return
	}
	if info, err := os.Stat(value); err != nil || info.IsDir() {
		k.fail(key, value, "want a file that exists and can be read")
	}
}

func (k *checker) both(keyA, a, keyB, b string) {
	if (a == "") != (b == "") {
		k.fail(keyA, a, "want it set together with "+keyB)
	}
}

func (k *checker) url(key, value string, schemes ...string) {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
		k.faults = append(k.faults, fmt.Errorf("%s: want a URL that starts with %s://", key, strings.Join(schemes, ":// or ")))
		return
	}
	if u.User != nil {
		// The value holds a secret: it is not repeated.
		k.faults = append(k.faults, fmt.Errorf("%s: want no user or password in it; there are keys and files for those", key))
	}
}

func (c *Config) validate() []error {
	var k checker
	c.fillIn()
	if err := telemetry.ValidateAgent(c.Agent); err != nil {
		k.fail("agent", c.Agent, "want 1 to 63 of a-z, 0-9 and - (empty means the host's name)")
	}
	if c.Data == "" {
		k.fail("data", c.Data, "want a folder")
	}
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	c.Intake.validate(&k)
	c.Outbox.validate(&k)
	c.Uplink.validate(&k)
	if c.Enrol.URL != "" {
		k.url("enrol.url", c.Enrol.URL, "https", "http")
	}
	k.both("enrol.url", c.Enrol.URL, "enrol.token_file", c.Enrol.TokenFile)
	k.address("status.listen", c.Status.Listen)
	return k.faults
}

// fillIn puts in what depends on the host or on another key. Dots of a name are
// taken as - also where it is given: on Kubernetes it is the node's.
func (c *Config) fillIn() {
	if c.Agent == "" {
		host, _ := os.Hostname() // an error leaves it empty, and validate says so
		c.Agent = strings.ToLower(host)
	}
	c.Agent = strings.ReplaceAll(c.Agent, ".", "-")
	if c.Outbox.Dir == "" {
		c.Outbox.Dir = filepath.Join(c.Data, "outbox")
	}
	if c.Intake.MQTT.Broker.ClientID == "" {
		c.Intake.MQTT.Broker.ClientID = "holdfast-" + c.Agent
	}
}

func (c *Intake) validate(k *checker) {
	k.size("intake.max_payload", c.MaxPayload, 1, telemetry.MaxPayload)
	k.oneOf("intake.retained", c.Retained, "skip", "store")
	m := &c.MQTT
	if m.Listen == "" && m.Broker.URL == "" {
		k.fail("intake.mqtt.listen", "", "want this or intake.mqtt.broker.url, or nothing can come in")
	}
	if m.Listen != "" {
		m.validateListener(k)
	}
	if m.Broker.URL != "" {
		m.Broker.validate(k)
	}
}

// validateListener refuses an open listener that anyone in reach could fill.
func (m *MQTT) validateListener(k *checker) {
	k.address("intake.mqtt.listen", m.Listen)
	if m.UsersFile == "" && !Loopback(m.Listen) {
		k.fail("intake.mqtt.listen", m.Listen,
			"want intake.mqtt.users_file too (make it with `edge-agent user add`), or a loopback address such as 127.0.0.1:1883")
	}
	if m.MaxClients < 1 || m.MaxClients > 10_000 {
		k.fail("intake.mqtt.max_clients", m.MaxClients, "want 1 to 10000")
	}
	k.file("intake.mqtt.users_file", m.UsersFile)
	k.file("intake.mqtt.tls.cert_file", m.TLS.CertFile)
	k.file("intake.mqtt.tls.key_file", m.TLS.KeyFile)
	k.both("intake.mqtt.tls.cert_file", m.TLS.CertFile, "intake.mqtt.tls.key_file", m.TLS.KeyFile)
}

func (b *Broker) validate(k *checker) {
	k.url("intake.mqtt.broker.url", b.URL, "mqtt", "mqtts", "tcp", "ssl")
	if len(b.Filters) == 0 {
		k.fail("intake.mqtt.broker.filters", "", "want at least one filter, such as sensors/#")
	}
	for _, f := range b.Filters {
		if !validFilter(f) {
			k.fail("intake.mqtt.broker.filters", f, "want an MQTT filter: + alone between slashes, # alone at the end")
		}
	}
	if b.PasswordFile != "" && b.Username == "" {
		k.fail("intake.mqtt.broker.username", "", "want it set together with intake.mqtt.broker.password_file")
	}
	k.file("intake.mqtt.broker.password_file", b.PasswordFile)
	k.file("intake.mqtt.broker.tls.ca_file", b.TLS.CAFile)
	k.file("intake.mqtt.broker.tls.cert_file", b.TLS.CertFile)
	k.file("intake.mqtt.broker.tls.key_file", b.TLS.KeyFile)
	k.both("intake.mqtt.broker.tls.cert_file", b.TLS.CertFile, "intake.mqtt.broker.tls.key_file", b.TLS.KeyFile)
}

func (c *Outbox) validate(k *checker) {
	k.oneOf("outbox.profile", c.Profile, "latency", "wear")
	k.oneOf("outbox.full", c.Full, "refuse", "drop-oldest")
	k.duration("outbox.interval", c.Interval, Duration(time.Millisecond), Duration(10*time.Second))
	k.size("outbox.max_bytes", c.MaxBytes, 16<<20, 1<<50)
	k.size("outbox.keep_bytes", c.KeepBytes, 0, c.MaxBytes)
	k.size("outbox.reserve_bytes", c.ReserveBytes, 0, 1<<50)
	if c.MaxAge != 0 {
		k.duration("outbox.max_age", c.MaxAge, Duration(time.Minute), Duration(100*365*24*time.Hour))
	}
}

func (c *Uplink) validate(k *checker) {
	k.address("uplink.dapr_address", c.DaprAddress)
	k.file("uplink.dapr_token_file", c.DaprTokenFile)
	if c.PubSub == "" {
		k.fail("uplink.pubsub", "", "want the name of the pub/sub component")
	}
	k.size("uplink.max_window", c.MaxWindow, 64<<10, 1<<30)
	k.duration("uplink.idle_interval", c.IdleInterval, Duration(time.Second), Duration(24*time.Hour))
}

// Loopback reports whether only this machine can reach the address.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func validFilter(f string) bool {
	levels := strings.Split(f, "/")
	for i, level := range levels {
		if level == "#" && i == len(levels)-1 || level == "+" {
			continue
		}
		if strings.ContainsAny(level, "+#\x00") {
			return false
		}
	}
	return f != "" && len(f) <= telemetry.MaxTopic
}
