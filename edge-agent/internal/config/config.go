// Package config reads the agent's settings: defaults, then a YAML file, then
// the environment, then validation. What Load returns without an error can be
// run; everything wrong is reported at once, each fault with the key, the value
// and what is allowed. Secrets are never settings: settings name the files that
// hold them.
package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

// Prefix starts the name of every environment variable that is a setting; two
// underscores stand between levels: EDGE_OUTBOX__MAX_BYTES is outbox.max_bytes.
const Prefix = "EDGE_"

// Config is everything that can be set. The example file beside main describes
// each key.
type Config struct {
	Agent  string `koanf:"agent"`
	Data   string `koanf:"data"`
	Log    Log    `koanf:"log"`
	Intake Intake `koanf:"intake"`
	Outbox Outbox `koanf:"outbox"`
	Uplink Uplink `koanf:"uplink"`
	Enrol  Enrol  `koanf:"enrol"`
	Status Status `koanf:"status"`
}

// Log says what is logged and how.
type Log struct {
	Level  string `koanf:"level"`
	Format string `koanf:"format"`
}

// Intake says how readings come in.
type Intake struct {
	MaxPayload Size   `koanf:"max_payload"`
	Retained   string `koanf:"retained"`
	MQTT       MQTT   `koanf:"mqtt"`
}

// MQTT holds the agent's own listener and the broker it may subscribe to.
type MQTT struct {
	Listen     string    `koanf:"listen"`
	UsersFile  string    `koanf:"users_file"`
	MaxClients int       `koanf:"max_clients"`
	TLS        ServerTLS `koanf:"tls"`
	Broker     Broker    `koanf:"broker"`
}

// ServerTLS names the listener's certificate; both or neither.
type ServerTLS struct {
	CertFile string `koanf:"cert_file"`
	KeyFile  string `koanf:"key_file"`
}

// Broker is one that stands in front of the agent; an empty URL means none.
type Broker struct {
	URL          string    `koanf:"url"`
	ClientID     string    `koanf:"client_id"`
	Filters      []string  `koanf:"filters"`
	Username     string    `koanf:"username"`
	PasswordFile string    `koanf:"password_file"`
	TLS          ClientTLS `koanf:"tls"`
}

// ClientTLS names what the agent trusts and what it shows.
type ClientTLS struct {
	CAFile   string `koanf:"ca_file"`
	CertFile string `koanf:"cert_file"`
	KeyFile  string `koanf:"key_file"`
}

// Outbox says where readings are kept and how much of them.
type Outbox struct {
	Dir          string   `koanf:"dir"`
	Profile      string   `koanf:"profile"`
	Interval     Duration `koanf:"interval"`
	MaxBytes     Size     `koanf:"max_bytes"`
	KeepBytes    Size     `koanf:"keep_bytes"`
	ReserveBytes Size     `koanf:"reserve_bytes"`
	MaxAge       Duration `koanf:"max_age"`
	Full         string   `koanf:"full"`
}

// Uplink says how frames leave.
type Uplink struct {
	DaprAddress   string   `koanf:"dapr_address"`
	DaprTokenFile string   `koanf:"dapr_token_file"`
	PubSub        string   `koanf:"pubsub"`
	MaxWindow     Size     `koanf:"max_window"`
	IdleInterval  Duration `koanf:"idle_interval"`
}

// Enrol lets `run` enrol by itself; an empty URL means that a person does it.
type Enrol struct {
	URL       string `koanf:"url"`
	TokenFile string `koanf:"token_file"`
}

// Status says where the agent shows how it is.
type Status struct {
	Listen string `koanf:"listen"`
}

// Default returns what holds when nothing is set.
func Default() Config {
	return Config{
		Data: "/var/lib/holdfast",
		Log:  Log{Level: "info", Format: "text"},
		Intake: Intake{
			MaxPayload: 256 << 10,
			Retained:   "skip",
			MQTT: MQTT{
				Listen:     "127.0.0.1:1883",
				MaxClients: 256,
				Broker:     Broker{Filters: []string{"#"}},
			},
		},
		Outbox: Outbox{
			Profile:      "latency",
			Interval:     Duration(250 * time.Millisecond),
			MaxBytes:     4 << 30,
			KeepBytes:    256 << 20,
			ReserveBytes: 64 << 20,
			Full:         "refuse",
		},
		Uplink: Uplink{
			DaprAddress:  "127.0.0.1:50001",
			PubSub:       "holdfast",
			MaxWindow:    4 << 20,
			IdleInterval: Duration(time.Minute),
		},
		Status: Status{Listen: "127.0.0.1:8090"},
	}
}

// Load reads the file (none when path is empty) and the environment (as
// os.Environ gives it) over the defaults and validates the result. The error
// lists every fault, one a line. Warnings are settings that were left out of
// account and deserve a line in the log.
func Load(path string, environ []string) (c Config, warnings []string, err error) {
	c = Default()
	k := koanf.New(".")
	if path != "" {
		if err := loadFile(k, path); err != nil {
			return Config{}, nil, err
		}
	}
	known := leaves(&c)
	faults := unknownKeys(k, known)
	vars, warnings, unknown := readEnv(environ, known)
	faults = append(faults, unknown...)
	for key, value := range vars {
		if err := k.Set(key, value); err != nil {
			return Config{}, nil, fmt.Errorf("read environment: %w", err)
		}
	}
	faults = append(faults, decode(k, known)...)
	faults = append(faults, c.validate()...)
	if len(faults) > 0 {
		return Config{}, warnings, fmt.Errorf("configuration:\n%w", errors.Join(faults...))
	}
	return c, warnings, nil
}

// loadFile leaves out keys without a value: `tls:` alone on its line means what
// leaving it out means.
func loadFile(k *koanf.Koanf, path string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	raw := koanf.New(".")
	if err := raw.Load(file.Provider(path), yaml.Parser()); err != nil {
		return fmt.Errorf("read configuration %s: %w", path, err)
	}
	for key, value := range raw.All() {
		if value == nil {
			continue
		}
		if err := k.Set(key, value); err != nil {
			return fmt.Errorf("read configuration %s: %w", path, err)
		}
	}
	return nil
}

func unknownKeys(k *koanf.Koanf, known []leaf) []error {
	var faults []error
	for _, key := range k.Keys() {
		if !slices.ContainsFunc(known, func(l leaf) bool { return l.key == key }) {
			faults = append(faults, unknownKey(key, key, known))
		}
	}
	return faults
}

func unknownKey(shown, key string, known []leaf) error {
	for _, l := range known {
		if strings.HasPrefix(l.key, key+".") {
			return fmt.Errorf("%s: want a section with keys such as %s, not a single value", shown, l.key)
		}
	}
	return fmt.Errorf("%s: unknown key; the nearest is %s", shown, nearest(key, known))
}

// readEnv takes EDGE_ variables for settings. One without two underscores that
// names no setting is only a warning: Kubernetes sets EDGE_AGENT_PORT and the
// like for a Service called edge-agent.
func readEnv(environ []string, known []leaf) (vars map[string]any, warnings []string, faults []error) {
	provider := env.Provider("", env.Opt{Prefix: Prefix, EnvironFunc: func() []string { return environ }})
	raw, err := provider.Read()
	if err != nil {
		return nil, nil, []error{fmt.Errorf("read environment: %w", err)}
	}
	vars = make(map[string]any)
	for name, value := range raw {
		key := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, Prefix), "__", "."))
		switch {
		case slices.ContainsFunc(known, func(l leaf) bool { return l.key == key }):
			vars[key] = value
		case strings.Contains(key, "."):
			faults = append(faults, unknownKey(name, key, known))
		default:
			warnings = append(warnings, fmt.Sprintf("%s names no setting and was left out of account", name))
		}
	}
	return vars, warnings, faults
}
