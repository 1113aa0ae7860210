package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// Passes, skips with their reasons, and failures are told apart; a failing package is counted once with its test.
func TestEventsAreCounted(t *testing.T) {
	const stream = `
{"Action":"run","Package":"github.com/holdfast-edge/holdfast/x","Test":"TestA"}
{"Action":"pass","Package":"github.com/holdfast-edge/holdfast/x","Test":"TestA"}
{"Action":"output","Package":"github.com/holdfast-edge/holdfast/x","Test":"TestB","Output":"    b_test.go:7: the program redis-server is not installed\n"}
{"Action":"skip","Package":"github.com/holdfast-edge/holdfast/x","Test":"TestB"}
{"Action":"output","Package":"github.com/holdfast-edge/holdfast/x","Test":"TestC","Output":"    c_test.go:9: got 1\n"}
{"Action":"fail","Package":"github.com/holdfast-edge/holdfast/x","Test":"TestC"}
{"Action":"fail","Package":"github.com/holdfast-edge/holdfast/x"}
{"ImportPath":"github.com/holdfast-edge/holdfast/y [y.test]","Action":"build-output","Output":"undefined: nonsense\n"}
{"ImportPath":"github.com/holdfast-edge/holdfast/y [y.test]","Action":"build-fail"}
{"Action":"fail","Package":"github.com/holdfast-edge/holdfast/y","FailedBuild":"github.com/holdfast-edge/holdfast/y [y.test]"}
{"Action":"skip","Package":"github.com/holdfast-edge/holdfast/z"}
`
	var r result
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r.read(strings.NewReader(strings.TrimSpace(stream)), term.New(null), false)
	if r.passed != 1 || r.skipped != 1 || r.failed != 2 {
		t.Fatalf("counted %+v", r)
	}
	text, ok := summary([]result{r}, time.Second)
	for _, want := range []string{"SKIP the program redis-server is not installed (1)", "x.TestC", "FAIL: 1 passed, 2 failed, 1 skipped"} {
		if !strings.Contains(text, want) {
			t.Errorf("the summary lacks %q:\n%s", want, text)
		}
	}
	if ok {
		t.Error("a failed run passed")
	}
}

// Modules are chosen by folder, with or without a dot or slash; an unknown one is an error that lists them.
func TestModulesAreChosen(t *testing.T) {
	root := "../../.."
	all, err := plan(root, options{})
	if err != nil || len(all) < 6 {
		t.Fatalf("all: %d suites, %v", len(all), err)
	}
	one, err := plan(root, options{modules: []string{"./scripts/"}})
	if err != nil || len(one) != 1 || one[0].name != "scripts" {
		t.Fatalf("one: %+v, %v", one, err)
	}
	if _, err := plan(root, options{modules: []string{"nonsense"}}); err == nil || !strings.Contains(err.Error(), "cloud-api") {
		t.Fatalf("unknown: %v", err)
	}
}
