package main

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// The elements of a JUnit report that servers read.
type (
	suites struct {
		XMLName xml.Name `xml:"testsuites"`
		Suites  []suite  `xml:"testsuite"`
	}
	suite struct {
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Time     string     `xml:"time,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	testcase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		Time    string   `xml:"time,attr"`
		Failure *message `xml:"failure,omitempty"`
		Skipped *message `xml:"skipped,omitempty"`
		Output  string   `xml:"system-out,omitempty"`
	}
	message struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// junit returns the result with a case for each fault, one for each count and one
// for each kind that was skipped.
func junit(r result) ([]byte, error) {
	s := suite{Name: fmt.Sprintf("failover seed %d over %s and %s", r.Seed, r.Broker, r.Store), Time: seconds(r.Seconds)}
	for _, round := range r.Rounds {
		class := fmt.Sprintf("failover.round-%d", round.Number)
		for i, f := range round.Faults {
			c := testcase{Class: class, Name: fmt.Sprintf("%02d %s", i+1, f.Fault), Time: seconds(f.Lasted + f.Recovered), Output: f.Evidence}
			if f.Broken != "" || f.Missing > 0 {
				c.Failure = &message{fmt.Sprintf("%d messages missing %s", f.Missing, f.Broken), f.Broken}
			}
			s.Cases = append(s.Cases, c)
		}
		c := testcase{Class: class, Name: "count", Time: seconds(0), Output: fmt.Sprintf("%+v", round.tally)}
		if !round.Passed {
			c.Failure = &message{strings.Join(round.Wrong, "; "), strings.Join(round.Examples, "\n")}
		}
		s.Cases = append(s.Cases, c)
	}
	for _, k := range r.Skipped {
		s.Cases = append(s.Cases, testcase{Class: "failover.skipped", Name: k.Fault, Time: seconds(0), Skipped: &message{Message: k.Why}})
	}
	s.Tests, s.Skipped = len(s.Cases), len(r.Skipped)
	for _, c := range s.Cases {
		if c.Failure != nil {
			s.Failures++
		}
	}
	text, err := xml.MarshalIndent(suites{Suites: []suite{s}}, "", "  ")
	return append([]byte(xml.Header), text...), err
}

func seconds(s float64) string { return fmt.Sprintf("%.3f", s) }
