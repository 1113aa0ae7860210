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

func (k *checker) within(key string, value, low, high int) {
	if value < low || value > high {
		k.fail(key, value, fmt.Sprintf("want %d to %d", low, high))
	}
}

func (k *checker) address(key, value string) {
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		k.fail(key, value, "want HOST:PORT, such as 127.0.0.1:8080")
	}
}

// file finds a forgotten mount or a typing error now, not at the first request.
func (k *checker) file(key, value string) {
	if value == "" {
		return
	}
	if info, err := os.Stat(value); err != nil || info.IsDir() {
		k.fail(key, value, "want a file that exists and can be read")
	}
}

func (k *checker) set(key, value, what string) {
	if value == "" {
		k.fail(key, value, "want "+what)
	}
}

func (c *Config) validate() []error {
	k := &checker{}
	if c.Name == "" || len(c.Name) > telemetry.MaxCloud {
		k.fail("name", c.Name, fmt.Sprintf("want 1 to %d bytes, such as a DNS name", telemetry.MaxCloud))
	}
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "json", "text")
	c.Public.validate(k)
	c.App.validate(k)
	k.address("dapr.address", c.Dapr.Address)
	k.file("dapr.token_file", c.Dapr.TokenFile)
	k.set("dapr.pubsub", c.Dapr.PubSub, "the name of the pub/sub component")
	if r := c.Store.Retention.D(); r != 0 && r < 24*time.Hour {
		k.fail("store.retention", c.Store.Retention, "want 0 to keep readings for ever, or at least 24h")
	}
	k.file("store.postgres.dsn_file", c.Store.Postgres.DSNFile)
	if c.Store.Postgres.DSNFile == "" {
		k.set("store.sqlite.path", c.Store.SQLite.Path, "a file, or store.postgres.dsn_file")
	}
	k.set("keys.dir", c.Keys.Dir, "a folder for the signing keys")
	return k.faults
}

func (p *Public) validate(k *checker) {
	k.address("public.listen", p.Listen)
	k.file("public.access.tokens_file", p.Access.TokensFile)
	if o := p.Access.OIDC; o.Issuer != "" {
		u, err := url.Parse(o.Issuer)
		if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && Loopback(net.JoinHostPort(u.Hostname(), "0"))) {
			k.fail("public.access.oidc.issuer", o.Issuer, "want an https:// address")
		}
		k.set("public.access.oidc.audience", o.Audience, "what the provider calls this server in its tokens")
		k.set("public.access.oidc.roles_claim", o.RolesClaim, "the name of a claim")
		k.set("public.access.oidc.agents_claim", o.AgentsClaim, "the name of a claim")
	}
	if p.Access.None() && !Loopback(p.Listen) {
		k.fail("public.listen", p.Listen, "want a loopback address such as 127.0.0.1:8080, or public.access.tokens_file or public.access.oidc.issuer set: without them everybody who reaches the address could read every agent's data")
	}
}

func (a *App) validate(k *checker) {
	k.address("app.listen", a.Listen)
	k.file("app.token_file", a.TokenFile)
	k.within("app.in_hand", a.InHand, 1, 1024)
	if a.TokenFile == "" && !Loopback(a.Listen) {
		k.fail("app.listen", a.Listen, "want a loopback address such as 127.0.0.1:8081, or app.token_file set")
	}
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

// Secret reads a secret from its file without the line end that editors add; no
// file is no secret.
func Secret(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	s := strings.TrimSpace(string(b))
	if s == "" {
		return "", fmt.Errorf("read secret: %s is empty", path)
	}
	return s, nil
}
