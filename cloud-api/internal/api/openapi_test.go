package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/api"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

type document struct {
	Paths map[string]map[string]struct {
		Role       string `json:"x-role"`
		Parameters []struct{ Name, In string }
		Responses  map[string]struct {
			Content map[string]struct{ Schema schema }
		}
	}
	Components struct{ Schemas map[string]schema }
}

type schema map[string]any

func describe(t *testing.T, s *site) (d document) {
	t.Helper()
	s.get("/v1/openapi.json", &d)
	return d
}

// The document has the routes of the server, with their parameters and roles,
// and no others.
func TestDocumentEqualsRoutes(t *testing.T) {
	d := describe(t, open(t, nil))
	seen := 0
	for _, r := range api.Routes() {
		op, ok := d.Paths[r.Path][strings.ToLower(r.Method)]
		if !ok {
			t.Errorf("%s %s is not described", r.Method, r.Path)
			continue
		}
		seen++
		var query []string
		for _, p := range op.Parameters {
			if p.In == "query" {
				query = append(query, p.Name)
			}
		}
		slices.Sort(query)
		if want := slices.Sorted(slices.Values(r.Query)); !slices.Equal(query, want) {
			t.Errorf("%s: parameters %v, want %v", r.Path, query, want)
		}
		if want := map[api.Role]string{api.Anyone: "anyone", api.Reader: "read", api.Admin: "admin"}[r.Role]; op.Role != want {
			t.Errorf("%s: role %q, want %q", r.Path, op.Role, want)
		}
	}
	described := 0
	for _, ops := range d.Paths {
		described += len(ops)
	}
	if described != seen {
		t.Errorf("%d operations are described, %d exist", described, seen)
	}
}

// What the server answers is what the document says: every field, its type, and
// nothing beside.
func TestAnswersFollowTheDocument(t *testing.T) {
	s := open(t, nil)
	s.agent("a")
	s.commit("a", 1, `{"v":1}`, "\xff")
	bad := store.Frame{Agent: "a", Epoch: epoch, First: 9, Last: 9, Raw: []byte("raw"), Why: "broken", Received: received}
	if _, err := s.store.Commit(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	d := describe(t, s)
	for path, call := range map[string]string{
		"/v1/me": "/v1/me", "/v1/agents": "/v1/agents", "/v1/agents/{id}": "/v1/agents/a", "/v1/agents/{id}/topics": "/v1/agents/a/topics",
		"/v1/agents/{id}/backlog": "/v1/agents/a/backlog?from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z",
		"/v1/readings":            "/v1/readings", "/v1/quarantine": "/v1/quarantine", "/v1/quarantine/{id}": "/v1/quarantine/1",
		"/v1/series": "/v1/series?agent=a&topic=" + "plant%2F%3Cb%3E" + "&field=/v&from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z",
	} {
		_, b := s.do(http.MethodGet, call, nil)
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatalf("%s: %s", call, b)
		}
		d.check(t, path, d.Paths[path]["get"].Responses["200"].Content["application/json"].Schema, v)
	}
	_, b := s.do(http.MethodGet, "/nothing", nil)
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	d.check(t, "problem", d.Components.Schemas["Problem"], v)
}

// check holds a value to a schema, as far as this document uses the language.
func (d *document) check(t *testing.T, at string, s schema, v any) {
	t.Helper()
	if ref, ok := s["$ref"].(string); ok {
		d.check(t, at, d.Components.Schemas[ref[strings.LastIndex(ref, "/")+1:]], v)
		return
	}
	if one, ok := s["oneOf"].([]any); ok {
		if v != nil {
			d.check(t, at, one[0].(map[string]any), v)
		}
		return
	}
	if kind := kindOf(v); !slices.Contains(kinds(s), kind) && !(kind == "integer" && slices.Contains(kinds(s), "number")) {
		t.Errorf("%s: %v is %s, want %v", at, v, kindOf(v), kinds(s))
		return
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		t.Errorf("%s: %v is none of %v", at, v, enum)
	}
	switch x := v.(type) {
	case []any:
		if len(x) == 0 {
			t.Logf("%s: empty, its items are not checked", at)
		}
		for i, item := range x {
			d.check(t, fmt.Sprintf("%s[%d]", at, i), s["items"].(map[string]any), item)
		}
	case map[string]any:
		props, _ := s["properties"].(map[string]any)
		for name, item := range x {
			p, ok := props[name].(map[string]any)
			if !ok {
				t.Errorf("%s.%s is not described", at, name)
				continue
			}
			d.check(t, at+"."+name, p, item)
		}
		required, _ := s["required"].([]any)
		for _, name := range required {
			if _, ok := x[name.(string)]; !ok {
				t.Errorf("%s.%s is missing", at, name)
			}
		}
	}
}

func kinds(s schema) []string {
	switch k := s["type"].(type) {
	case string:
		return []string{k}
	case []any:
		var out []string
		for _, x := range k {
			out = append(out, x.(string))
		}
		return out
	}
	return nil
}

func kindOf(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case []any:
		return "array"
	case float64:
		if x == float64(int64(x)) {
			return "integer"
		}
		return "number"
	}
	return "object"
}
