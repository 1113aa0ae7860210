package main

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
)

// By default the outage is half of the time, in the middle, and the kill falls into the middle of it.
func TestDefaultSchedule(t *testing.T) {
	f := func(args string, cut, kill, heal time.Duration) {
		t.Helper()
		o, err := parse(strings.Fields(args), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if o.cutAt() != cut || o.killAt() != kill || o.healAt() != heal {
			t.Errorf("%q: cut at %v, kill at %v, heal at %v", args, o.cutAt(), o.killAt(), o.healAt())
		}
	}
	f("", 10*time.Second, 20*time.Second, 30*time.Second)
	f("--for 60s", 15*time.Second, 30*time.Second, 45*time.Second)
	f("--for 60s --outage 30s", 15*time.Second, 30*time.Second, 45*time.Second)
	f("--for 60s --outage 10s", 25*time.Second, 30*time.Second, 35*time.Second)
	f("--for 10s --outage 0s", 5*time.Second, 5*time.Second, 5*time.Second)
}

// What makes no sense is refused with the flag, the value and what is allowed.
func TestSenselessFlagsAreRefused(t *testing.T) {
	f := func(args, word string) {
		t.Helper()
		_, err := parse(strings.Fields(args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want an error with %q", args, err, word)
		}
	}
	f("--for 1s", "want 4s to 24h")
	f("--for 10s --outage 9s", "80 %")
	f("--outage 1s", "at least 2s")
	f("--rate 0", "--rate 0")
	f("--rate NaN", "--rate")
	f("--sensors 201", "want 1 to 200")
	f("--rate 100000 --for 1h", "50 million")
	f("now", "unexpected argument")
}

// Help names every flag there is and every field of the verdict.
func TestHelpIsComplete(t *testing.T) {
	var out strings.Builder
	if _, err := parse([]string{"--help"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("error = %v", err)
	}
	for _, word := range []string{
		"--for", "--outage", "--rate", "--sensors", "--keep", "--json", "--dir", "published", "acknowledged", "stored",
		"missing", "duplicates", "redelivered", "altered", "unexplained", "caught_up_ms",
	} {
		if !strings.Contains(out.String(), word) {
			t.Errorf("help does not say what %s is", word)
		}
	}
}

// The JSON object has the fields that scripts rely on, also when they are zero, and nothing of the examples.
func TestVerdictAsJSON(t *testing.T) {
	v := oracle.Verdict{CaughtUpMS: 12, Expected: 1}
	v.Examples = []string{"for people"}
	line, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{
		"published", "acknowledged", "stored", "missing", "duplicates",
		"redelivered", "altered", "unexplained", "caught_up_ms", "passed",
	} {
		if _, ok := got[field]; !ok {
			t.Errorf("%s lacks %s", line, field)
		}
	}
	if strings.Contains(string(line), "people") || strings.Contains(string(line), "\n") {
		t.Errorf("%s", line)
	}
}

// The table says PASSED for a clean run alone, and otherwise why not, with examples.
func TestReportSaysWhy(t *testing.T) {
	v := oracle.Verdict{Expected: 10}
	v.Acknowledged, v.Published, v.Stored = 10, 10, 10
	v.Judge()
	if text := report(v); !strings.Contains(text, "PASSED") {
		t.Errorf("%s", text)
	}
	v.Stored, v.Missing, v.Examples = 9, 1, []string{"missing: demo/s-001 number 7"}
	v.Judge()
	text := report(v)
	for _, want := range []string{"FAILED", "1 acknowledged messages are not in the cloud", "demo/s-001 number 7"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}
