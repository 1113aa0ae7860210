package main

import (
	"errors"
	"flag"
	"io"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/scripts/internal/faults"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
)

// Help lists every fault, wrong flags are refused with what is allowed, and all but the control are run unless others are asked for.
func TestFlags(t *testing.T) {
	var out strings.Builder
	if _, err := parse([]string{"--help"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	for _, f := range faults.Suite() {
		if !strings.Contains(out.String(), f.Name) {
			t.Errorf("help lacks %s", f.Name)
		}
	}
	for args, word := range map[string]string{
		"--fault nonsense":      "no fault",
		"--broker zeromq":       "no broker",
		"--broker nats now":     "unexpected argument",
		"--stock --broker nats": "has no JetStream",
		"--rate 0":              "want 1 to",
		"--parallel 9":          "want 1 to 8",
	} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", args, err)
		}
	}
	o, err := parse(nil, io.Discard)
	if err != nil || len(o.faults) != len(faults.Suite())-1 || !o.control {
		t.Errorf("%d faults, control %v: %v", len(o.faults), o.control, err)
	}
	if o, err = parse([]string{"--fault", "outbox-deleted"}, io.Discard); err != nil || len(o.faults) != 1 || o.control {
		t.Errorf("%d faults, control %v: %v", len(o.faults), o.control, err)
	}
}

// A fault passes only when every count is as it must be and the alarms are those that it calls for; a control only when something is missing.
func TestJudge(t *testing.T) {
	clone := faults.Fault{Must: []string{"clone"}, May: []string{"went-back"}}
	good := row{Acknowledged: 100, Publishing: 1, Alarms: map[string]uint64{"clone": 1, "went-back": 1}}
	r := good
	if r.judge(clone, 100); !r.Passed {
		t.Fatalf("%q", r.Faults)
	}
	for word, spoil := range map[string]func(*row){
		"not in the cloud":   func(r *row) { r.Missing = 1 },
		"there twice":        func(r *row) { r.Doubled = 1 },
		"not what was":       func(r *row) { r.Altered = 1 },
		"nobody says why":    func(r *row) { r.Unexplained = 1 },
		"less than 90 %":     func(r *row) { r.Acknowledged = 89 },
		`no alarm "clone"`:   func(r *row) { r.Alarms = nil },
		"nothing called for": func(r *row) { r.Alarms = map[string]uint64{"clone": 1, "hole": 1} },
	} {
		r := good
		spoil(&r)
		if r.judge(clone, 100); r.Passed || !strings.Contains(strings.Join(r.Faults, "\n"), word) {
			t.Errorf("%s: passed %v, %q", word, r.Passed, r.Faults)
		}
	}
	found, fooled := row{Missing: 3}, row{}
	found.judge(faults.Fault{Control: true}, 100)
	fooled.judge(faults.Fault{Control: true}, 100)
	if !found.Passed || fooled.Passed {
		t.Errorf("a control that lost something: %v; one that did not: %v", found.Passed, fooled.Passed)
	}
}

// What an earlier fault left is not counted again, and what became worse since is.
func TestAddTakesWhatIsNew(t *testing.T) {
	var r row
	f := &fleet{before: oracle.Findings{Published: 10, Acknowledged: 10, Stored: 9, Missing: 1}}
	r.add(oracle.Findings{Published: 10, Acknowledged: 10, Stored: 8, Missing: 2, Examples: []string{"number 7"}}, f)
	if r.Published != 0 || r.Stored != 0 || r.Missing != 1 || len(r.Examples) != 1 {
		t.Fatalf("%+v", r)
	}
}

// A run in which every broker was skipped has not passed, nor has one whose broker carried too little.
func TestRunThatShowsNothingHasNotPassed(t *testing.T) {
	skipped := result{Brokers: []brokerResult{{Broker: "kafka", Skipped: "not installed"}}}
	idle := result{Brokers: []brokerResult{{Broker: "nats", Rows: []row{{Passed: true, Acknowledged: 5}}}}}
	for _, r := range []*result{&skipped, &idle} {
		if r.judge(10); r.Passed || !strings.Contains(report(*r), "FAILED") {
			t.Errorf("%+v", r)
		}
	}
}
