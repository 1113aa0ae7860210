// Package config reads the server's settings: defaults, then a YAML file, then
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

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

// Prefix starts the name of every environment variable that is a setting; two
// underscores stand between levels: CLOUD_STORE__SQLITE__PATH is store.sqlite.path.
const Prefix = "CLOUD_"

// Config is everything that can be set. The example file beside main describes
// each key.
type Config struct {
	Name   string `koanf:"name"`
	Log    Log    `koanf:"log"`
	Public Public `koanf:"public"`
	App    App    `koanf:"app"`
	Dapr   Dapr   `koanf:"dapr"`
	Store  Store  `koanf:"store"`
	Keys   Keys   `koanf:"keys"`
}

// Log says what is logged and how.
type Log struct {
	Level  string `koanf:"level"`
	Format string `koanf:"format"`
}

// Public is the listener for people, programs and devices that enrol.
type Public struct {
	Listen string `koanf:"listen"`
	Access Access `koanf:"access"`
}

// Access says who may read; without any anybody on this machine may.
type Access struct {
	TokensFile string `koanf:"tokens_file"`
	OIDC       OIDC   `koanf:"oidc"`
}

// OIDC is an identity provider whose access tokens are taken; an empty issuer
// means none.
type OIDC struct {
	Issuer      string `koanf:"issuer"`
	Audience    string `koanf:"audience"`
	RolesClaim  string `koanf:"roles_claim"`
	AgentsClaim string `koanf:"agents_claim"`
}

// None reports whether there is no access control at all.
func (a Access) None() bool { return a.TokensFile == "" && a.OIDC.Issuer == "" }

// App is the listener for the Dapr sidecar alone.
type App struct {
	Listen    string `koanf:"listen"`
	TokenFile string `koanf:"token_file"`
	InHand    int    `koanf:"in_hand"`
}

// Dapr says where the sidecar is.
type Dapr struct {
	Address   string `koanf:"address"`
	TokenFile string `koanf:"token_file"`
	PubSub    string `koanf:"pubsub"`
}

// Store says which database holds everything: PostgreSQL when its file is set.
type Store struct {
	Retention Duration `koanf:"retention"`
	SQLite    SQLite   `koanf:"sqlite"`
	Postgres  Postgres `koanf:"postgres"`
}

// SQLite is one file.
type SQLite struct {
	Path string `koanf:"path"`
}

// Postgres is reached by the connection string in a file, since it may hold a
// password.
type Postgres struct {
	DSNFile string `koanf:"dsn_file"`
}

// Keys says where the signing keys are.
type Keys struct {
	Dir string `koanf:"dir"`
}

// Default returns what holds when nothing is set.
func Default() Config {
	return Config{
		Name: "cloud",
		Log:  Log{Level: "info", Format: "json"},
		Public: Public{
			Listen: "127.0.0.1:8080",
			Access: Access{OIDC: OIDC{Audience: "holdfast", RolesClaim: "roles", AgentsClaim: "holdfast_agents"}},
		},
		App:   App{Listen: "127.0.0.1:8081", InHand: 16},
		Dapr:  Dapr{Address: "127.0.0.1:50001", PubSub: "holdfast"},
		Store: Store{SQLite: SQLite{Path: "/var/lib/holdfast-cloud/holdfast.db"}},
		Keys:  Keys{Dir: "/var/lib/holdfast-cloud/keys"},
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

// readEnv takes CLOUD_ variables for settings. One without two underscores that
// names no setting is only a warning: Kubernetes sets CLOUD_API_PORT and the
// like for a Service called cloud-api.
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
