package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func load(t *testing.T, yaml string, environ ...string) (Config, []string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(file, environ)
}

// The example file has every key, with its default.
func TestExampleEqualsDefaults(t *testing.T) {
	const example = "../../cloud-api.example.yaml"
	c, _, err := Load(example, nil)
	if err != nil || !reflect.DeepEqual(c, Default()) {
		t.Errorf("%+v, %v", c, err)
	}
	b, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	def := Default()
	for _, l := range leaves(&def) {
		last := l.key[strings.LastIndex(l.key, ".")+1:]
		if !strings.Contains(string(b), last+":") {
			t.Errorf("%s is not in the example", l.key)
		}
	}
}

// The environment wins over the file, the file over the defaults.
func TestPrecedence(t *testing.T) {
	c, warnings, err := load(t, "name: from-file\napp:\n  in_hand: 3\n", "CLOUD_NAME=from-env", "CLOUD_STORE__SQLITE__PATH=/x/y.db", "CLOUD_API_PORT=tcp://10.0.0.1:80", "OTHER=1")
	if err != nil || c.Name != "from-env" || c.App.InHand != 3 || c.Store.SQLite.Path != "/x/y.db" || c.Dapr.PubSub != "holdfast" {
		t.Errorf("%+v, %v", c, err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "CLOUD_API_PORT") {
		t.Errorf("%v", warnings)
	}
}

// Everything wrong is named in one go: the key, the value, what is allowed.
func TestFaultsNameKeyValueAndWhatIsAllowed(t *testing.T) {
	for yaml, want := range map[string][]string{
		"public:\n  listn: x":                {"public.listn", "unknown key", "public.listen"},
		"public: x":                          {"public", "section"},
		"log:\n  level: loud\n  format: xml": {`log.level = "loud"`, "debug or info", `log.format = "xml"`, "json"},
		"public:\n  listen: 0.0.0.0:8080":    {`public.listen = "0.0.0.0:8080"`, "loopback", "public.access.tokens_file"},
		"public:\n  listen: \":8080\"":       {"public.listen", "loopback"},
		"public:\n  listen: 8080":            {"public.listen", "HOST:PORT"},
		"public:\n  access:\n    oidc:\n      issuer: http://id.example\n      audience: \"\"": {"public.access.oidc.issuer", "https", "public.access.oidc.audience"},
		"app:\n  listen: 10.1.1.1:80":          {"app.listen", "app.token_file"},
		"app:\n  in_hand: 0":                   {`app.in_hand = "0"`, "1 to 1024"},
		"app:\n  in_hand: many":                {`app.in_hand = "many"`, "whole number"},
		"app:\n  token_file: /does/not/exist":  {"app.token_file", "/does/not/exist", "file that exists"},
		"store:\n  sqlite:\n    path: \"\"":    {"store.sqlite.path", "store.postgres.dsn_file"},
		"store:\n  retention: 60":              {"store.retention", "unit"},
		"store:\n  retention: 1h":              {`store.retention = "1h"`, "24h"},
		"keys:\n  dir: \"\"":                   {"keys.dir"},
		"dapr:\n  pubsub: \"\"\n  address: no": {"dapr.pubsub", "dapr.address"},
		"name: \"\"":                           {"name = "},
		"name:\n  - a":                         {"name = ", "text"},
	} {
		_, _, err := load(t, yaml)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v does not say %q", yaml, err, w)
			}
		}
	}
	if _, _, err := load(t, "a: [\n"); err == nil {
		t.Error("broken YAML is taken")
	}
	if _, _, err := Load("/does/not/exist", nil); err == nil {
		t.Error("a missing file is taken")
	}
	if _, _, err := load(t, "", "CLOUD_PUBLIC__LISTN=x"); err == nil || !strings.Contains(err.Error(), "CLOUD_PUBLIC__LISTN") {
		t.Errorf("unknown variable: %v", err)
	}
}

// With access control, or a token for the sidecar, other addresses are allowed.
func TestOtherAddressesNeedControl(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := load(t, fmt.Sprintf("public:\n  listen: 0.0.0.0:8080\n  access:\n    tokens_file: %s\napp:\n  listen: 0.0.0.0:8081\n  token_file: %s\n", file, file))
	if err != nil {
		t.Error(err)
	}
}

// A secret is the file's text without its line end; an empty file is an error
// that shows nothing.
func TestSecretComesFromItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	for text, want := range map[string]string{"s3cret\n": "s3cret", " \n": ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Secret(file); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if got, err := Secret(""); got != "" || err != nil {
		t.Errorf("no file: %q, %v", got, err)
	}
}
