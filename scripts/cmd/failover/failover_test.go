package main

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
)

// With twenty-five faults a seed, three seeds in a row have every kind, wherever they begin; and without a number each kind comes once.
func TestThreeSeedsDrawEveryKind(t *testing.T) {
	kinds := faults.All()
	if len(kinds) > 75 {
		t.Fatalf("%d kinds do not fit into three seeds", len(kinds))
	}
	for first := range uint64(200) {
		seen := map[string]bool{}
		for seed := first; seed < first+3; seed++ {
			drawn := draw(kinds, 25, seed, rand.New(rand.NewPCG(seed, 0)))
			if len(drawn) != 25 {
				t.Fatalf("seed %d draws %d", seed, len(drawn))
			}
			for _, f := range drawn {
				seen[f.Name] = true
			}
		}
		if len(seen) != len(kinds) {
			t.Fatalf("seeds from %d draw %d of %d kinds", first, len(seen), len(kinds))
		}
	}
	once := map[string]int{}
	for _, f := range draw(kinds, 0, 5, rand.New(rand.NewPCG(5, 0))) {
		once[f.Name]++
	}
	for _, f := range kinds {
		if once[f.Name] != 1 {
			t.Errorf("%s is drawn %d times", f.Name, once[f.Name])
		}
	}
	if n := len(draw(kinds, 2*len(kinds)+3, 5, rand.New(rand.NewPCG(5, 0)))); n != 2*len(kinds)+3 {
		t.Errorf("%d are drawn", n)
	}
}

// The same seed draws the same faults in the same order.
func TestSeedDecidesTheOrder(t *testing.T) {
	names := func(seed uint64) (s string) {
		for _, f := range draw(faults.All(), 30, seed, rand.New(rand.NewPCG(seed, 0))) {
			s += f.Name + " "
		}
		return s
	}
	first, again := names(3), names(3)
	if first != again || first == names(4) {
		t.Fatalf("%s\n%s\n%s", first, again, names(4))
	}
}

// A run passes only when every count is as it must be, and each that is not says why.
func TestJudge(t *testing.T) {
	good := roundResult{tally: tally{Published: 100, Acknowledged: 100, Stored: 100, Due: 100, Redelivered: 3, Lost: 2}}
	good.judge(nil)
	if !good.Passed {
		t.Fatalf("%q", good.Wrong)
	}
	for word, spoil := range map[string]func(*roundResult){
		"not in the cloud":  func(r *roundResult) { r.Missing = 1 },
		"there twice":       func(r *roundResult) { r.Doubled = 1 },
		"not what was":      func(r *roundResult) { r.Altered = 1 },
		"nobody says why":   func(r *roundResult) { r.Unexplained = 1 },
		"called lost":       func(r *roundResult) { r.FalseGaps = 1 },
		"were acknowledged": func(r *roundResult) { r.Acknowledged = 80 },
		"agent-killed: no":  func(r *roundResult) { r.Faults = []row{{Fault: "agent-killed", Broken: "no frame"}} },
	} {
		r := roundResult{tally: good.tally}
		spoil(&r)
		r.judge(nil)
		if r.Passed || !strings.Contains(strings.Join(r.Wrong, "\n"), word) {
			t.Errorf("%s: passed %v, %q", word, r.Passed, r.Wrong)
		}
	}
}

// A control is found out only by messages that are missing; one that failed otherwise shows nothing, and one that passed is a failure.
func TestStatusOfAControl(t *testing.T) {
	lost := []roundResult{{tally: tally{Missing: 5}}}
	for _, c := range []struct {
		r    result
		want int
	}{
		{result{Passed: true}, passed},
		{result{Rounds: lost}, failed},
		{result{Rounds: []roundResult{{}}}, failed},
		{result{Control: deleteOnPublish, Rounds: lost}, passed},
		{result{Control: deleteOnPublish, Rounds: []roundResult{{}}}, notPlayed},
		{result{Control: deleteOnPublish, Passed: true}, failed},
	} {
		if got := c.r.status(); got != c.want {
			t.Errorf("%+v: status %d, want %d", c.r, got, c.want)
		}
	}
}

// An alarm that must be raised and was not is wrong, and so is one that nothing called for.
func TestAlarmsAreJudged(t *testing.T) {
	f := faults.Fault{Must: []string{"clone"}, May: []string{"went-back"}}
	if err := (&row{Alarms: map[string]uint64{"clone": 1, "went-back": 2}}).judge(f); err != nil {
		t.Error(err)
	}
	if err := (&row{Alarms: map[string]uint64{"went-back": 2}}).judge(f); err == nil {
		t.Error("a clone without its alarm passes")
	}
	if err := (&row{Alarms: map[string]uint64{"clone": 1, "hole": 1}}).judge(f); err == nil {
		t.Error("an alarm out of nowhere passes")
	}
}

// JUnit has a case for each fault, each count and each kind that was skipped, and knows which failed.
func TestJUnit(t *testing.T) {
	text, err := junit(result{Seed: 4, Skipped: []skip{{"database-stopped", "no PostgreSQL"}}, Rounds: []roundResult{{
		Number: 1, Faults: []row{{Fault: "agent-killed"}, {Fault: "uplink-cut", Missing: 2}}, Wrong: []string{"2 messages & more"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var s suites
	if err := xml.Unmarshal(text, &s); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if got := s.Suites[0]; got.Tests != 4 || got.Failures != 2 || got.Skipped != 1 || len(got.Cases) != 4 {
		t.Fatalf("%s", text)
	}
}

// On a cluster the flags that its program has too are handed on, with what follows --, and others are refused.
func TestFlagsForACluster(t *testing.T) {
	o, err := parse(strings.Fields("--kubeconfig k --only edge-pod,cut --rate 50 -- --cut ./cut.sh"), io.Discard)
	if got := strings.Join(o.cluster, " "); err != nil || o.kubeconfig != "k" || got != "--only edge-pod,cut --rate 50 --cut ./cut.sh" {
		t.Errorf("%q: %v", got, err)
	}
	if _, err := parse(strings.Fields("--kubeconfig k --seed 3"), io.Discard); err == nil || !strings.Contains(err.Error(), "--seed") {
		t.Errorf("%v", err)
	}
}

// Wrong flags are refused with what is allowed, and the list names every kind.
func TestFlags(t *testing.T) {
	for args, word := range map[string]string{
		"--only nonsense":                      "no fault",
		"--faults -1":                          "want 1 to",
		"--faults 3 --for 1h":                  "one of them",
		"--store oracle":                       "auto, sqlite or postgres",
		"--broker zeromq":                      "no broker",
		"--rate 1":                             "want 10 to",
		"--control other":                      "there is delete-on-publish",
		"--control delete-on-publish --for 1h": "faults of its own",
		"--peers kafka":                        "there are holdfast, mosquitto,",
		"--peers all --faults 3":               "faults of its own",
		"now":                                  "unexpected argument",
	} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", args, err)
		}
	}
	if _, err := parse([]string{"--help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
	for _, f := range faults.All() {
		if !strings.Contains(catalogue(), f.Name) {
			t.Errorf("the list lacks %s", f.Name)
		}
	}
}

// A comparison has a column for what each system lost, a dash for what was not played, and fails by Holdfast alone.
func TestPeersReport(t *testing.T) {
	lossy := systemResult{System: "mosquitto", About: "a bridge", Rows: []peerRow{{Fault: "uplink-cut", Acknowledged: 2000, Missing: 1001, Doubled: 2}}, Wrong: "it did not start again"}
	whole := systemResult{System: "holdfast", Rows: []peerRow{{Fault: "uplink-cut", Acknowledged: 2000}, {Fault: "power-cut", Skipped: "no such disk"}}}
	text := peersReport(peersResult{Systems: []systemResult{whole, lossy, {System: "nats", Skipped: "not built"}}})
	for _, want := range []string{"0 of 2 000", "1 001 of 2 000, 2 twice", "SKIP: not built", "ended early: it did not start again"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	if !whole.whole() || lossy.whole() || (systemResult{Skipped: "not installed"}).whole() {
		t.Error("a system that lost, ended early or was not run counts as whole")
	}
}
