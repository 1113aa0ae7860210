// Package pointer takes one number out of a JSON document by an RFC 6901 JSON
// pointer. It looks at each byte once, allocates nothing, and takes documents
// that are broken for documents without the number.
package pointer

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// ErrPointer is returned by Parse for text that is no JSON pointer.
var ErrPointer = errors.New("JSON pointer: want it empty, or like /temperature or /values/0")

// maxDepth bounds nesting: a document that is deeper has no number.
const maxDepth = 64

// Pointer names a place in a JSON document. The zero Pointer names the whole.
type Pointer [][]byte

// Parse reads a pointer such as /a/0/b~1c.
func Parse(s string) (Pointer, error) {
	if s == "" {
		return nil, nil
	}
	if s[0] != '/' {
		return nil, ErrPointer
	}
	var p Pointer
	for part := range strings.SplitSeq(s[1:], "/") {
		for i := 0; i < len(part); i++ {
			if part[i] == '~' && (i+1 == len(part) || part[i+1] != '0' && part[i+1] != '1') {
				return nil, ErrPointer
			}
		}
		p = append(p, []byte(strings.NewReplacer("~1", "/", "~0", "~").Replace(part)))
	}
	return p, nil
}

// Number returns the number at p in doc. ok is false when there is none there,
// or when doc is no JSON up to the end of it.
func (p Pointer) Number(doc []byte) (v float64, ok bool) {
	s := scanner{b: doc}
	if !s.find(p) {
		return 0, false
	}
	return s.number()
}

// scanner reads b from i on.
type scanner struct {
	b     []byte
	i     int
	depth int
}

func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\t' || s.b[s.i] == '\n' || s.b[s.i] == '\r') {
		s.i++
	}
}

// take skips space and then c, if it is next.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

// find goes to the value at p.
func (s *scanner) find(p Pointer) bool {
	for _, key := range p {
		var ok bool
		switch {
		case s.take('{'):
			ok = s.member(key)
		case s.take('['):
			ok = s.element(key)
		}
		if !ok {
			return false
		}
	}
	s.space()
	return true
}

// member goes to the value of a key of the object whose brace was read.
func (s *scanner) member(key []byte) bool {
	for {
		name, ok := s.text()
		if !ok || !s.take(':') {
			return false
		}
		if equal(name, key) {
			return true
		}
		if !s.skip() || !s.take(',') {
			return false
		}
	}
}

// element goes to an element of the array whose bracket was read.
func (s *scanner) element(key []byte) bool {
	n, err := strconv.Atoi(string(key))
	if err != nil || n < 0 || strconv.Itoa(n) != string(key) {
		return false
	}
	for range n {
		if !s.skip() || !s.take(',') {
			return false
		}
	}
	return true
}

// text reads a string and returns what is between its quotes, escapes and all.
func (s *scanner) text() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return s.b[start : s.i-1], true
		case c == '\\':
			s.i++
		case c < ' ':
			return nil, false
		}
		s.i++
	}
	return nil, false
}

// equal compares a raw name with a key; only one with escapes is unquoted.
func equal(raw, key []byte) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return bytes.Equal(raw, key)
	}
	name, ok := unquote(raw)
	return ok && name == string(key)
}

// skip reads over one value.
func (s *scanner) skip() bool {
	s.space()
	if s.i == len(s.b) {
		return false
	}
	switch s.b[s.i] {
	case '"':
		_, ok := s.text()
		return ok
	case '{', '[':
		return s.skipNested()
	}
	start := s.i
	for s.i < len(s.b) && !ends(s.b[s.i]) {
		s.i++
	}
	return scalar(s.b[start:s.i])
}

func (s *scanner) skipNested() bool {
	object := s.b[s.i] == '{'
	closing := byte(']')
	if object {
		closing = '}'
	}
	s.i++
	if s.depth++; s.depth > maxDepth {
		return false
	}
	defer func() { s.depth-- }()
	if s.take(closing) {
		return true
	}
	for {
		if object {
			if _, ok := s.text(); !ok || !s.take(':') {
				return false
			}
		}
		if !s.skip() {
			return false
		}
		if s.take(closing) {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// ends reports whether c ends a number or a word.
func ends(c byte) bool {
	switch c {
	case ',', ']', '}', ' ', '\t', '\r', '\n':
		return true
	}
	return false
}

func scalar(b []byte) bool {
	switch string(b) {
	case "true", "false", "null":
		return true
	}
	return isNumber(b)
}

// number reads the number that is next.
func (s *scanner) number() (float64, bool) {
	start := s.i
	for s.i < len(s.b) && (s.b[s.i] >= '0' && s.b[s.i] <= '9' || s.b[s.i] == '-' || s.b[s.i] == '+' || s.b[s.i] == '.' || s.b[s.i]|0x20 == 'e') {
		s.i++
	}
	b := s.b[start:s.i]
	if !isNumber(b) {
		return 0, false
	}
	if s.i < len(s.b) && !ends(s.b[s.i]) {
		return 0, false
	}
	v, err := strconv.ParseFloat(string(b), 64)
	return v, err == nil
}

// isNumber checks JSON's grammar, which is stricter than strconv's.
func isNumber(b []byte) bool {
	digits := func() bool {
		n := 0
		for len(b) > 0 && b[0] >= '0' && b[0] <= '9' {
			b, n = b[1:], n+1
		}
		return n > 0
	}
	if len(b) > 0 && b[0] == '-' {
		b = b[1:]
	}
	if len(b) > 1 && b[0] == '0' && b[1] >= '0' && b[1] <= '9' || !digits() {
		return false
	}
	if len(b) > 0 && b[0] == '.' {
		b = b[1:]
		if !digits() {
			return false
		}
	}
	if len(b) > 0 && b[0]|0x20 == 'e' {
		b = b[1:]
		if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
			b = b[1:]
		}
		if !digits() {
			return false
		}
	}
	return len(b) == 0
}
