package pointer

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

// A number is found wherever it is, and nothing else is.
func TestNumber(t *testing.T) {
	const doc = ` {"a":1.5,"b":{"c":[10,-2e3,{"d":0}],"":7},"s":"12","e/f":3,"g~h":4,"\u0061\"":5,"n":null,"t":true,"big":1e400,"deep":[[[9]]]} `
	for path, want := range map[string]any{
		"/a": 1.5, "/b/c/0": 10.0, "/b/c/1": -2000.0, "/b/c/2/d": 0.0, "/b/": 7.0, "/e~1f": 3.0, "/g~0h": 4.0, "/a\"": 5.0, "/deep/0/0/0": 9.0,
		"/s": nil, "/n": nil, "/t": nil, "/b": nil, "/b/c": nil, "/b/c/3": nil, "/b/c/00": nil, "/b/c/-1": nil, "/x": nil, "/a/b": nil, "": nil, "/big": nil,
	} {
		p, err := Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		v, ok := p.Number([]byte(doc))
		if got := any(v); ok != (want != nil) || ok && got != want {
			t.Errorf("%s: %v, %t, want %v", path, v, ok, want)
		}
	}
	if v, ok := Pointer(nil).Number([]byte(" 21.5\n")); !ok || v != 21.5 {
		t.Errorf("a bare number: %v, %t", v, ok)
	}
}

// What is no JSON has no number.
func TestBrokenDocuments(t *testing.T) {
	p := Pointer{[]byte("a")}
	for _, doc := range []string{
		"", "{", `{"a"`, `{"a":`, `{"a":}`, `{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":+1}`, `{"a":1e}`, `{"a":0x1}`, `{"a":NaN}`, `{"a":1x}`, `{a:1}`,
		`{"b":1 "a":2}`, `{"b":x,"a":2}`, "{\"b\n\":1,\"a\":2}", `{"b":{,"a":2}`, `{"b":` + strings.Repeat("[", 1000), "\xff\xfe",
	} {
		if v, ok := p.Number([]byte(doc)); ok {
			t.Errorf("%q has %v", doc, v)
		}
	}
}

// Pointers that are none are refused.
func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"a", "a/b", "/~", "/~2", "/a~"} {
		if _, err := Parse(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

// Number finds what encoding/json finds.
func FuzzNumber(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[1,2]}}`), "/a/b/1")
	f.Add([]byte(`[{"x":-0.1e+2}]`), "/0/x")
	f.Add([]byte(`{"a":1}`), "")
	f.Fuzz(func(t *testing.T, doc []byte, path string) {
		p, err := Parse(path)
		if err != nil {
			return
		}
		got, ok := p.Number(doc)
		var v any
		if json.Unmarshal(doc, &v) != nil || repeated(doc) {
			return
		}
		want, there := lookUp(v, p)
		if ok != there || ok && got != want {
			t.Errorf("%s at %q: %v, %t, want %v, %t", doc, path, got, ok, want, there)
		}
	})
}

// repeated reports whether some object may have a key twice: which one counts
// is nobody's to say.
func repeated(doc []byte) bool {
	d := json.NewDecoder(bytes.NewReader(doc))
	seen := map[string]bool{}
	for {
		tok, err := d.Token()
		if err != nil {
			return false
		}
		if s, ok := tok.(string); ok {
			if seen[s] {
				return true
			}
			seen[s] = true
		}
	}
}

func lookUp(v any, p Pointer) (float64, bool) {
	for _, key := range p {
		switch x := v.(type) {
		case map[string]any:
			v = x[string(key)]
		case []any:
			n, err := strconv.Atoi(string(key))
			if err != nil || n < 0 || n >= len(x) || strconv.Itoa(n) != string(key) {
				return 0, false
			}
			v = x[n]
		default:
			return 0, false
		}
	}
	f, ok := v.(float64)
	return f, ok
}

// Taking one field of a reading of 118 bytes.
func BenchmarkNumber(b *testing.B) {
	doc := []byte(`{"ts":1780000000123,"temperature":21.37,"humidity":48.1,"pressure":1003.2,"status":"ok","sensor":"s-007"}`)
	p := Pointer{[]byte("pressure")}
	b.SetBytes(int64(len(doc)))
	for b.Loop() {
		if _, ok := p.Number(doc); !ok {
			b.Fatal("not found")
		}
	}
}
