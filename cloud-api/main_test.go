package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/config"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/keys"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/server"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// settings writes a configuration whose files are all in a temporary folder.
func settings(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	text := fmt.Sprintf("public:\n  listen: 127.0.0.1:0\napp:\n  listen: 127.0.0.1:0\nkeys:\n  dir: %s/keys\nstore:\n  sqlite:\n    path: %s/cloud.db\n", dir, dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func call(t *testing.T, args ...string) (out, errOut string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	err = command(t.Context(), args, nil, &o, &e)
	return o.String(), e.String(), err
}

// A token is printed alone on standard output, and stands for the root of the
// keys folder.
func TestTokenIsPrintedAlone(t *testing.T) {
	file := settings(t)
	var fingerprint string
	for _, more := range [][]string{nil, {"--agent", "pi-1"}, {"--uses", "3", "--prefix", "pi-", "--ttl", "5m"}} {
		out, _, err := call(t, append([]string{"token", "create", "--config", file}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		tok, err := telemetry.ParseToken(strings.TrimSuffix(out, "\n"))
		if err != nil || fingerprint != "" && fingerprint != tok.Fingerprint {
			t.Errorf("%q: %v", out, err)
		}
		fingerprint = tok.Fingerprint
	}
}

// A command line that makes no sense is a usage error and does nothing.
func TestUsageErrors(t *testing.T) {
	file := settings(t)
	for _, args := range [][]string{
		{},
		{"serve"},
		{"run", "--confg", file},
		{"check", "extra"},
		{"token"},
		{"token", "delete"},
		{"access", "create"},
		{"agent"},
		{"agent", "revoke"},
		{"keys"},
		{"keys", "delete"},
		{"agent", "revoke", "A B", "--config", file},
		{"agent", "forget", "a", "--config", file},
		{"access", "create", "a b"},
		{"access", "create", "a", "--role", "root"},
		{"access", "create", "a", "--agents", "A"},
		{"token", "create", "--config", file, "--uses", "0"},
		{"token", "create", "--config", file, "--agent", "A B"},
		{"token", "create", "--config", file, "--agent", "a", "--uses", "2"},
		{"token", "create", "--config", file, "--agent", "a", "--prefix", "b"},
		{"token", "create", "--config", file, "--ttl", "-1h"},
		{"check", "--config", "/does/not/exist"},
	} {
		if _, _, err := call(t, args...); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(file), "keys")); !os.IsNotExist(err) {
		t.Error("a usage error made keys")
	}
}

// check, migrate, version and help say what they did.
func TestSmallCommands(t *testing.T) {
	file := settings(t)
	for args, want := range map[string]string{
		"check --config " + file: "valid", "migrate --config " + file: "up to date", "version": "cloud-api ", "help": "usage:",
	} {
		if out, _, err := call(t, strings.Fields(args)...); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %q, %v", args, out, err)
		}
	}
	out, errOut, err := call(t, "access", "create", "grafana", "--agents", "a,pi-*")
	if err != nil || strings.Contains(errOut, strings.TrimSpace(out)) || !strings.Contains(errOut, " grafana read a,pi-*") {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
}

// An agent is revoked and allowed again by name; one that is not known is an
// error.
func TestAgentIsRevokedAndAllowed(t *testing.T) {
	file := settings(t)
	for _, verb := range []string{"revoke", "allow"} {
		if _, _, err := call(t, "agent", verb, "nobody", "--config", file); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	enrolled(t, file, "pi-1")
	for verb, want := range map[string]string{"revoke": "nothing more is taken from pi-1", "allow": "pi-1 is allowed again"} {
		if out, _, err := call(t, "agent", verb, "pi-1", "--config", file); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %q, %v", verb, out, err)
		}
	}
}

// enrolled makes an agent known.
func enrolled(t *testing.T, file, name string) {
	t.Helper()
	c, _, err := config.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := server.OpenStore(t.Context(), c.Store, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	err = st.CreateToken(t.Context(), store.Token{ID: "t", Uses: 1, Created: now, Expires: now.Add(time.Hour)})
	if err := errors.Join(err, st.Enrol(t.Context(), "t", name, make(ed25519.PublicKey, 32), now), st.Close()); err != nil {
		t.Fatal(err)
	}
}

// The keys are listed, renewed and replaced by name, and the next token stands
// for the new root.
func TestKeysCommands(t *testing.T) {
	file := settings(t)
	if _, _, err := call(t, "keys", "list", "--config", file); !errors.Is(err, keys.ErrNoRoot) {
		t.Errorf("no keys yet: %v", err)
	}
	token := func() telemetry.Token {
		out, _, err := call(t, "token", "create", "--config", file)
		if err != nil {
			t.Fatal(err)
		}
		tok, err := telemetry.ParseToken(strings.TrimSpace(out))
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	before := token()
	for verb, want := range map[string]string{"renew": "new receipt key ", "rotate-root": "new root "} {
		if out, _, err := call(t, "keys", verb, "--config", file); err != nil || !strings.HasPrefix(out, want) {
			t.Errorf("%s: %q, %v", verb, out, err)
		}
	}
	after := token()
	out, _, err := call(t, "keys", "list", "--config", file)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || before.Fingerprint == after.Fingerprint || len(lines) < 4 ||
		!strings.Contains(lines[0], after.Fingerprint) || !strings.Contains(lines[1], before.Fingerprint) || !strings.Contains(lines[2], "receipt key") {
		t.Errorf("%v\n%s", err, out)
	}
}

// export writes what the database has, and refuses what it cannot.
func TestExport(t *testing.T) {
	file := settings(t)
	out, errOut, err := call(t, "export", "--config", file, "--format", "csv")
	if err != nil || !strings.HasPrefix(out, "agent,epoch,seq,") || !strings.Contains(errOut, `"readings":0`) {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
	for _, more := range [][]string{{"--format", "xml"}, {"--from", "yesterday"}, {"--topic", "a#"}} {
		if _, _, err := call(t, append([]string{"export", "--config", file}, more...)...); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v", more, err)
		}
	}
	if _, _, err := call(t, "export", "--config", file, "--agent", "nobody"); err == nil {
		t.Error("an agent that is not known exports nothing without an error")
	}
}

// run serves until its context ends and then ends well.
func TestRunEndsWithItsContext(t *testing.T) {
	file := settings(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var out, errOut bytes.Buffer
	if err := command(ctx, []string{"run", "--config", file}, nil, &out, &errOut); err != nil {
		t.Errorf("%v\n%s", err, errOut.String())
	}
	if log := errOut.String(); !strings.Contains(log, `"msg":"server: open"`) || !strings.Contains(log, `"msg":"server: stopped"`) {
		t.Errorf("log: %s", log)
	}
}

// A port in use, a database that cannot be written and a file that is no
// database are errors that name them.
func TestRunNamesWhatIsInItsWay(t *testing.T) {
	dir := t.TempDir()
	noise := filepath.Join(dir, "noise.db")
	if err := os.WriteFile(noise, bytes.Repeat([]byte("noise"), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for env, want := range map[string]string{
		"CLOUD_STORE__SQLITE__PATH=" + noise:                 noise,
		"CLOUD_STORE__SQLITE__PATH=" + noise + "/x/cloud.db": "make database folder",
		"CLOUD_KEYS__DIR=" + noise:                           "keys",
		"CLOUD_PUBLIC__LISTEN=127.0.0.1:1":                   "public.listen",
	} {
		if strings.HasSuffix(env, ":1") && os.Geteuid() == 0 {
			continue // root may use it
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		var out, errOut bytes.Buffer
		err := command(ctx, []string{"run", "--config", settings(t)}, []string{env}, &out, &errOut)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", env, err)
		}
	}
}
