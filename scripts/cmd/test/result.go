package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// result is what a suite said.
type result struct {
	suite                   string
	passed, failed, skipped int
	took                    time.Duration
	reasons                 map[string][]string // why, and which tests were skipped
	failures                []string
}

// event is one line of go test -json.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string

	ImportPath  string // of build-output, instead of Package
	FailedBuild string // of a package's fail: the ImportPath that did not compile
}

// read counts the events and prints the output of tests and packages that
// failed, when they are over.
func (r *result) read(out io.Reader, screen *term.Screen, verbose bool) {
	output := map[[2]string]*strings.Builder{}
	for s := newScanner(out); s.Scan(); {
		var e event
		if json.Unmarshal(s.Bytes(), &e) != nil {
			screen.Print(s.Text() + "\n") // not from a test: the toolchain's own words
			continue
		}
		key := [2]string{e.Package, e.Test}
		if e.Action == "build-output" {
			key, e.Action = [2]string{e.ImportPath}, "output"
		}
		if e.Action == "output" {
			if verbose {
				screen.Print(e.Output)
			}
			if output[key] == nil {
				output[key] = &strings.Builder{}
			}
			output[key].WriteString(e.Output)
			continue
		}
		text := ""
		if b := output[key]; b != nil {
			text = b.String()
		}
		if b := output[[2]string{e.FailedBuild}]; e.FailedBuild != "" && b != nil {
			text += b.String()
		}
		r.count(e, text, screen)
		if e.Action == "pass" || e.Action == "skip" || e.Action == "fail" {
			delete(output, key)
		}
	}
}

func (r *result) count(e event, output string, screen *term.Screen) {
	switch e.Action {
	case "pass":
		if e.Test != "" {
			r.passed++
		}
	case "skip":
		if e.Test != "" { // a package without tests is skipped too
			r.skipped++
			r.skip(shortName(e), reason(output))
		}
	case "fail":
		name := shortName(e)
		// A parent fails because of its subtests, a package because of its
		// tests: they are told already.
		if e.Test == "" && slices.ContainsFunc(r.failures, func(f string) bool { return strings.HasPrefix(f, name+".") }) {
			return
		}
		r.failed++
		r.failures = append(r.failures, name)
		screen.Print(fmt.Sprintf("FAIL %s\n%s", name, output))
	}
}

func (r *result) skip(test, why string) {
	if r.reasons == nil {
		r.reasons = map[string][]string{}
	}
	r.reasons[why] = append(r.reasons[why], test)
}

func (r *result) line() string {
	state := "ok  "
	switch {
	case r.failed > 0:
		state = "FAIL"
	case r.passed == 0 && len(r.reasons) > 0:
		state = "SKIP"
	}
	return fmt.Sprintf("%s %-34s %5d passed, %2d failed, %2d skipped  %6.1f s", state, r.suite, r.passed, r.failed, r.skipped, r.took.Seconds())
}

// shortName leaves the module's path out: internal/outbox.TestName.
func shortName(e event) string {
	name := strings.TrimPrefix(e.Package, "github.com/holdfast-edge/holdfast/")
	if e.Test != "" {
		name += "." + e.Test
	}
	return name
}

// atLine is how the testing package begins what t.Skip was given.
var atLine = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)`)

// reason finds the words given to t.Skip.
func reason(output string) string {
	why := "no reason given"
	for line := range strings.Lines(output) {
		if m := atLine.FindStringSubmatch(line); m != nil {
			why = strings.TrimSpace(m[1])
		}
	}
	return why
}

// summary is the end of the output, and whether everything passed.
func summary(results []result, took time.Duration) (string, bool) {
	var b strings.Builder
	var sum result
	reasons := map[string]int{}
	for _, r := range results {
		sum.passed += r.passed
		sum.failed += r.failed
		sum.skipped += r.skipped
		for why, tests := range r.reasons {
			reasons[why] += len(tests)
		}
		for _, f := range r.failures {
			sum.failures = append(sum.failures, r.suite+": "+f)
		}
	}
	b.WriteString("\n")
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(&b, "SKIP %s (%d)\n", why, reasons[why])
	}
	for _, f := range sum.failures {
		fmt.Fprintf(&b, "FAIL %s\n", f)
	}
	word := "PASS"
	if sum.failed > 0 {
		word = "FAIL"
	}
	fmt.Fprintf(&b, "%s: %d passed, %d failed, %d skipped in %d suites, %.0f s\n",
		word, sum.passed, sum.failed, sum.skipped, len(results), took.Seconds())
	return b.String(), sum.failed == 0
}

// newScanner takes lines of up to 16 MiB: a test may print a whole payload.
func newScanner(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 16<<20)
	return s
}
