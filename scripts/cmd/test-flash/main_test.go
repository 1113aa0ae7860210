package main

import (
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
)

// What makes no sense is refused with what is wrong, before anything is built.
func TestSenselessFlagsAreRefused(t *testing.T) {
	f := func(args, word string) {
		t.Helper()
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want %q", args, err, word)
		}
	}
	f("--only load,thunder", "thunder")
	f("more", "unexpected argument")
	f("--package a_1_arm64.deb", "go together")
	f("--seed x", "seed")
}

// Help names every case.
func TestHelpNamesEveryCase(t *testing.T) {
	var out strings.Builder
	if _, err := parse([]string{"--help"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("error = %v", err)
	}
	for _, c := range cases {
		if !strings.Contains(out.String(), "\n  "+c.name+" ") {
			t.Errorf("help lacks %s", c.name)
		}
		if o, err := parse([]string{"--only", c.name}, io.Discard); err != nil || len(o.only) != 1 {
			t.Errorf("--only %s: %v, %v", c.name, o.only, err)
		}
	}
}

// A case that failed is marked, and a run that failed never says that it passed.
func TestResultForPeople(t *testing.T) {
	r := result{Cases: []caseResult{{Case: "load", Passed: true, Findings: oracle.Findings{Acknowledged: 1234}}, {Case: "offline"}}}
	text := r.String()
	if strings.Contains(text, "PASSED") || !strings.Contains(text, "FAILED after") || strings.Count(text, "FAILED") != 2 || !strings.Contains(text, "1 234") {
		t.Errorf("failed: %s", text)
	}
	r.Passed = true
	if text := r.String(); !strings.Contains(text, "PASSED in") {
		t.Errorf("passed: %s", text)
	}
}

// The package's README has the commands that the case by-hand follows, whole and nothing else.
func TestCommandsOfTheREADME(t *testing.T) {
	text, err := os.ReadFile("../../../edge-agent/packaging/README.md")
	if err != nil {
		t.Fatal(err)
	}
	got := block(string(text), "By hand, a node")
	if !strings.HasPrefix(got, "sudo edge-agent user add ") || !strings.Contains(got, "\nsudo systemctl restart holdfast-agent holdfast-sidecar\nsync ") ||
		!strings.Contains(got, "\nEND\n") || strings.Contains(got, "\n ") {
		t.Errorf("%s", got)
	}
}
