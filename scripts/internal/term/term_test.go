package term

import (
	"strings"
	"testing"
	"time"
)

// Where lines cannot be drawn over, a status prints nothing and an event one plain line.
func TestPlainOutputHasNoControlCharacters(t *testing.T) {
	var out strings.Builder
	s := &Screen{out: &out, start: time.Now()}
	s.Status("busy")
	s.Event("cut %d", 1)
	s.Print("table\n")
	if out.String() != "   0.0 s  cut 1\ntable\n" {
		t.Fatalf("%q", out.String())
	}
}

// On a terminal an event goes above the status line, which stays last.
func TestEventsGoAboveTheStatus(t *testing.T) {
	var out strings.Builder
	s := &Screen{out: &out, tty: true, start: time.Now()}
	s.Status("busy")
	s.Event("cut")
	if want := "busy\r\x1b[K   0.0 s  cut\nbusy"; out.String() != want {
		t.Fatalf("%q, want %q", out.String(), want)
	}
}

// Long numbers are readable.
func TestCountGroupsDigits(t *testing.T) {
	f := func(n int, want string) {
		t.Helper()
		if got := Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
	f(0, "0")
	f(999, "999")
	f(1000, "1 000")
	f(1234567, "1 234 567")
	f(-123456, "-123 456")
}
